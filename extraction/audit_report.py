"""An audit, as text for people."""

from extraction.audit import Audit, Finding


def render_audit(audit: Audit) -> str:
    """Return one block: a line for every check, then what to change and what was accepted."""
    rows = [(f.check, f.status, render_number(f.number), f"{'≥' if f.is_minimum else '≤'} {render_number(f.threshold)}", f.detail) for f in audit.findings]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  " + "  ".join([row[0].ljust(widths[0]), row[1].ljust(widths[1]), row[2].rjust(widths[2]), row[3].ljust(widths[3]), row[4]]) for row in rows]
    return (
        "\n".join([render_head(audit), *(line.rstrip() for line in table), *_notes(audit, "FAIL", "to change"), *_notes(audit, "accepted", "accepted")]) + "\n"
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
