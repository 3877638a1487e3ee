"""Does the vector still work when the questions are put in other words?"""

from collections.abc import Sequence

import numpy as np

from traitscope.analysis.steering.arms import Arm
from traitscope.analysis.steering.search import Cell, signal_of
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
    """Repeat the chosen cell, both ways, on three paraphrases of every test question.

    Returns:
        The odd part over all, or the effect of what has no opposite, with its interval clustered by question, and
        that of each form.
    """
    signs = {"plus": 1, "minus": -1} if cell.treatment.has_opposite else {"unsteered": 0, "plus": 1}
    signals, by_form = [], []

    for i, form in enumerate(FORMS):
        arms = [
            Arm(f"paraphrase {i} {name}", cell.pushes(sign) if sign else (), grades_coherence=False)
            for name, sign in signs.items()
        ]
        found = dict(zip(signs, bench.measure(arms, [paraphrase(form, q) for q in test]), strict=True))
        plus, minus = found["plus"], found.get("minus")
        signal = signal_of(plus, minus, found.get("unsteered", plus), cell.sign, keep=True)
        signals.append(signal)
        by_form.append({"form": form, "odd_part": interval_of(signal)})

    clusters = list(range(len(test))) * len(FORMS)
    return {"odd_part": interval_of(np.concatenate(signals), clusters), "forms": by_form}
