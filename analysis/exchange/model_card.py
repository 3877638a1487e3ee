"""The model card of an export: everything needed to use the vectors, what was found about them, and what
is not known.
"""

from collections.abc import Sequence
from typing import Any

from traitscope.analysis.exchange.formats import FORMATS
from traitscope.analysis.exchange.snippets import TARGETS, Target, Use, model_for, render_snippet

MISSING = "not recorded"
HEAD = "---\ntags:\n- steering-vector\n- control-vector\n- activation-steering\n{base}---\n"
CONVENTION = (
    "Layer l is the output of decoder block l (what it hands to the next block), 0 ≤ l < {n_layers}; `hidden_states[l + 1]` in transformers, "
    "but for the last. A vector points from the negative to the positive side of the trait and is meant to be added, times a coefficient, at every position."
)


def render_card(facts: dict[str, Any], layers_in: dict[str, list[int]]) -> str:
    """Return README.md.

    Args:
        facts: What `gather` found.
        layers_in: format → the layers that its file holds.
    """
    parts = [
        _head(facts),
        f"# {facts['trait']}: {facts['method']} vectors for {_said(facts['model_name'])}\n",
        _table([("", ""), *_origin_rows(facts)]),
        "\n## Layers\n\n" + CONVENTION.format(**facts) + "\n",
        _table(
            [
                (
                    "layer",
                    "norm",
                    "fitted on pos + neg",
                    "held-out AUROC [95 %]",
                    "Cohen's d [95 %]",
                    "held out pos + neg",
                ),
                *_layer_rows(facts),
            ]
        ),
        "\n## What steering with it does\n",
        _verdict(facts["steering"]),
        "\n## Files\n",
        _table(
            [
                ("file", "layers", "how to read it"),
                *(
                    (f"`{FORMATS[f].file}`", ", ".join(map(str, held)), FORMATS[f].about)
                    for f, held in layers_in.items()
                ),
            ]
        ),
        "\n## Use\n",
        _use(facts, layers_in),
    ]
    return "\n".join(parts).rstrip() + "\n"


def _said(value: Any) -> str:
    return MISSING if value is None or value == "" else str(value)


def _head(facts: dict[str, Any]) -> str:
    name = facts["loads_as"]
    return HEAD.format(base=f"base_model: {name}\n" if name and "/" in name else "")


def _table(rows: Sequence[Sequence[str]]) -> str:
    header, *body = rows
    return "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in (header, ["---"] * len(header), *body))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _origin_rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    model = facts["model"]
    made_with = (
        f"made with the model in {model['dtype']}, quantisation {model['quantization'] or 'none'}"
        if model["dtype"]
        else f"the model's {MISSING}"
    )
    rows = [
        ("model", _said(facts["model_name"])),
        ("revision", _said(model["revision"])),
        ("digest of its files", _said(facts["model_digest"])),
        (
            "architecture",
            f"{_said(model['architecture'])}, {facts['n_layers']} layers of width {facts['d_model']}",
        ),
        ("site", _said(facts["component"])),
        ("position", _said(facts["position"])),
        (
            "chat template",
            {True: "used for questions", False: "not used"}.get(model["chat_template"], MISSING),
        ),
        ("precision", f"vectors float32, {made_with}"),
    ]
    if facts["origin"] is None:
        return [*rows, ("made by", f"traitscope, git commit {_said(facts['git_commit'])}")]

    return [
        *rows,
        ("made by", _said(facts["origin"]["made_by"])),
        ("imported from", _origin(facts["origin"])),
    ]


def _origin(origin: dict[str, Any]) -> str:
    said = "; ".join(f"{key} {value}" for key, value in origin["said"].items())
    return f"{origin['format']} file {origin['file']}, sha256 {origin['sha256']}" + (
        f"; it says: {said}" if said else ""
    )


def _layer_rows(facts: dict[str, Any]) -> list[tuple[str, ...]]:
    rows = []
    for layer in facts["layers"]:
        held = facts["held_out"][layer]
        quality = [_quality(held, figure) for figure in ("auroc", "cohens_d")]
        fitted = "elsewhere" if facts["origin"] else _pair(facts["fitted_on"][layer])
        rows.append(
            (
                str(layer),
                f"{facts['norms'][layer]:.3f}",
                fitted,
                *quality,
                _pair({"pos": held["n_pos"], "neg": held["n_neg"]} if held else None),
            )
        )

    return rows


