"""Training as a stage of its own, one per objective: it runs when what it reads has changed, and not when another
method has.
"""

import math
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from torch import Tensor

from traitscope.extraction.training.course import Learned, Start, finite
from traitscope.extraction.training.job import TOLD, Job
from traitscope.extraction.training.loop import learn, learn_all, open_passes
from traitscope.extraction.training.options import TextOptions, TrainOptions
from traitscope.extraction.training.texts import Texts
from traitscope.extraction.training.told import added_by_telling
from traitscope.extraction.training.tracking import TRACK_HELP, require_trackers, told_of
from traitscope.utils.errors import UserError
from traitscope.utils.files.journal import key_of
from traitscope.utils.files.paths import FIT, SIDES, TraitPaths, question_pool
from traitscope.utils.files.reading import digest, is_there
from traitscope.utils.measures.separation import describe_vector
from traitscope.utils.model.generation import Sampling
from traitscope.utils.model.loading import LM, ModelOptions
from traitscope.utils.model.upper import UpperPart
from traitscope.utils.records.activations import fitted_sides, read_fitted_on
from traitscope.utils.records.chats import chats_file, is_ours
from traitscope.utils.records.dataset_files import dataset_files
from traitscope.utils.records.imported import write_imported
from traitscope.utils.records.scores import Thresholds
from traitscope.utils.records.trained import (
    METHOD_OF,
    OBJECTIVES,
    Training,
    Tried,
    read_training,
    write_training,
)
from traitscope.utils.stage.flags import Flag, bind
from traitscope.utils.stage.stage import Stage, only_one

_WRITING = tuple(field.name for field in fields(Sampling))
_LEARNING = tuple(field.name for field in fields(TrainOptions))
WITHOUT_EFFECT = {  # objective → flags that do nothing there: to change one trains nothing again
    "nll": _WRITING,
    "pref": (*_WRITING, "train_opposite"),
    "distill": ("train_opposite", "opposite"),
    "delta": _LEARNING,
}


def training_stage(objective: str) -> Stage:
    """Return the stage that trains with an objective.

    Raises:
        UserError: there is no such objective.
    """
    if objective not in OBJECTIVES:
        raise UserError(f"unknown objective {objective!r}; choose {', '.join(OBJECTIVES)}")

    def train(
        paths: TraitPaths,
        *,
        model: ModelOptions,
        training: TrainOptions,
        thresholds: Thresholds,
        sampling: Sampling,
        texts: TextOptions,
        no_vet: Annotated[bool, "Use every response, whatever its score."] = False,
        track: Annotated[tuple[str, ...], TRACK_HELP] = (),
    ) -> dict:
        training.check()
        require_trackers(track)
        job = Job(paths, objective, training, sampling, thresholds, no_vet, texts, track)
        return add_vectors(job, model) if objective == "delta" else train_vectors(job, model)

    def ahead(targets: Sequence[TraitPaths], params: dict[str, Any]) -> None:
        if params["traits_a_pass"] < 2 or params["track"]:  # a tracker follows one trait
            return
        given = bind(train, params)
        model, given["given"] = given.pop("model"), given.pop("texts")
        train_ahead([Job(paths, objective, **given) for paths in targets], model)

    inputs, outputs = partial(_inputs, objective), partial(_outputs, METHOD_OF[objective])
    return Stage(
        name=f"train_{objective}",
        run=train,
        inputs=inputs,
        outputs=outputs,
        cosmetic=(*WITHOUT_EFFECT[objective], "track"),
        only_with={"score_column": "texts_from"},
        ahead=None if objective == "delta" else ahead,
    )


def require_own_texts(settings: dict[str, Any], targets: Sequence[TraitPaths]) -> None:
    """Raise UserError where one file of texts would be learnt as several traits."""
    if settings.get("texts_from") and len(targets) > 1:
        raise UserError(
            f"--from {settings['texts_from']} shows one trait, and {len(targets)} are to be trained; name one with "
            "--traits"
        )


def training_flags() -> dict[str, Flag]:
    """Return the flags of training, which every objective shares."""
    return training_stage(OBJECTIVES[0]).flags


