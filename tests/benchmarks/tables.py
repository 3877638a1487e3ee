"""Results as Markdown: a table of ways, a table of targets, and what was not run."""


def render_subject(results: dict) -> str:
    """Return a subject's results as Markdown.

    Args:
        results: subject, setting (name → value), rows, and where there are any: targets, notes.
    """
    setting = ", ".join(f"{name} {value}" for name, value in results["setting"].items())
    parts = [f"### {results['subject']}", setting]
    parts += [render_rows(rows) for rows in _groups(results["rows"])]
    if results.get("targets"):
        parts.append(render_targets(results["targets"]))
    parts += results.get("notes", [])
    return "\n\n".join(part for part in parts if part) + "\n"


def _groups(rows: list[dict]) -> list[list[dict]]:
    """Cut rows where their columns change: rows that were not run stay where they are."""
    groups: list[list[dict]] = []
    for row in rows:
        columns = [name for name in row if not name.endswith(("_low", "_high"))]
        if groups and (
            "not_run" in row or columns == [n for n in groups[-1][0] if not n.endswith(("_low", "_high"))]
        ):
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def render_rows(rows: list[dict]) -> str:
    """Return a table; a figure with a spread reads median (low–high), and a way that was not run says why."""
    columns = [name for name in rows[0] if not name.endswith(("_low", "_high"))]
    lines = [_line(name.replace("_", " ") for name in columns), _line("---" for _ in columns)]
    for row in rows:
        cells = (
            [row["way"], f"not run: {row['not_run']}"]
            if "not_run" in row
            else [_cell(row, name) for name in columns]
        )
        lines.append(_line([*cells, *[""] * (len(columns) - len(cells))]))
    return "\n".join(lines)


def _cell(row: dict, name: str) -> str:
    value = _figure(row[name], name)
    return (
        f"{value} ({_figure(row[f'{name}_low'])}–{_figure(row[f'{name}_high'])})"
        if f"{name}_low" in row
        else value
    )


def _figure(value: object, name: str = "") -> str:
    if not isinstance(value, float):
        return "" if value is None else str(value).replace("|", "\\|")
    if "cosine" in name:
        return f"{value:.7f}"
    if value == 0:
        return "0"
    if abs(value) >= 0.001:
        return (
            f"{value:.0f}"
            if abs(value) >= 100
            else f"{value:.1f}"
            if abs(value) >= 10
            else f"{value:.2f}"
            if abs(value) >= 1
            else f"{value:.3f}"
        )
    return f"{value:.1e}"


def render_targets(targets: list[dict]) -> str:
    """Return the table of targets, each with what was found."""
    lines = [_line(["target", "wanted", "found", ""]), _line(["---"] * 4)]
    for target in targets:
        verdict = "not run" if target["found"] is None else "met" if target["met"] else "**missed**"
        lines.append(
            _line([target["target"], target["wanted"], _figure(target["found"], target["target"]), verdict])
        )
    return "\n".join(lines)


def at_most(name: str, limit: float, found: float | None) -> dict:
    """Return a target that is met by staying at or below a limit."""
    return {
        "target": name,
        "wanted": f"≤ {limit:g}",
        "found": found,
        "met": found is not None and found <= limit,
    }


def at_least(name: str, limit: float, found: float | None) -> dict:
    """Return a target that is met by reaching a limit."""
    return {
        "target": name,
        "wanted": f"≥ {limit:g}",
        "found": found,
        "met": found is not None and found >= limit,
    }


def _line(cells: object) -> str:
    return "| " + " | ".join(cells) + " |"  # type: ignore[arg-type]
