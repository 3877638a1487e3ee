"""Let the model answer a prompt set, or replay the tokens that another model wrote, and keep every
token's projections on trait vectors.

For example:

    python inference/capture_raw_activations.py --experiment demo --prompt-set dynamics
"""

import runpy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "__init__.py"), run_name="checkout")


from tqdm import tqdm

from traitscope.inference.watch.projection import check_vectors
from traitscope.inference.watch.raw import save_raw
from traitscope.inference.watch.responding import Responding, replay_all, respond_all
from traitscope.inference.watch.scoring import only_one, score_records
from traitscope.inference.watch.watched import WatchOptions, read_watched
from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import sweep_temporaries
from traitscope.utils.files.paths import InferencePaths
from traitscope.utils.model.loading import LM, ModelOptions, load_lm
from traitscope.utils.records.prompt_sets import ADHOC, PromptItem, adhoc_set, read_prompt_set, with_system
from traitscope.utils.records.readings import has_stream, made_from
from traitscope.utils.records.recorded import Record, read_record, write_index, write_record
from traitscope.utils.records.vectors import Vector
from traitscope.utils.stage.command import command
from traitscope.utils.stage.flags import flag

CHUNK = 64  # records that are scored together: what a kill can cost


@dataclass(frozen=True)
class CaptureOptions:
    """Generate (or replay) responses to a prompt set and project every token on trait vectors, inside the
    forward pass; resumes per prompt.
    """

    experiment: str = flag(help="Experiment whose model answers and whose vectors are read.")
    prompt_set: str = flag("", "Name of a file in datasets/inference/, without its ending.")
    prompt: str = flag("", 'Prompts in place of a set, kept under the name "adhoc".')
    system_prompt: str = flag("", "System message put in front of every chat prompt.")
    completion: bool = flag(False, "Continue texts as they stand, without the chat template.")
    limit: int = flag(0, "Use the first prompts only; 0 takes all.")
    responses_from: str = flag("", "Experiment whose recorded tokens are replayed instead of generating.")
    skip_existing: bool = flag(
        False, "Keep every stored response, even one that was made with other settings."
    )
    save_raw: bool = flag(
        False, "Store whole residual streams as well, [n_layers, n_tokens, d_model] a prompt."
    )
    force: bool = flag(False, "Generate and project again whatever is there.")
    wait: bool = flag(False, "Wait for another process that captures the same set.")


def capture_raw_activations(
    options: CaptureOptions, watched: WatchOptions, model: ModelOptions, how: Responding
) -> None:
    """Capture a prompt set.

    Raises:
        UserError: a prompt, a vector or the model is wrong.
    """
    if bool(options.prompt_set) == bool(options.prompt):
        raise UserError("pass --prompt-set NAME, or --prompt with a text")
    paths = InferencePaths(options.experiment, options.prompt_set or ADHOC)
    if options.prompt:
        prompts = adhoc_set((options.prompt,), completion=options.completion)
    else:
        prompts = read_prompt_set(paths, completion=options.completion)
    items = with_system(prompts.items[: options.limit or None], options.system_prompt)
    vectors = read_watched(options.experiment, watched)

    lm = load_lm(model)
    check_vectors(lm, vectors)
    with only_one(paths, wait=options.wait):
        made, computed = _capture(paths, items, vectors, lm, options, how)
        write_index(paths, prompts, items, lm.identity, options.responses_from)

    size = f"{len({v.trait for v in vectors})} traits × {len(vectors)} vectors"
    done = f"{len(items)} prompts ({made} new), {size}, {computed} projected"
    print(f"[capture] {options.experiment}, {paths.prompt_set}: {done}; {paths.dir}")


def _capture(
    paths: InferencePaths,
    items: Sequence[PromptItem],
    vectors: list[Vector],
    lm: LM,
    options: CaptureOptions,
    how: Responding,
) -> tuple[int, int]:
    """Return how many responses were made and how many records were projected. While any are made, there is no
    index: nothing that reads the set may meet responses of two models.
    """
    sweep_temporaries(paths.dir)
    kept = {} if options.force else _kept(paths, items, lm, options, how)
    new = [item for item in items if item.id not in kept]
    made = (
        replay_all(lm, paths.within(options.responses_from), new)
        if options.responses_from
        else respond_all(lm, new, how)
    )
    if new:
        paths.index.unlink(missing_ok=True)
    computed = _finish(paths, list(kept.values()), vectors, lm, options.save_raw)
    chunk: list[Record] = []

    with tqdm(
        total=len(new), desc=f"capture {paths.prompt_set}", unit="prompt", disable=None, leave=False
    ) as bar:
        for record in made:
            write_record(paths, record)
            paths.projections(record.id).unlink(missing_ok=True)
            chunk.append(record)
            bar.update()
            if len(chunk) == CHUNK:
                computed += _finish(paths, chunk, vectors, lm, options.save_raw)
                chunk = []

    return len(new), computed + _finish(paths, chunk, vectors, lm, options.save_raw)


def _kept(
    paths: InferencePaths, items: Sequence[PromptItem], lm: LM, options: CaptureOptions, how: Responding
) -> dict[str, Record]:
    """Return the stored responses that this run would make again just so."""
    there = {item.id: record for item in items if (record := _read_whole(paths, item.id))}
    if options.skip_existing:
        return there
    if options.responses_from:
        source = paths.within(options.responses_from)
        return {id_: r for id_, r in there.items() if _read_whole(source, id_) == r}

    keys = {item.id: how.key(lm, item) for item in items}
    return {id_: r for id_, r in there.items() if r.key == keys[id_]}


def _read_whole(paths: InferencePaths, prompt: str) -> Record | None:
    """Return a stored response; None where there is none, or a damaged one, which is made again."""
    try:
        return read_record(paths, prompt)
    except UserError:
        return None


def _finish(
    paths: InferencePaths, records: Sequence[Record], vectors: list[Vector], lm: LM, raw: bool
) -> int:
    for record in records if raw else ():
        if not has_stream(paths, record.id, made_from(record, lm.identity)):
            save_raw(lm, paths, record, made_from(record, lm.identity))
    return score_records(paths, records, vectors, lm.identity, lambda: lm)


if __name__ == "__main__":
    command(capture_raw_activations)
