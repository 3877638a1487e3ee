"""An audit, as text for people."""

from traitscope.extraction.audit.checks import Audit, Finding


def render_audit(audit: Audit) -> str:
    """Return one block: a line for every check, then what to change and what was accepted."""
    rows = [
        (
            f.check,
            f.status,
            render_number(f.number),
            f"{'≥' if f.is_minimum else '≤'} {render_number(f.threshold)}",
            f.detail,
        )
        for f in audit.findings
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = [
        "  "
        + "  ".join(
            [
                row[0].ljust(widths[0]),
                row[1].ljust(widths[1]),
                row[2].rjust(widths[2]),
                row[3].ljust(widths[3]),
                row[4],
            ]
        )
        for row in rows
    ]

    return (
        "\n".join(
            [
                render_head(audit),
                *(line.rstrip() for line in table),
                *_notes(audit, "FAIL", "to change"),
                *_notes(audit, "accepted", "accepted"),
            ]
        )
        + "\n"
    )


def render_head(audit: Audit) -> str:
    """Return the trait's name with the verdict on its data."""
    counts = {status: sum(f.status == status for f in audit.findings) for status in ("FAIL", "accepted")}
    verdict = f"{counts['FAIL']} of {len(audit.findings)} checks fail" if counts["FAIL"] else "clean"
    accepted = f", {counts['accepted']} accepted" if counts["accepted"] else ""
    return f"{audit.trait}{f' ({audit.form})' if audit.form else ''}: {verdict}{accepted}"


def _notes(audit: Audit, status: str, title: str) -> list[str]:
    return [f"  {title}: {f.check}: {_note(f)}" for f in audit.findings if f.status == status]


def _note(finding: Finding) -> str:
    return finding.reason or finding.advice


def render_number(number: float) -> str:
    """Return a count as it is and a measure with two decimals."""
    return str(int(number)) if number == int(number) else f"{number:.2f}"


def render_trial(trial: dict) -> str:
    """Return what --quick found: the sides' scores, how far apart they are, and every reply."""
    if "error" in trial:
        return f"  not tried: {trial['error']}\n"

    accuracy = trial["judge_accuracy"]
    judge = f"; the judge tells {accuracy:.0%} of unseen pairs' texts apart" if accuracy is not None else ""
    return (
        "\n".join(
            [
                f"  tried: {_render_separation(trial)}{judge}",
                *(_render_reply(reply) for reply in trial["replies"]),
            ]
        )
        + "\n"
    )


def _render_separation(trial: dict) -> str:
    apart = trial["separation"]
    if apart is None:
        return "fewer than two responses of a side could be judged"
    verdict = "the trait shows" if apart["auroc_low"] > 0.5 else "not clear from so few"
    scores = (
        f"mean score {trial['mean_pos']:.0f} pos, {trial['mean_neg']:.0f} neg, difference "
        f"{trial['difference']:+.0f}"
    )
    return (
        f"{scores}; AUROC {apart['auroc']:.2f} [{apart['auroc_low']:.2f}, {apart['auroc_high']:.2f}], "
        f"{verdict}"
    )


def _render_reply(reply: dict) -> str:
    score = reply["score"]["value"]
    shown = reply["score"]["state"] if score is None else f"{score:.0f}"
    return (
        f"    {reply['side']} {reply['line']:>3}  {shown:>3}  …{_shorten(reply['prompt'][-50:])} → "
        f"{_shorten(reply['response'][:90])}"
    )


def _shorten(text: str) -> str:
    return " ".join(text.split())
