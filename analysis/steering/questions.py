"""Questions are split once, by hash: dev chooses method, layer and dose; test is what is reported."""

import hashlib
from collections.abc import Sequence

from traitscope.utils.errors import UserError

DEV_SHARE = 40  # percent


def split_questions(questions: Sequence[str], subset: int = 0) -> tuple[list[str], list[str]]:
    """Return (dev, test). A question's part depends on its text alone, so adding others never moves it.

    Args:
        subset: Keep only the first so many of each part; 0 keeps all.

    Raises:
        UserError: a part has fewer than 3 questions.
    """
    unique = list(dict.fromkeys(questions))
    is_dev = [
        int.from_bytes(hashlib.sha256(q.encode()).digest()[:4], "big") % 100 < DEV_SHARE for q in unique
    ]
    dev = [q for q, chosen in zip(unique, is_dev, strict=True) if chosen]
    test = [q for q, chosen in zip(unique, is_dev, strict=True) if not chosen]
    if min(len(dev), len(test)) < 3:
        raise UserError(
            f"steering.json has {len(unique)} questions, of which {len(dev)} fall to dev and {len(test)} to "
            "test; add some (20 are good)"
        )

    return dev[: subset or None], test[: subset or None]