def _quality(held: dict | None, figure: str) -> str:
    if not held:
        return MISSING
    low, high = (held.get(f"{figure}_{end}") for end in ("low", "high"))
    return f"{held[figure]:.2f}" + ("" if low is None else f" [{low:.2f}, {high:.2f}]")


def _pair(counts: dict | None) -> str:
    return f"{counts['pos']} + {counts['neg']}" if counts else MISSING


def _verdict(found: dict[str, Any]) -> str:
    if "missing" in found:
        return f"Not known: {found['missing']}.\n"

    coherence = found["coherence"]
    rows = [
        ("verdict", f"**{found['verdict']}**: {found['why']}"),
        ("how", _how(found["chosen"])),
        (
            "steered model",
            f"{_said(found['model_name'])}, {found['dtype']}, quantisation {found['quantization'] or 'none'}",
        ),
        ("effect on the trait score (0–100)", _interval(found["effect"])),
        ("odd part, (effect(+v) − effect(−v)) / 2", _interval(found["odd_part"])),
        ("coherence", f"{_number(coherence['unsteered'])} → {_number(coherence['plus'])}"),
        ("questions", _said(found["n_questions"])),
        ("judge", _judge(found["judge"])),
        ("judge of coherence", _judge(found["coherence_judge"])),
        (
            "other precisions",
            "; ".join(f"{name}: {_precision(r)}" for name, r in found["precision"].items())
            if found["precision"]
            else "not tried",
        ),
    ]
    return _table([("", ""), *rows]) + "\n"


def _how(chosen: dict[str, Any]) -> str:
    dose = f"dose {chosen['dose']:g} of the residual norm (coefficient {chosen['coefficient']})"
    others, gate = chosen.get("with_traits") or [], chosen.get("gate_trait")
    extra = [f"with {', '.join(others)} added"] * bool(others) + [f"gated by {gate}"] * bool(gate)

    return ", ".join(
        [
            f"{chosen['operation']} at layer {chosen['layer']}",
            dose,
            f"positions {chosen['positions']}",
            *extra,
        ]
    )


def _precision(result: Any) -> str:
    return _interval(result.get("odd_part")) if isinstance(result, dict) else str(result)


def _judge(identity: dict | None) -> str:
    return f"{identity.get('judge')} ({identity.get('mode')})" if identity else MISSING


def _interval(found: dict | None) -> str:
    return f"{found['mean']:+.1f} [{found['low']:+.1f}, {found['high']:+.1f}]" if found else MISSING


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.0f}"


def usable_cell(facts: dict[str, Any]) -> tuple[int, float, bool]:
    """Return the layer and coefficient that the snippets use, and whether stage 5 tested just that: one
    layer, added everywhere, alone.
    """
    chosen = facts["steering"].get("chosen") or {"operation": "none"}
    is_plain = (
        chosen["operation"] == "add"
        and chosen["positions"] == "all"
        and not chosen.get("with_traits")
        and not chosen.get("gate_trait")
    )
    if is_plain and chosen["layer"] in facts["layers"]:
        return chosen["layer"], chosen["coefficient"], True

    return facts["layers"][len(facts["layers"]) // 2], 1.0, False


def _use(facts: dict[str, Any], layers_in: dict[str, list[int]]) -> str:
    layer, coefficient, is_tested = usable_cell(facts)
    if is_tested:
        why = f"Layer {layer} and coefficient {coefficient:g} are those of the verdict above."
    else:
        why = f"Layer {layer} and coefficient {coefficient:g} are placeholders: no dose was found for these vectors as they are used here."

    targets = [t for t in TARGETS.values() if layer in layers_in.get(t.format, [])]
    uses = [
        Use(model_for(t, facts["loads_as"]), layer, coefficient, facts["model"]["chat_template"] is not False)
        for t in targets
    ]
    return "\n".join([why, *(_snippet(facts, t, use) for t, use in zip(targets, uses, strict=True))])


def _snippet(facts: dict[str, Any], target: Target, use: Use) -> str:
    note = f"\n{target.note}\n" if target.note else ""
    return f"\n### {target.title}\n{note}\n```python\n{render_snippet(target, facts, use)}```"
