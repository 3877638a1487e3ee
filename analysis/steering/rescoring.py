"""Judge stored steering texts again, with another judge, prompt or gate; nothing is generated and no model is loaded."""

from collections.abc import Sequence

from analysis.steering.arms import Arm, ArmResult
from analysis.steering.evaluate import score_point
from analysis.steering.search import Cell
from analysis.steering.treatments import Treatment
from analysis.steering.verdict import Pair, Trial, reach_verdict
from utils.errors import UserError
from utils.judge import Answer, Judge, Score, explain_gaps
from utils.judge.language import AskedCoherence, LanguageJudge


def rescore(results: dict, texts: dict[str, list[dict]], judge: Judge, gate: float, max_unjudged: float) -> dict:
    """Return the verdict of another judge on the same cell and texts, and what changed on dev.

    Coherence is judged again by a judge that reads; the embedded one needs the model, so then the stored coherence stays.

    Args:
        results: What stage 5 stored.
        texts: Its rows per part, "dev" and "test".
    """
    arms = {part: _arms(rows) for part, rows in texts.items()}
    for found in arms.values():
        _judge(list(found.values()), judge, max_unjudged)
    chosen = results["chosen"]
    cell = Cell(Treatment(chosen["method"], (), chosen["operation"], results["wanted"]), chosen["dose"])
    verdict = reach_verdict(cell, _trial(arms["test"], results), gate)
    dev = [point | _dev_scores(point, arms["dev"], results["wanted"]) for point in results["dev"]]
    return {"judge": judge.identity, "gate": gate, "chosen": chosen, "verdict_before": results["verdict"], **verdict, "dev": dev}


def _arms(rows: Sequence[dict]) -> dict[str, ArmResult]:
    """Put the rows of one file together again, arm by arm."""
    by_arm: dict[str, list[dict]] = {}
    for row in rows:
        by_arm.setdefault(row["arm"], []).append(row)
    return {name: _arm(name, found) for name, found in by_arm.items()}


def _arm(name: str, rows: Sequence[dict]) -> ArmResult:
    arm = Arm(name, system_prompt=rows[0]["system_prompt"], grades_coherence=rows[0]["coherence"] is not None)
    questions, prompt_ids, response_ids, responses = ([row[key] for row in rows] for key in ("question", "prompt_ids", "response_ids", "response"))
    coherence = [Score(**row["coherence"]) for row in rows] if arm.grades_coherence else []
    return ArmResult(arm, questions, prompt_ids, response_ids, responses, [Score(**row["trait"]) for row in rows], coherence)


def _judge(results: Sequence[ArmResult], judge: Judge, max_unjudged: float) -> None:
    texts = [text for r in results for text in r.texts]
    scores = judge.score_responses([Answer(t.question, t.response) for t in texts])
    if gaps := explain_gaps(scores, max_unjudged):
        raise UserError(gaps)
    trait = iter(scores)
    for result in results:
        result.trait = [next(trait) for _ in result.questions]
    if isinstance(judge, LanguageJudge):
        graded = [r for r in results if r.arm.grades_coherence]
        found = AskedCoherence(judge).score([text for r in graded for text in r.texts])
        if gaps := explain_gaps(found, max_unjudged):
            raise UserError(gaps)
        fluency = iter(found)
        for result in graded:
            result.coherence = [next(fluency) for _ in result.questions]


def _trial(arms: dict[str, ArmResult], results: dict) -> Trial:
    def pairs(kind: str) -> list[Pair]:
        names = dict.fromkeys(name.removesuffix(" plus") for name in arms if name.startswith(kind) and name.endswith(" plus"))
        return [(arms[f"{name} plus"], arms.get(f"{name} minus")) for name in names]

    strongest = next(iter(pairs("strongest")), None)
    candidates = results["random"]["selected"]["of"] if results["random"] else 1.0
    return Trial(arms["unsteered"], pairs("vector")[0], pairs("random"), pairs("shuffled labels"), arms["system prompt"], candidates, strongest)


def _dev_scores(point: dict, arms: dict[str, ArmResult], sign: int) -> dict:
    """One point of the dose–response curve under the new judge."""
    return score_point(arms[f"plus {point['cell']}"], arms.get(f"minus {point['cell']}"), arms["unsteered"], sign)
