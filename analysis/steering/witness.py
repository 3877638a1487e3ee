"""A second judge: it scores the test's texts again, and may agree with the first or not."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from traitscope.analysis.judging.agreement import compare_scores
from traitscope.analysis.judging.texts import pooled
from traitscope.analysis.steering.arms import ArmResult
from traitscope.analysis.steering.conclusion import reach_verdict
from traitscope.analysis.steering.evidence import Evidence
from traitscope.analysis.steering.search import Cell
from traitscope.utils.errors import UserError
from traitscope.utils.judge import Answer, Judge, explain_gaps
from traitscope.utils.judge.reliability import Reliability
from traitscope.utils.records.scores import Thresholds


def ask_second(
    cell: Cell,
    trial: Evidence,
    judge: Judge,
    reliability: Reliability | None,
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
    """Return rank correlation and kappa of two judges' scores per kind of arm, with intervals over questions."""
    pairs = list(zip(first.arms(), second.arms(), strict=True))
    kinds = dict.fromkeys(pooled(arm.arm.name) for arm, _ in pairs)
    return {kind: _agree([pair for pair in pairs if pooled(pair[0].arm.name) == kind]) for kind in kinds}


def _agree(pairs: Sequence[tuple[ArmResult, ArmResult]]) -> dict:
    a, b = (np.concatenate([pair[i].trait_values for pair in pairs]) for i in (0, 1))
    questions = np.concatenate([np.arange(len(arm.questions)) for arm, _ in pairs])
    bands = Thresholds()
    found = compare_scores(a, b, questions, bands.neg_threshold, bands.pos_threshold)
    return {name: found[name] for name in ("n", "rank_correlation", "kappa")}
