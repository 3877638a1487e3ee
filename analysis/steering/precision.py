"""Does the vector still work when the model runs in another precision?"""

import importlib.util
from collections.abc import Sequence
from dataclasses import replace

from traitscope.analysis.steering.arms import Arm
from traitscope.analysis.steering.bench import ModelBench
from traitscope.analysis.steering.evidence import known_coherence
from traitscope.analysis.steering.search import Cell, effect_of, signal_of
from traitscope.utils.errors import UserError
from traitscope.utils.measures.intervals import interval_of
from traitscope.utils.model.loading import ModelOptions, load_lm, unload_lm

PRECISIONS: dict[str, dict] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "float16": {"dtype": "float16"},
    "int8": {"load_in_8bit": True},
    "int4": {"load_in_4bit": True},
}


def check_names(names: Sequence[str]) -> None:
    """Raise UserError for a precision that is not one, or that needs a package that is not there: before
    anything is run.
    """
    if unknown := [name for name in names if name not in PRECISIONS]:
        raise UserError(f"--check-precision {unknown[0]}: choose {', '.join(PRECISIONS)}")
    if {"int8", "int4"} & set(names) and not importlib.util.find_spec("bitsandbytes"):
        raise UserError("--check-precision int8 and int4 need bitsandbytes: pip install bitsandbytes")


def compare_precisions(
    bench: ModelBench, cell: Cell, options: ModelOptions, names: Sequence[str], test: Sequence[str]
) -> dict:
    """Repeat unsteered, + and − on the test questions with the model in each precision; the same vector,
    the same coefficients.

    The other models are loaded one after the other beside the one that is studied. Coherence is that of the
    studied model's judge.

    Returns:
        {precision: effect and odd part with intervals, coherence}.

    Raises:
        UserError: this machine cannot load one of them.
    """
    figures = {}
    for name in names:
        lm = load_lm(
            replace(options, **({"load_in_8bit": False, "load_in_4bit": False} | PRECISIONS[name])),
            role="precision",
        )
        other = ModelBench(lm, bench.judge, bench.sampling, bench.protocol, bench.work, bench.max_unjudged)
        other.coherence = bench.coherence
        signs = (("plus", 1), ("minus", -1)) if cell.treatment.has_opposite else (("plus", 1),)
        unsteered, *steered = other.measure(
            [Arm("unsteered"), *(Arm(label, cell.pushes(sign)) for label, sign in signs)], test
        )
        minus = steered[1] if len(steered) > 1 else None
        signal = signal_of(steered[0], minus, unsteered, cell.sign)
        figures[name] = {
            "effect": interval_of(effect_of(steered[0], unsteered, cell.sign)),
            "odd_part": interval_of(signal),
            "coherence": {arm.arm.name: known_coherence(arm) for arm in (unsteered, *steered)},
        }

    unload_lm("precision")
    return figures
