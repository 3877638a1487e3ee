"""The embedded judge on texts that say plainly which side they are on: plain, negated, in other languages,
short, neutral and mixed. `python tests/test_judged_texts.py` prints the figures that its identity carries.
"""

import json
import runpy
from functools import cache
from pathlib import Path

if __name__ == "__main__":  # this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "__init__.py"), run_name="checkout")

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.judge import Answer
from traitscope.utils.judge.embedded import MEASURED, EmbeddedJudge
from traitscope.utils.records.dataset import read_trait

# {trait: {kind: {side: texts}}}; of each list, choices were made on texts 0, 2, … and 1, 3, … were held out
TEXTS = json.loads((Path(__file__).parent / "data/judged_texts.json").read_text(encoding="utf-8"))
CONTRASTED = ("plain", "negation", "language", "short")


@cache
def scores(trait: str, first: int) -> dict[tuple[str, str], list[float]]:
    """Return the scores of every second text from the first on, by kind and side."""
    judge = EmbeddedJudge(read_trait(TraitPaths("demo", trait)).rubric)
    return {
        (kind, side): [s.value for s in judge.score_responses([Answer("", t) for t in texts[first::2]])]
        for kind, sides in TEXTS[trait].items()
        for side, texts in sides.items()
    }


def auroc(trait: str, kinds: tuple[str, ...], first: int = 1) -> float:
    """Return how often a positive text of these kinds scores above a negative one."""
    sides = {side: [v for k in kinds for v in scores(trait, first)[k, side]] for side in ("pos", "neg")}
    labels = [1] * len(sides["pos"]) + [0] * len(sides["neg"])
    return float(roc_auc_score(labels, sides["pos"] + sides["neg"]))


def distance(kind: str, first: int = 1) -> float:
    """Return the mean distance from 50, in points, of texts that are on neither side."""
    return float(np.mean([abs(v - 50) for trait in TEXTS for v in scores(trait, first)[kind, "neither"]]))


def measure(first: int = 1) -> dict:
    """Return the figures of one half; an AUROC is the mean of the traits'."""

    def over(*kinds: str) -> float:
        return round(float(np.mean([auroc(trait, kinds, first) for trait in TEXTS])), 2)

    return {
        "auroc": over(*CONTRASTED),
        "auroc_plain": over("plain"),
        "auroc_negated": over("negation"),
        "auroc_german_french_spanish": over("language"),
        "auroc_two_to_five_words": over("short"),
        "auroc_by_trait": {trait: round(auroc(trait, CONTRASTED, first), 2) for trait in TEXTS},
        "points_from_50_of_neutral_text": round(distance("neutral", first), 1),
        "points_from_50_of_mixed_text": round(distance("mixed", first), 1),
    }


def test_the_texts_are_as_many_on_both_sides_of_four_traits_and_none_occurs_twice_in_one():
    for kinds in TEXTS.values():
        texts = [t for sides in kinds.values() for half in sides.values() for t in half]
        assert len(texts) == len(set(texts)) == 42
        assert all(len(kinds[k]["pos"]) == len(kinds[k]["neg"]) for k in CONTRASTED)
        assert all(2 <= len(t.split()) <= 5 for half in kinds["short"].values() for t in half)


@pytest.mark.slow
def test_the_judge_tells_claims_from_words_as_well_as_its_identity_says():
    found = measure()
    assert found["auroc_by_trait"] == pytest.approx(MEASURED["auroc_by_trait"], abs=0.05)
    for name, value in found.items():
        if name != "auroc_by_trait":
            tolerance = 3 if name.startswith("points") else 0.05
            assert value == pytest.approx(MEASURED[name], abs=tolerance), name
    assert found["auroc_negated"] > 0.7  # by sentence embeddings alone it is 0.25


def test_a_negated_claim_is_on_the_other_side_and_neutral_text_near_the_middle():
    trait = "epistemic/optimism"
    assert auroc(trait, ("negation",)) == 1
    assert np.mean(scores(trait, 1)["negation", "pos"]) > np.mean(scores(trait, 1)["negation", "neg"]) + 20
    assert np.mean(np.abs(np.array(scores(trait, 1)["neutral", "neither"]) - 50)) < 28


if __name__ == "__main__":
    for half, name in enumerate(("made choices on", "held out")):
        print(name, json.dumps(measure(half), indent=1))
