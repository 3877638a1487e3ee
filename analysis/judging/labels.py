"""Scores that people gave, as a CSV file."""

from pathlib import Path

import pandas as pd

from traitscope.utils.errors import UserError, first_line

COLUMNS = ("trait", "key", "score", "prompt", "response")


def read_labels(path: Path) -> dict[tuple[str, str], float]:
    """Return {(trait, key): score} of the rows that have a score.

    Raises:
        UserError: the file is missing, is no such table, or a score is not a number from 0 to 100.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read labels {path}: {first_line(error)}") from None

    if missing := [c for c in COLUMNS[:3] if c not in table]:
        raise UserError(f"{path} has no column {missing[0]!r}; it needs trait, key and score")
    labels = {}

    for line, (trait, key, score) in enumerate(zip(*(table[c] for c in COLUMNS[:3]), strict=True), 2):
        if score.strip():
            if (trait, key) in labels:
                raise UserError(
                    f"{path}, line {line}: {trait} {key} has been labelled before; keep one of the two"
                )
            labels[trait, key] = _label(score, f"{path}, line {line}")

    return labels


def _label(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise UserError(f"{where}: score {text!r} is not a number from 0 to 100")
    return value
