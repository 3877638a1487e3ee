"""A second judge: it scores the test's texts again, and may agree with the first or not."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from traitscope.analysis.judging.agreement import band_confusion, kappa, rank_correlation
from traitscope.analysis.steering.arms import ArmResult
from traitscope.analysis.steering.conclusion import reach_verdict
from traitscope.analysis.steering.evidence import Evidence
from traitscope.analysis.steering.search import Cell
from traitscope.utils.errors import UserError
from traitscope.utils.judge import Answer, Judge, explain_gaps
from traitscope.utils.records.scores import Thresholds


def ask_second(
    cell: Cell,
    trial: Evidence,
    judge: Judge,
    reliability: float | None,
    limits: tuple[float, float],
    max_unjudged: float = 1.0,
) -> dict:
    """Return the verdict of another judge on the same texts, whether it is the first one's, and how far the two
    agree in each kind of arm. Coherence stays the first judge's.

    Args:
        reliability: Of the second judge.
        limits: The coherence gate, and the least effect.

    Raises:
        UserError: more than `max_unjudged` of the texts could not be judged.
    """
    second = replace(judge_again(trial, judge, max_unjudged), reliability=reliability)
    verdicts = [reach_verdict(cell, evidence, *limits) for evidence in (trial, second)]
    found = {name: verdicts[1][name] for name in ("verdict", "why", "effect", "odd_part", "p", "random")}
    agrees = verdicts[0]["verdict"] == verdicts[1]["verdict"]
    used = {"usage": judge.usage.as_json()} if judge.usage else {}
    said = {"agrees": agrees, "agreement": agreement_of(trial, second)}
    return {"judge": judge.identity, **used, **found, **said}


def judge_again(trial: Evidence, judge: Judge, max_unjudged: float = 1.0) -> Evidence:
    """Return the same evidence with another judge's trait scores; its reliability is not known here."""
    arms = trial.arms()
    answers = [Answer(q, text) for arm in arms for q, text in zip(arm.questions, arm.responses, strict=True)]
    scores = judge.score_responses(answers)
    if gaps := explain_gaps(scores, max_unjudged):
        raise UserError(gaps)

    rest = iter(scores)
    new = {id(arm): replace(arm, trait=[next(rest) for _ in arm.questions]) for arm in arms}
    return trial.each(lambda arm: new[id(arm)])


def agreement_of(first: Evidence, second: Evidence) -> dict[str, dict]:
    """Return rank correlation and kappa of two judges' scores per kind of arm."""
    kinds = zip(_kinds(first).items(), _kinds(second).values(), strict=True)
    return {name: _agree(own, other) for (name, own), other in kinds}


def _kinds(trial: Evidence) -> Mapping[str, Sequence[ArmResult]]:
    plus, minus = trial.vector
    kinds = {
        "unsteered": [trial.unsteered],
        "plus": [plus],
        "minus": [minus] if minus else [],
        "random": [arm for pair in trial.randoms for arm in pair if arm],
    }
    return {name: arms for name, arms in kinds.items() if arms}


def _agree(first: Sequence[ArmResult], second: Sequence[ArmResult]) -> dict:
    a, b = (np.concatenate([arm.trait_values for arm in arms]) for arms in (first, second))
    both = ~np.isnan(a) & ~np.isnan(b)
    a, b = a[both], b[both]
    if len(a) < 3:
        return {"n": len(a), "rank_correlation": None, "kappa": None}

    bands = Thresholds()
    rank = rank_correlation(a, b)
    return {
        "n": len(a),
        "rank_correlation": None if np.isnan(rank) else round(rank, 4),
        "kappa": round(kappa(band_confusion(a, b, bands.neg_threshold, bands.pos_threshold)), 4),
    }
