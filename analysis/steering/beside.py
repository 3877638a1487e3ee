"""What is measured beside a verdict: a second judge, the questions in other words, the model in other
precisions.
"""

from dataclasses import dataclass

from traitscope.analysis.steering.bench import ModelBench
from traitscope.analysis.steering.evaluate import Found
from traitscope.analysis.steering.paraphrases import try_paraphrases
from traitscope.analysis.steering.precision import compare_precisions
from traitscope.analysis.steering.witness import ask_second
from traitscope.utils.judge import Judge, Rubric
from traitscope.utils.judge.reliability import judge_reliability
from traitscope.utils.model.loading import ModelOptions
from traitscope.utils.records.verdict import WORKS
from traitscope.utils.stage.flags import flag


@dataclass(frozen=True)
class Beside:
    """What else is asked about the chosen cell."""

    second_judge: str = flag(
        "",
        "Another judge, as for --judge, that scores the test's texts again; the verdict says if both agree.",
    )
    paraphrases: bool = flag(
        True, "Where a vector works, try it on three paraphrases of every test question as well."
    )
    check_precision: tuple[str, ...] = flag(
        (),
        (
            "Repeat the chosen cell's test with the model in these precisions: float32, bfloat16, float16, "
            "int8, int4."
        ),
    )

    heading = "Beside the verdict"
    is_setting = True  # a key of config.json


def measure_beside(
    beside: Beside, bench: ModelBench, found: Found, second: tuple[Judge, Rubric] | None, model: ModelOptions
) -> dict:
    """Return what stands beside a verdict in the results.

    Args:
        second: The judge that `beside.second_judge` names, and what it knows of the trait.
    """
    test, protocol, measured = found.results["questions"]["test"], bench.protocol, {}
    if second:
        limits, (judge, rubric) = (protocol.coherence_gate, protocol.min_effect), second
        known = judge_reliability(judge, rubric)
        measured["second_judge"] = ask_second(
            found.cell, found.trial, judge, known, limits, bench.max_unjudged
        )
    if beside.paraphrases and found.results["verdict"] == WORKS:
        measured["paraphrases"] = try_paraphrases(bench, found.cell, test)
    if beside.check_precision:
        measured["precision"] = compare_precisions(bench, found.cell, model, beside.check_precision, test)
    return measured


def closing_words(results: dict) -> dict:
    """Return what the stage's last line says of a verdict."""
    chosen = results["chosen"]
    place = f"{chosen['method']} layer {chosen['layer']} dose {chosen['dose']:g}"
    said = {"chosen": place, "verdict": results["verdict"], "why": results["why"]}

    if results["looks"] > 1:
        said["looks"] = results["looks"]
    if second := results.get("second_judge"):
        other = f"does not: {second['verdict']}, {second['why']}"
        said["second judge"] = "agrees" if second["agrees"] else other
    if again := results.get("paraphrases"):
        odd = again["odd_part"]
        said["paraphrased"] = (
            f"odd part {odd['mean']:+.1f} [{odd['low']:+.1f}, {odd['high']:+.1f}]" if odd else "unknown"
        )
    return said
