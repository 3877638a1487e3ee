"""Training as a stage of its own, one per objective: it runs when what it reads has changed, and not when another
method has.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any

from torch import Tensor

from traitscope.extraction.training.learning import Learned, Start, finite, learn
from traitscope.extraction.training.objectives import (
    LikelyText,
    Objective,
    PreferredAnswer,
    ToldModel,
    pair_up,
)
from traitscope.extraction.training.options import TrainOptions
from traitscope.extraction.training.rows import Passes
from traitscope.extraction.training.texts import LEAST, Texts, fill_budgets
from traitscope.extraction.training.told import added_by_telling, told_texts
from traitscope.utils.errors import UserError
from traitscope.utils.files.journal import Journal, key_of
from traitscope.utils.files.paths import CAPTURE, FIT, SIDES, TraitPaths, question_pool
from traitscope.utils.files.reading import digest, is_there
from traitscope.utils.measures.separation import describe_vector
from traitscope.utils.model.generation import Sampling
from traitscope.utils.model.loading import LM, ModelOptions, load_lm
from traitscope.utils.model.upper import UpperPart
from traitscope.utils.records.activations import (
    ActivationsAbout,
    Captured,
    fitted_sides,
    read_captured,
    read_fitted_on,
)
from traitscope.utils.records.dataset_files import dataset_files
from traitscope.utils.records.imported import write_imported
from traitscope.utils.records.own_texts import own_texts
from traitscope.utils.records.ranking import best_held_out
from traitscope.utils.records.scores import Thresholds
from traitscope.utils.records.trained import (
    METHOD_OF,
    OBJECTIVES,
    Training,
    Tried,
    read_training,
    write_training,
)
from traitscope.utils.records.vectors import list_vectors
from traitscope.utils.stage.flags import Flag
from traitscope.utils.stage.layers import parse_layers, usual_layer
from traitscope.utils.stage.stage import Stage, only_one

TOLD = ("distill", "delta")  # what the model wrote when it was told to show the trait
_WRITING = tuple(field.name for field in fields(Sampling))
_LEARNING = tuple(field.name for field in fields(TrainOptions))
WITHOUT_EFFECT = {  # objective → flags that do nothing there: to change one trains nothing again
    "nll": _WRITING,
    "pref": (*_WRITING, "train_opposite"),
    "distill": ("train_opposite",),
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
        no_vet: Annotated[bool, "Use every response, whatever its score."] = False,
    ) -> dict:
        training.check()
        job = Job(paths, objective, training, sampling, None if no_vet else thresholds)
        return add_vectors(job, model) if objective == "delta" else train_vectors(job, model)

    inputs, outputs = partial(_inputs, objective), partial(_outputs, METHOD_OF[objective])
    return Stage(
        name=f"train_{objective}",
        run=train,
        inputs=inputs,
        outputs=outputs,
        cosmetic=WITHOUT_EFFECT[objective],
    )


def training_flags() -> dict[str, Flag]:
    """Return the flags of training, which every objective shares."""
    return training_stage(OBJECTIVES[0]).flags


@dataclass(frozen=True)
class Job:
    """One trait to be trained with one objective, and what its vectors are measured on."""

    paths: TraitPaths
    objective: str
    training: TrainOptions
    sampling: Sampling
    thresholds: Thresholds | None  # where a response's score counts as passed; None takes every response

    @property
    def method(self) -> str:
        return METHOD_OF[self.objective]

    @property
    def stage(self) -> str:
        return f"train_{self.objective}"

    @property
    def journal(self) -> Journal:
        """Where its progress stands."""
        return Journal(self.paths.journal(self.stage))

    @cached_property
    def captured(self) -> Captured:
        """The activations that stage 3 left."""
        return read_captured(self.paths)

    def load(self, model: ModelOptions) -> LM:
        """Load the model.

        Raises:
            UserError: it is not the one that was read, or its vectors could not be measured.
        """
        about = self.captured.about
        if about.component != "residual":
            advice = f"run {CAPTURE} with --component residual"
            raise UserError(f"vectors are trained in the residual stream; {advice}")
        fitted_sides(self.captured, read_fitted_on(self.paths), [0])  # refuses what could not be measured

        lm = load_lm(model)
        read = about.made_by.get("model") or {}
        if read.get("identity") != lm.identity["identity"]:
            raise UserError(
                f"the activations of {self.paths.trait} are of {read.get('name')}, and {lm.identity['name']} is to be "
                f"trained through; run {CAPTURE} with the same --model"
            )
        return lm

    def texts(self, lm: LM) -> Texts:
        """Return what is learnt and what validates.

        Raises:
            UserError: there are too few texts.
        """
        about = self.captured.about
        if self.objective in TOLD:
            found = told_texts(self.paths, lm, about, self.thresholds, self.sampling, self.journal)
        else:
            found = own_texts(self.paths, lm, about, self.thresholds, in_pairs=self.objective == "pref")
        if self.objective == "delta":
            if len(found) < LEAST:
                raise UserError(f"there are {len(found)} texts that the told model wrote; {LEAST} are needed")
            return Texts(found, [], [])
        if self.objective == "pref":
            chosen = list(dict.fromkeys(text for pair in pair_up(found) for text in pair))
        else:
            chosen = [text for text in found if self.training.train_opposite or text.side == "pos"]
        return fill_budgets(chosen, self.training.train_tokens, self.training.val_tokens, seed=0)


def train_vectors(job: Job, model: ModelOptions) -> dict:
    """Train a vector at every layer asked for, and write those with the lowest validation loss.

    Raises:
        UserError: there are too few texts, the model is not the one that was read, or nothing was learnt.
    """
    about, training = job.captured.about, job.training
    layers = _layers(job.paths, training.train_layers, about)
    lm = job.load(model)
    texts = job.texts(lm)

    starts = _starts(layers, training, about)
    passes = Passes(
        UpperPart.of(lm, min(layers)),
        [start.layer for start in starts],
        training.positions,
        training.gradient_checkpointing,
    )
    label = f"{job.stage} {job.paths.trait}"
    learned = learn(passes, LOWERS[job.objective](texts), starts, training, job.journal, label)
    kept = choose(learned)
    record = {
        "plain_loss": learned[0].plain_loss,
        "tried": [_tried(v, is_kept=v in kept) for v in learned],  # by identity
        "seeds_agree": {str(v.start.layer): _agreement(v, learned) for v in kept},
    }
    said = {v.start.layer: _said(v) for v in kept}
    _write(job, {v.start.layer: v.values for v in kept}, said, texts, record)
    return _summary(kept, texts)


def add_vectors(job: Job, model: ModelOptions) -> dict:
    """Write, at every layer, what an instruction adds to the states at the same response tokens.

    Raises:
        UserError: there are too few texts, or the model is not the one that was read.
    """
    lm = job.load(model)
    texts = job.texts(lm)
    added = added_by_telling(lm, texts.train)
    _write(job, dict(enumerate(added)), {}, texts, {"plain_loss": None, "tried": []})
    return {"vectors": len(added), "texts": len(texts.train)}


LOWERS: dict[str, Callable[[Texts], Objective]] = {
    "nll": LikelyText,
    "pref": PreferredAnswer,
    "distill": ToldModel,
}


def _layers(paths: TraitPaths, spec: str, about: ActivationsAbout) -> list[int]:
    """Return the layers asked for: by default where stage 5 steers by default."""
    if spec != "best":
        return parse_layers(spec, about.shape[1]) if spec else [usual_layer(about.shape[1])]

    fitted = [vector for vector in list_vectors(paths).values() if vector.origin is None]
    best = best_held_out(paths, fitted)
    if best is None:
        raise UserError(
            f"{paths.trait}: no vector was measured on held-out responses; name layers with --layers"
        )
    return [best.key[1]]


def _starts(layers: Sequence[int], training: TrainOptions, about: ActivationsAbout) -> list[Start]:
    return [
        Start(layer, rate, seed, about.mean_norms[layer])
        for layer in layers
        for rate in dict.fromkeys(training.learning_rates)
        for seed in range(training.train_seeds)
    ]


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


def _said(v: Learned) -> dict[str, Any]:
    """Return what a vector says of how it was learnt."""
    return {
        "learning_rate": v.start.learning_rate,
        "seed": v.start.seed,
        "best_step": v.course.best_step,
        "validation_loss": round(v.course.best_loss, 6),
        "plain_loss": round(v.plain_loss, 6),
        "tokens_seen": v.course.tokens_seen,
        **v.settings,
    }


HIGHER = "higher than the unsteered model's: see what stage 5 says before it is used"


def _summary(kept: Sequence[Learned], texts: Texts) -> dict:
    best = min(kept, key=lambda v: v.course.best_loss)
    return {
        "vectors": len(kept),
        "texts": len(texts.train),
        "left over": len(texts.left),
        "validation loss": f"{best.plain_loss:.3f} → {best.course.best_loss:.3f} (layer {best.start.layer})",
        **({"note": HIGHER} if best.course.best_loss >= best.plain_loss else {}),
    }


def _inputs(objective: str, paths: TraitPaths, params: dict) -> list[Path]:
    pool = question_pool(paths.root)
    own = [] if params["no_vet"] else [paths.response_scores]
    told = [*dataset_files(paths), *([pool] if pool.is_relative_to(paths.root) else [])]
    best = [paths.fitted_on] if params["train_layers"] == "best" else []
    responses = [paths.responses(side) for side in SIDES]
    return [*responses, *own, *(told if objective in TOLD else []), *best, paths.activations_metadata]


def _outputs(method: str, paths: TraitPaths, params: dict) -> list[Path]:
    file = paths.training(method)
    layers = read_training(paths, method).layers if is_there(file) else []
    return [
        file,
        *(place(method, layer) for layer in layers for place in (paths.vector, paths.vector_metadata)),
    ]
