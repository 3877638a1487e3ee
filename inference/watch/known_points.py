"""Where a prompt set says that a trait should turn, and whether it did."""

from traitscope.inference.watch.dynamics import change_at
from traitscope.utils.model.tokens import locate
from traitscope.utils.records.readings import Projections
from traitscope.utils.records.recorded import Record


def turn_of(record: Record, scores: Projections) -> dict | None:
    """Return how the trait changed where the prompt set says that it should: fields trait, expect (rise,
    fall), where, at.

    In a prompt the point is the words `at`, within the last message; in a response, which no one can point
    into beforehand, it is the middle.
    """
    about = record.metadata
    if about.get("trait") != scores.origin["trait"] or about.get("expect") not in ("rise", "fall"):
        return None

    last = max(
        (t for t in record.turns if t["end"] <= record.prompt_tokens), key=lambda t: t["end"], default=None
    )
    where = about.get("where", "prompt")
    start, end = (
        (record.prompt_tokens, len(record.ids))
        if where == "response" or last is None
        else (last["start"], last["end"])
    )
    place = (end - start) // 2
    if where != "response":
        spans = locate(record.tokens[start:end], [str(about.get("at", ""))])
        if spans[0] is None:
            return None
        place = spans[0][0]

    change = change_at(scores.on("centered")[start:end], place)
    return (
        None
        if change is None
        else {
            "id": record.id,
            "where": where,
            "expect": about["expect"],
            "token": start + place,
            "change": round(change, 6),
        }
    )
