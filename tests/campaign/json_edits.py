"""What can become of the JSON in a file: each edit takes a Random and the content, changes it in place, and
says how.
"""

from collections.abc import Callable
from random import Random
from typing import Any


def _spots(content: Any) -> list[tuple[Any, Any]]:
    """Return every (container, key) of a JSON content."""
    found: list[tuple[Any, Any]] = []
    keys = (
        content.keys()
        if isinstance(content, dict)
        else range(len(content))
        if isinstance(content, list)
        else ()
    )
    for key in keys:
        found.append((content, key))
        found += _spots(content[key])
    return found


def _spot(rng: Random, content: Any) -> tuple[Any, Any]:
    """Return one place, each depth as likely as the next: else long lists of ids would get all."""
    holder, key = None, None
    while isinstance(content, (dict, list)) and content:
        holder, key = content, rng.choice(list(content) if isinstance(content, dict) else range(len(content)))
        content = holder[key]
        if rng.random() < 0.3:
            break
    if holder is None:
        raise LookupError
    return holder, key


RAW = {  # JSON that json.dumps does not write
    "NaN": "NaN",
    "Infinity": "Infinity",
    "1e400": "1e400",
    "huge int": "9" * 5000,
    "lone surrogate": '"\\ud800"',
    "nesting": "[" * 100_000 + "]" * 100_000,
}
VALUES: list[Any] = [
    None,
    True,
    "",
    "x",
    0,
    -1,
    -0.5,
    1e30,
    2**63,
    [],
    {},
    [[]],
    {"a": None},
    "../../etc/passwd",
]


def set_value(rng: Random, content: Any) -> str:
    """Give a random place another value."""
    holder, key = _spot(rng, content)
    value = rng.choice(VALUES)
    holder[key] = value
    return f"{key!r} set to {value!r}"


def set_raw(rng: Random, content: Any) -> str:
    """Give a random place what no writer writes."""
    holder, key = _spot(rng, content)
    name = rng.choice(list(RAW))
    holder[key] = f"@@{name}@@"
    return f"{key!r} set to {name}"


def delete_key(rng: Random, content: Any) -> str:
    """Delete a random place."""
    holder, key = _spot(rng, content)
    del holder[key]
    return f"{key!r} deleted"


def add_key(rng: Random, content: Any) -> str:
    """Add a key to a random object."""
    dicts = [content, *(h[k] for h, k in _spots(content))]
    holder = rng.choice([d for d in dicts if isinstance(d, dict)])
    holder["surplus"] = 1
    return "a key added"


def nudge(rng: Random, content: Any) -> str:
    """Change a number a little."""
    spots = [
        (h, k) for h, k in _spots(content) if isinstance(h[k], (int, float)) and not isinstance(h[k], bool)
    ]
    holder, key = rng.choice(spots)
    before = holder[key]
    holder[key] = before + 1 if isinstance(before, int) else before * 1.01 + 1e-3
    return f"{key!r} {before} → {holder[key]}"


def disorder(rng: Random, content: Any) -> str:
    """Double, drop or swap rows of a list."""
    holder, key = rng.choice([(h, k) for h, k in _spots(content) if isinstance(h[k], list) and len(h[k]) > 1])
    rows, how = holder[key], rng.choice(["doubled", "dropped", "swapped"])
    i, j = rng.sample(range(len(rows)), 2)
    if how == "doubled":
        rows.insert(j, rows[i])
    elif how == "dropped":
        del rows[i]
    else:
        rows[i], rows[j] = rows[j], rows[i]
    return f"rows {i} and {j} of {key!r}: {how}"


def swap_words(rng: Random, content: Any) -> str:
    """Exchange the sides, or train and val, or another pair, somewhere."""
    pairs = [("pos", "neg"), ("train", "val"), ("high", "low"), ("dev", "test"), ("plus", "minus")]
    spots = [
        (h, k, a, b)
        for h, k in _spots(content)
        for a, b in pairs
        if isinstance(h[k], dict) and {a, b} <= h[k].keys()
    ]
    spots += [(h, k, a, b) for h, k in _spots(content) for a, b in pairs if h[k] in (a, b)]
    holder, key, a, b = rng.choice(spots)
    value = holder[key]
    if isinstance(value, dict):
        value[a], value[b] = value[b], value[a]
    else:
        holder[key] = b if value == a else a
    return f"{a} and {b} exchanged in {key!r}"


def move_keys(rng: Random, content: Any) -> str:
    """Move half of what is held out to what is trained on."""
    spots = [
        h[k]
        for h, k in [*_spots({"": content})]
        if isinstance(h[k], dict) and isinstance(h[k].get("val"), list)
    ]
    place = rng.choice([p for p in spots if p["val"]])
    half = place["val"][::2]
    place["val"] = place["val"][1::2]
    if isinstance(place.get("train"), list):
        place["train"] += half
    return "keys moved from val to train"


def retype(_: Random, content: Any) -> str:
    """Change nothing: the file is only written anew."""
    return "written anew, unchanged"


JSON_EDITS: tuple[Callable[[Random, Any], str], ...] = (
    *(set_value, set_value, set_raw, delete_key, delete_key, add_key, nudge, nudge),
    *(disorder, swap_words, move_keys, retype),
)