def train_vectors(job: Job, model: ModelOptions) -> dict:
    """Train a vector at every layer asked for, and write those with the lowest validation loss.

    Raises:
        UserError: there are too few texts, the model is not the one that was read, or nothing was learnt.
    """
    training, starts = job.training, job.starts
    lm = job.load(model)
    texts = job.texts(lm)

    with told_of(job.track, job.paths, job.stage, asdict(training)) as trackers:
        task = job.task(texts, trackers.look)
        learned = learn(open_passes(_upper_part(lm, starts), [task], training), task, training)
        kept = choose(learned)
        trackers.keep(kept)
    record = {
        "plain_loss": learned[0].plain_loss,
        "tried": [_tried(v, is_kept=v in kept) for v in learned],  # by identity
        "seeds_agree": {str(v.start.layer): _agreement(v, learned) for v in kept},
    }
    said = {v.start.layer: _said(v, texts) for v in kept}
    _write(job, {v.start.layer: v.values for v in kept}, said, texts, record)
    return _summary(kept, texts)


def train_ahead(jobs: Sequence[Job], model: ModelOptions) -> None:
    """Train several traits in the same passes, as many at a time as asked for, into their journals: from there each
    trait's own run finds all its steps taken.

    A trait that cannot be trained is left to its own run, which says why.
    """
    size = jobs[0].training.traits_a_pass if jobs else 1
    for first in range(0, len(jobs), size):
        if len(part := jobs[first : first + size]) > 1:
            _train_together(part, model)


def _train_together(jobs: Sequence[Job], model: ModelOptions) -> None:
    with ExitStack() as held:
        tasks = []
        for job in jobs:
            with suppress(UserError):
                held.enter_context(only_one(job.stage, job.paths))
                starts, lm = job.starts, job.load(model)
                tasks.append(job.task(job.texts(lm)))
        if len(tasks) < 2:
            return
        starts = [start for task in tasks for start in task.starts]
        passes = open_passes(_upper_part(lm, starts), tasks, jobs[0].training)
        learn_all(passes, tasks, jobs[0].training, f"{jobs[0].stage}, {len(tasks)} traits together")


def _upper_part(lm: LM, starts: Sequence[Start]) -> UpperPart:
    return UpperPart.of(lm, min(start.layer for start in starts))


def add_vectors(job: Job, model: ModelOptions) -> dict:
    """Write, at every layer, what an instruction adds to the states at the same response tokens.

    Raises:
        UserError: there are too few texts, or the model is not the one that was read.
    """
    lm = job.load(model)
    texts = job.texts(lm)
    added = added_by_telling(lm, texts.train)
    _write(job, dict(enumerate(added)), {}, texts, {"plain_loss": None, "tried": []})
    return {"vectors": len(added), "texts": len(texts.train), **texts.fates}


def choose(learned: Sequence[Learned]) -> list[Learned]:
    """Return one vector a layer: of the learning rate with the lowest validation loss over its seeds, the seed with
    the lowest. A rate of which a seed was lost, because its loss was not finite, comes after those that lost none.

    Raises:
        UserError: none of a layer's vectors learnt anything.
    """
    kept = []
    for layer in sorted({v.start.layer for v in learned}):
        here = [v for v in learned if v.start.layer == layer]
        able = [v for v in here if v.values.any() and math.isfinite(v.course.best_loss)]
        if not able:
            raise UserError(
                f"nothing was learnt at layer {layer}; try other --learning-rates, or more --steps"
            )

        def merit(rate: float, here: list[Learned] = here, able: list[Learned] = able) -> tuple[int, float]:
            losses = [v.course.best_loss for v in able if v.start.learning_rate == rate]
            lost = sum(v.start.learning_rate == rate for v in here) - len(losses)
            return lost, sum(losses) / len(losses)

        best = min(dict.fromkeys(v.start.learning_rate for v in able), key=merit)
        kept.append(min((v for v in able if v.start.learning_rate == best), key=lambda v: v.course.best_loss))
    return kept


