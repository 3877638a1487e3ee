"""Does the vector still work when the questions are put in other words?"""

from collections.abc import Sequence

import numpy as np

from traitscope.analysis.steering.arms import Arm
from traitscope.analysis.steering.search import Cell, effect_of, signal_of
from traitscope.analysis.steering.setting import Bench
from traitscope.utils.measures.intervals import interval_of

# the same request by three speakers: nothing is asked that was not asked before
FORMS = (
    "A friend of mine would like to know this, and I could not answer it well. {question}",
    "{question} Put it in your own words, please.",
    "I have been thinking about something lately, and here is my question: {question} What would you say?",
)


def paraphrase(form: str, question: str) -> str:
    """Return a question in one of the forms."""
    return form.replace("{question}", question.strip())


def try_paraphrases(bench: Bench, cell: Cell, test: Sequence[str]) -> dict:
    """Repeat unsteered, + and − on three paraphrases of every test question.

    Returns:
        Effect and odd part over all, with intervals clustered by question, and the odd part of each form.
    """
    signs = (("plus", 1), ("minus", -1)) if cell.treatment.has_opposite else (("plus", 1),)
    effects, signals, by_form = [], [], []
    clusters = list(range(len(test))) * len(FORMS)

    for i, form in enumerate(FORMS):
        arms = [Arm(f"paraphrase {i}"), *(Arm(f"paraphrase {i} {s}", cell.pushes(sign)) for s, sign in signs)]
        unsteered, plus, *rest = bench.measure(arms, [paraphrase(form, q) for q in test])
        effect = effect_of(plus, unsteered, cell.sign, keep=True)
        signal = signal_of(plus, rest[0] if rest else None, unsteered, cell.sign, keep=True)
        effects.append(effect)
        signals.append(signal)
        by_form.append({"form": form, "odd_part": interval_of(signal)})

    return {
        "effect": interval_of(np.concatenate(effects), clusters),
        "odd_part": interval_of(np.concatenate(signals), clusters),
        "forms": by_form,
    }
