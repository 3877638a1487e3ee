"""Judge stored steering texts again, with another judge, prompt or gate; nothing is generated and no
model is loaded.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from traitscope.analysis.steering.arms import Arm, ArmResult
from traitscope.analysis.steering.conclusion import LEAST_EFFECT, reach_verdict
from traitscope.analysis.steering.evaluate import score_point
from traitscope.analysis.steering.evidence import Evidence, Pair
from traitscope.analysis.steering.search import Cell
from traitscope.analysis.steering.treatments import Treatment
from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import write_json
from traitscope.utils.files.paths import STEER, TraitPaths
from traitscope.utils.files.reading import digest
from traitscope.utils.judge import Answer, Judge, JudgeOptions, explain_gaps, load_judge
from traitscope.utils.judge.language import AskedCoherence, LanguageJudge
from traitscope.utils.judge.reliability import Reliability, judge_reliability
from traitscope.utils.records.dataset import read_trait
from traitscope.utils.records.verdict import (
    PARTS,
    TriedCell,
    Verdict,
    WrittenText,
    read_texts,
    require_verdict,
)


def rescore_stored(
    paths: TraitPaths, judging: JudgeOptions, gate: float, least: float = LEAST_EFFECT
) -> dict:
    """Judge a trait's stored texts again, write the verdict beside stage 5's, and return the closing
    line's figures.

    Raises:
        UserError: stage 5 has not completed, or too many texts could not be judged.
    """
    if not paths.has_completed(STEER):
        raise UserError(f"{paths.trait} has no completed {STEER} to judge again; run it first")
    rubric = read_trait(paths).rubric
    judge = load_judge(judging, rubric, paths.spending)
    texts = {part: read_texts(paths, part) for part in PARTS}
    limits = Limits(gate, least, judging.max_unjudged, judge_reliability(judge, rubric))
    results = rescore(require_verdict(paths), texts, judge, limits)

    digests = {part: digest(paths.steering_responses(part)) for part in texts}
    write_json(paths.rescored(judging.judge), {"trait": paths.trait, "texts_sha256": digests} | results)
    used = judge.usage.as_line() if judge.usage else {}
    said = {"verdict": results["verdict"], "before": results["verdict_before"], "why": results["why"]}
    return {"texts": sum(map(len, texts.values())), **said, **used}


@dataclass(frozen=True)
class Limits:
    """What a verdict has to pass."""

    gate: float = 70.0  # coherence
    least: float = LEAST_EFFECT  # points
    max_unjudged: float = 1.0  # share of texts
    reliability: Reliability | None = None  # of the judge


def rescore(results: Verdict, texts: dict[str, list[WrittenText]], judge: Judge, limits: Limits) -> dict:
    """Return the verdict of another judge on the same cell and texts, and what changed on dev.

    Coherence is judged again by a judge that reads; the embedded one needs the model, so then the stored
    coherence stays. p allows for the looks of stage 5, and not for a choice among judges.

    Args:
        results: What stage 5 stored.
        texts: Its texts per part, "dev" and "test".
    """
    arms = {part: _arms(rows) for part, rows in texts.items()}
    for found in arms.values():
        _judge(list(found.values()), judge, limits.max_unjudged)

    chosen = results.chosen
    cell = Cell(Treatment(chosen.method, (), chosen.operation, results.wanted), chosen.dose)
    evidence = replace(_evidence(arms["test"], results), reliability=limits.reliability)
    verdict = reach_verdict(cell, evidence, limits.gate, limits.least)
    dev = [
        point.model_dump(exclude_unset=True) | _dev_scores(point, arms["dev"], results.wanted)
        for point in results.dev
    ]
    about = {
        "judge": judge.identity,
        "gate": limits.gate,
        "chosen": chosen.model_dump(exclude_unset=True),
        "verdict_before": results.verdict,
    }
    return {**about, **verdict, "dev": dev}


def _arms(rows: Sequence[WrittenText]) -> dict[str, ArmResult]:
    """Put the rows of one file together again, arm by arm."""
    by_arm: dict[str, list[WrittenText]] = {}
    for row in rows:
        by_arm.setdefault(row.arm, []).append(row)
    return {name: _arm(name, found) for name, found in by_arm.items()}


def _arm(name: str, rows: Sequence[WrittenText]) -> ArmResult:
    arm = Arm(name, system_prompt=rows[0].system_prompt, grades_coherence=rows[0].coherence is not None)
    coherence = [row.coherence.score for row in rows if row.coherence] if arm.grades_coherence else []
    return ArmResult(
        arm,
        questions=[row.question for row in rows],
        prompt_ids=[row.prompt_ids for row in rows],
        response_ids=[row.response_ids for row in rows],
        responses=[row.response for row in rows],
        trait=[row.trait.score for row in rows],
        coherence=coherence,
    )


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


def _evidence(arms: dict[str, ArmResult], results: Verdict) -> Evidence:
    def pairs(kind: str) -> list[Pair]:
        names = dict.fromkeys(
            name.removesuffix(" plus") for name in arms if name.startswith(kind) and name.endswith(" plus")
        )
        return [(arms[f"{name} plus"], arms.get(f"{name} minus")) for name in names]

    return Evidence(
        arms["unsteered"],
        pairs("vector")[0],
        pairs("random"),
        pairs("shuffled labels"),
        arms["system prompt"],
        next(iter(pairs("strongest")), None),
        looks=results.looks,
        reading=results.reading,
    )


def _dev_scores(point: TriedCell, arms: dict[str, ArmResult], sign: int) -> dict:
    """Return one point of the dose–response curve under the new judge."""
    return score_point(arms[f"plus {point.cell}"], arms.get(f"minus {point.cell}"), arms["unsteered"], sign)
