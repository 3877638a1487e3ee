"""A trait tried in a minute: a few responses per side, with the judge's scores."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from extraction.traits import Item, TraitDataset
from utils.generation import Row, Sampling, generate
from utils.judge import Answer, Judge, JudgeOptions, Score, load_judge
from utils.model import ModelOptions, encode, load_lm
from utils.paths import SIDES


@dataclass(frozen=True)
class Reply:
    """What the model wrote to one prompt, and how strongly it shows the trait."""

    side: str
    line: int  # of the contrasting text, counted from 1
    prompt: str
    response: str
    score: Score

    def as_json(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class Trial:
    """All replies, and how far the judge can tell the sides of the dataset apart at all."""

    replies: tuple[Reply, ...]
    judge_accuracy: float | None  # cross-validated by pair; None where the judge was not fitted

    def scores(self, side: str) -> np.ndarray:
        """Return the scores of one side; what could not be judged has none."""
        return np.array([r.score.value for r in self.replies if r.side == side and r.score.value is not None])


def try_trait(dataset: TraitDataset, model: ModelOptions, judge: JudgeOptions, count: int) -> Trial:
    """Let the model respond to `count` pairs spread evenly over the dataset, and score what it wrote; given answers are scored as they are.

    Raises:
        UserError: the model cannot be loaded, or the judge cannot judge this trait.
    """
    items = spread_items(dataset, count)
    grader = load_judge(judge, dataset.rubric)
    responses = write_responses(items, model)
    groups = [dataset.rubric.examples[item.example].group for item in items]
    scores = _score(grader, items, responses, groups)
    rows = zip(items, groups, responses, scores, strict=True)
    replies = tuple(Reply(item.side, group + 1, prompt_text(item), response, score) for item, group, response, score in rows)
    return Trial(replies, grader.identity.get("cross_validated_accuracy"))


def spread_items(dataset: TraitDataset, count: int) -> list[Item]:
    """Return both items of `count` complete pairs, evenly spread, the positive side first."""
    numbers = [{item.pair for item in dataset.items if item.side == side} for side in SIDES]
    pairs = sorted(set.intersection(*numbers))
    chosen = {pairs[i] for i in np.linspace(0, len(pairs) - 1, min(count, len(pairs))).round().astype(int)} if pairs else set()
    return [item for side in SIDES for item in dataset.items if item.side == side and item.pair in chosen]


def write_responses(items: Sequence[Item], model: ModelOptions) -> list[str]:
    """Return a greedy response to every item, as the pipeline's first stage would write it, or the one that is given."""
    if all(item.response is not None for item in items):
        return [item.response or "" for item in items]
    lm = load_lm(model)
    completions = generate(lm, [Row(encode(lm, item.prompt)) for item in items], Sampling())
    return [lm.tokenizer.decode(completion.ids, skip_special_tokens=True) for completion in completions]


def _score(grader: Judge, items: Sequence[Item], responses: Sequence[str], groups: Sequence[int]) -> list[Score]:
    rows = zip(items, responses, groups, strict=True)
    return grader.score_responses([Answer(prompt_text(item), response, group) for item, response, group in rows])


def prompt_text(item: Item) -> str:
    """Return what the response answers or continues."""
    return item.prompt if isinstance(item.prompt, str) else item.prompt[-1]["content"]
