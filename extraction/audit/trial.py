"""A trait tried in a minute: a few responses per side, with the judge's scores."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from traitscope.utils.files.paths import SIDES
from traitscope.utils.judge import Answer, Judge, JudgeOptions, Score, load_judge
from traitscope.utils.model.encode import encode, text_of
from traitscope.utils.model.generation import Row, Sampling, generate
from traitscope.utils.model.loading import ModelOptions, load_lm
from traitscope.utils.records.dataset import Item, TraitDataset


@dataclass(frozen=True)
class TriedText:
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
    """All texts, and how far the judge can tell the sides of the dataset apart at all."""

    texts: tuple[TriedText, ...]
    judge_accuracy: float | None  # cross-validated by pair; None where the judge was not fitted

    def scores(self, side: str) -> np.ndarray:
        """Return the scores of one side; what could not be judged has none."""
        return np.array([r.score.value for r in self.texts if r.side == side and r.score.value is not None])


def try_trait(dataset: TraitDataset, model: ModelOptions, judging: JudgeOptions, count: int) -> Trial:
    """Let the model respond to `count` pairs spread evenly over the dataset, and score what it wrote;
    given answers are scored as they are.

    Raises:
        UserError: the model cannot be loaded, or the judge cannot judge this trait.
    """
    items = spread_items(dataset, count)
    judge = load_judge(judging, dataset.rubric)
    responses = write_responses(items, model)
    examples = [dataset.rubric.examples[item.example] for item in items]
    scores = _score(judge, items, responses, [example.family for example in examples])
    rows = zip(items, examples, responses, scores, strict=True)
    texts = tuple(
        TriedText(item.side, example.line + 1, text_of(item.prompt), response, score)
        for item, example, response, score in rows
    )

    return Trial(texts, judge.identity.get("cross_validated_accuracy"))


def spread_items(dataset: TraitDataset, count: int) -> list[Item]:
    """Return both items of `count` complete pairs, evenly spread, the positive side first."""
    numbers = [{item.pair for item in dataset.items if item.side == side} for side in SIDES]
    pairs = sorted(set.intersection(*numbers))
    chosen = (
        {pairs[i] for i in np.linspace(0, len(pairs) - 1, min(count, len(pairs))).round().astype(int)}
        if pairs
        else set()
    )

    return [item for side in SIDES for item in dataset.items if item.side == side and item.pair in chosen]


def write_responses(items: Sequence[Item], model: ModelOptions) -> list[str]:
    """Return a greedy response to every item, as the pipeline's first stage would write it, or the one
    that is given.
    """
    if all(item.response is not None for item in items):
        return [item.response or "" for item in items]
    lm = load_lm(model)
    completions = generate(lm, [Row(encode(lm, item.prompt)) for item in items], Sampling())
    return [lm.tokenizer.decode(completion.ids, skip_special_tokens=True) for completion in completions]


def _score(
    judge: Judge, items: Sequence[Item], responses: Sequence[str], families: Sequence[int]
) -> list[Score]:
    rows = zip(items, responses, families, strict=True)
    return judge.score_responses(
        [Answer(text_of(item.prompt), response, family) for item, response, family in rows]
    )
