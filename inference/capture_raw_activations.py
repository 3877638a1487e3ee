"""Let the model answer a prompt set, or replay the tokens that another model wrote, and keep every token's projections on trait vectors."""

import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run as a script
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import utils  # noqa: F401  # before torch: it sets the threads that torch starts with

from tqdm import tqdm

from inference.cards import CardOptions, read_cards
from inference.projection import check_cards
from inference.prompt_sets import ADHOC, PromptItem, PromptSet, adhoc_set, read_prompt_set, with_system
from inference.raw import has_raw, save_raw
from inference.records import Record, read_record, write_record
from inference.responses import Responding, replay_all, respond_all
from inference.scoring import made_from, score_records
from utils.artifacts import write_json
from utils.cli import run_cli
from utils.errors import UserError
from utils.experiment import resolve_settings
from utils.flags import Flag, option_flags, pick
from utils.model import LM, ModelOptions, load_lm
from utils.paths import ExperimentPaths, InferencePaths
from utils.vectors import Card

CHUNK = 64  # records that are scored together: what a kill can cost


@dataclass(frozen=True)
class CaptureOptions:
    """Generate (or replay) responses to a prompt set and project every token on trait vectors, inside the forward pass; resumes per prompt.

    Args:
        experiment: Experiment whose model answers and whose vectors are read.
        prompt_set: Name of a file in datasets/inference/, without its ending.
        prompt: Prompts in place of a set, kept under the name "adhoc".
        system_prompt: System message put in front of every chat prompt.
        completion: Continue texts as they stand, without the chat template.
        limit: Use the first prompts only; 0 takes all.
        responses_from: Experiment whose recorded tokens are replayed instead of generating.
        skip_existing: Keep every stored response, even one that was made with other settings.
        save_raw: Store whole residual streams as well, [n_layers, n_tokens, d_model] a prompt.
        force: Generate and project again whatever is there.
    """

    experiment: str
    prompt_set: str = ""
    prompt: str = ""
    system_prompt: str = ""
    completion: bool = False
    limit: int = 0
    responses_from: str = ""
    skip_existing: bool = False
    save_raw: bool = False
    force: bool = False


def all_flags() -> dict[str, Flag]:
    """Return the script's flags."""
    return option_flags(CaptureOptions) | option_flags(CardOptions) | option_flags(ModelOptions) | option_flags(Responding)


def main(**given: Any) -> None:
    """Capture a prompt set.

    Raises:
        UserError: a prompt, a vector or the model is wrong.
    """
    options, chosen = pick(CaptureOptions, given), pick(CardOptions, given)
    if bool(options.prompt_set) == bool(options.prompt):
        raise UserError("pass --prompt-set NAME, or --prompt with a text")
    paths = InferencePaths(options.experiment, options.prompt_set or ADHOC)
    prompts = adhoc_set((options.prompt,), completion=options.completion) if options.prompt else read_prompt_set(paths, completion=options.completion)
    items = with_system(prompts.items[: options.limit or None], options.system_prompt)
    cards = read_cards(options.experiment, chosen)
    flags = option_flags(ModelOptions)
    settings = resolve_settings(ExperimentPaths(options.experiment), flags, {k: v for k, v in given.items() if k in flags})
    lm = load_lm(pick(ModelOptions, settings))
    check_cards(lm, cards)
    _write_index(paths, prompts, items, lm, options.responses_from)
    made, computed = _capture(paths, items, cards, lm, options, pick(Responding, given))
    vectors = f"{len({c.trait for c in cards})} traits × {len(cards)} vectors"
    print(f"[capture] {options.experiment}, {paths.prompt_set}: {len(items)} prompts ({made} new), {vectors}, {computed} projected; {paths.dir}")


def _write_index(paths: InferencePaths, prompts: PromptSet, items: Sequence[PromptItem], lm: LM, responses_from: str) -> None:
    about = {"made_by": {"model": lm.identity, "responses_from": responses_from or None}, "prompt_set": prompts.about}
    write_json(paths.index, about | {"prompts": [{"id": item.id, **item.metadata} for item in items]})


def _capture(paths: InferencePaths, items: Sequence[PromptItem], cards: list[Card], lm: LM, options: CaptureOptions, how: Responding) -> tuple[int, int]:
    """Return how many responses were made and how many records were projected."""
    kept = {} if options.force else _kept(paths, items, lm, options, how)
    new = [item for item in items if item.id not in kept]
    made = replay_all(lm, paths.within(options.responses_from), new) if options.responses_from else respond_all(lm, new, how)
    computed = _finish(paths, list(kept.values()), cards, lm, options.save_raw)
    chunk: list[Record] = []
    with tqdm(total=len(new), desc=f"capture {paths.prompt_set}", unit="prompt", disable=None, leave=False) as bar:
        for record in made:
            write_record(paths, record)
            paths.projections(record.id).unlink(missing_ok=True)
            chunk.append(record)
            bar.update()
            if len(chunk) == CHUNK:
                computed += _finish(paths, chunk, cards, lm, options.save_raw)
                chunk = []
    return len(new), computed + _finish(paths, chunk, cards, lm, options.save_raw)


def _kept(paths: InferencePaths, items: Sequence[PromptItem], lm: LM, options: CaptureOptions, how: Responding) -> dict[str, Record]:
    """Return the stored responses that this run would make again just so."""
    there = {item.id: read_record(paths, item.id) for item in items if paths.response(item.id).exists()}
    if options.skip_existing:
        return there
    if options.responses_from:
        source = paths.within(options.responses_from)
        return {id_: r for id_, r in there.items() if source.response(id_).exists() and read_record(source, id_) == r}
    keys = {item.id: how.key(lm, item) for item in items}
    return {id_: r for id_, r in there.items() if r.key == keys[id_]}


def _finish(paths: InferencePaths, records: Sequence[Record], cards: list[Card], lm: LM, raw: bool) -> int:
    for record in records if raw else ():
        if not has_raw(paths, record, made_from(record, lm.identity)):
            save_raw(lm, paths, record, made_from(record, lm.identity))
    return score_records(paths, records, cards, lm.identity, lambda: lm)


if __name__ == "__main__":
    run_cli(main, all_flags(), inspect.getdoc(CaptureOptions) or "")