def _write(
    job: Job, vectors: dict[int, Tensor], said: dict[int, dict], texts: Texts, record: dict[str, Any]
) -> None:
    """Write vectors {layer: [d_model]}, measured on what stage 4 held out, and how they came about.

    Args:
        said: {layer: what its vector says of how it was learnt}.
        record: The columns of `Training` but for those of every method.
    """
    made_by = {"stage": job.stage, "model": job.captured.about.made_by["model"]}
    layers = sorted(vectors)
    training = Training(
        trait=job.paths.trait,
        method=job.method,
        objective=job.objective,
        made_by=made_by,
        options=asdict(job.training),
        texts=texts.as_json(),
        source=texts.source,
        layers=layers,
        **record,
    )

    origin = {
        "file": f"{job.method}.json",
        "sha256": key_of([vectors[layer].tolist() for layer in layers]),
        "format": "trained",
        "made_by": f"traitscope, {job.stage}",
        "activations": digest(
            job.paths.activations_metadata
        ),  # with their split: of others, it is trained again
    }
    about = {"made_by": made_by, "component": "residual", "position": None}
    about["activations_sha256"] = job.captured.about.sha256

    with only_one(FIT, job.paths, wait=True):  # both write into the trait's vectors
        fitted_on, measured = read_fitted_on(job.paths), {}  # as stage 4 has left it by now
        for layer in layers:
            acts = {key: a[:, 0] for key, a in fitted_sides(job.captured, fitted_on, [layer]).items()}
            own = {"origin": origin | {"said": said.get(layer, {})}}
            measured[layer] = vectors[layer], about | own | describe_vector(vectors[layer], acts)
        write_imported(job.paths, job.method, measured)
    write_training(job.paths, training)


def _tried(v: Learned, *, is_kept: bool) -> Tried:
    course = v.course
    norm = float(v.values.norm())
    return Tried(
        layer=v.start.layer,
        learning_rate=v.start.learning_rate,
        seed=v.start.seed,
        is_kept=is_kept,
        norm=norm,
        dose=norm / v.start.mean_norm,
        best_step=course.best_step,
        best_loss=finite(course.best_loss),
        tokens_seen=course.tokens_seen,
        ended=course.ended,
        losses=[(step, finite(trained), finite(loss)) for step, trained, loss in course.losses],
    )


def _agreement(kept: Learned, learned: Sequence[Learned]) -> list[float]:
    """Return the cosines between the vectors of a layer and learning rate that differ by their seed alone."""
    start = kept.start
    same = [
        v.values / v.values.norm()
        for v in learned
        if (v.start.layer, v.start.learning_rate) == (start.layer, start.learning_rate) and v.values.any()
    ]
    return [round(float(a @ b), 6) for i, a in enumerate(same) for b in same[i + 1 :]]


def _said(v: Learned, texts: Texts) -> dict[str, Any]:
    """Return what a vector says of how it was learnt."""
    return {
        "learning_rate": v.start.learning_rate,
        "seed": v.start.seed,
        "best_step": v.course.best_step,
        "validation_loss": round(v.course.best_loss, 6),
        "plain_loss": round(v.plain_loss, 6),
        "tokens_seen": v.course.tokens_seen,
        **({"texts_from": texts.source["file"]} if texts.source else {}),
        **v.settings,
    }


HIGHER = "higher than the unsteered model's: see what stage 5 says before it is used"


def _summary(kept: Sequence[Learned], texts: Texts) -> dict:
    best = min(kept, key=lambda v: v.course.best_loss)
    return {
        "vectors": len(kept),
        "texts": len(texts.train),
        "left over": len(texts.left),
        **texts.fates,
        "validation loss": f"{best.plain_loss:.3f} → {best.course.best_loss:.3f} (layer {best.start.layer})",
        **({"note": HIGHER} if best.course.best_loss >= best.plain_loss else {}),
    }


def _inputs(objective: str, paths: TraitPaths, params: dict) -> list[Path]:
    pool, given = question_pool(paths.root), params["texts_from"]
    asked = [*dataset_files(paths), *([pool] if pool.is_relative_to(paths.root) else [])]
    best = [paths.fitted_on] if params["train_layers"] == "best" else []
    responses = [paths.responses(side) for side in SIDES]
    if given:
        file = chats_file(given)
        return [*([file] if is_ours(file) else []), *responses, *asked, *best, paths.activations_metadata]

    own = [] if params["no_vet"] else [paths.response_scores]
    return [*responses, *own, *(asked if objective in TOLD else []), *best, paths.activations_metadata]


def _outputs(method: str, paths: TraitPaths, params: dict) -> list[Path]:
    file = paths.training(method)
    layers = read_training(paths, method).layers if is_there(file) else []
    return [
        file,
        *(place(method, layer) for layer in layers for place in (paths.vector, paths.vector_metadata)),
    ]
