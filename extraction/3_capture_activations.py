"""Stage 3: the mean activation of every response at every layer, in one forward pass per batch.

For example:

    python extraction/3_capture_activations.py --experiment demo --traits behavioral/formality --val-share 0.3
"""

import runpy
from pathlib import Path
from typing import Annotated

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "__init__.py"), run_name="checkout")

from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import CAPTURE, GENERATE, SIDES, TraitPaths
from traitscope.utils.model.capture import Reading, pool_activations, select_positions
from traitscope.utils.model.loading import LM, ModelOptions, load_lm
from traitscope.utils.model.parts import Component
from traitscope.utils.records.activations import write_captured
from traitscope.utils.records.held_out import ASIDE, VAL, split_held_out
from traitscope.utils.records.responses import read_origin, read_responses, response_digests
from traitscope.utils.stage.alone import stage_command
from traitscope.utils.stage.command import command
from traitscope.utils.stage.stage import Stage


def capture_activations(
    paths: TraitPaths,
    *,
    model: ModelOptions,
    component: Annotated[Component, "residual, attn_out or mlp_out."] = "residual",
    position: Annotated[
        str, "Pooled tokens, such as response[:], response[:5], response[-1] or prompt[-1]."
    ] = "response[:]",
    val_share: Annotated[
        float, "Share of the pairs held out; of questions that meet instructions, of what is not left aside."
    ] = 0.2,
    split_seed: Annotated[int, "Seed of the held-out split."] = 0,
    batch_tokens: Annotated[int, "Tokens per forward pass; 0 chooses."] = 0,
) -> dict:
    """Capture every layer's activation of every response, averaged over the chosen positions."""
    if not 0 <= val_share < 1:
        raise UserError(f"--val-share {val_share} must be at least 0 and below 1")

    responses = read_responses(paths)
    chosen = [select_positions(position, len(r.prompt_ids), len(r.response_ids)) for r in responses]
    kept = [(r, p) for r, p in zip(responses, chosen, strict=True) if p]
    if not kept:
        raise UserError(f"{paths.trait}: position {position} names no token of any response")

    lm = load_lm(model)
    require_own_tokens(paths, lm)
    readings = [Reading(r.prompt_ids + r.response_ids, p) for r, p in kept]
    label = f"{CAPTURE} {paths.trait}"
    pooled = pool_activations(lm, readings, component=component, batch_tokens=batch_tokens, label=label)

    held_out = split_held_out([r for r, _ in kept], val_share, split_seed)
    rows = [
        {"key": r.key, "side": r.side, "pair": r.pair, "group": group, "split": split}
        for (r, _), group, split in zip(kept, held_out.groups, held_out.splits, strict=True)
    ]
    about = {
        "made_by": {"stage": CAPTURE, "model": lm.identity},
        "responses_sha256": response_digests(paths),
        "component": component,
        "position": position,
        "mean_norms": [round(float(x), 4) for x in pooled.norms],
        "left_out_without_tokens": [r.key for r, p in zip(responses, chosen, strict=True) if not p],
        "held_out": held_out.as_json(),
        "rows": rows,
    }
    write_captured(paths, pooled.activations, about)

    without = len(responses) - len(kept)
    return {
        "responses": len(kept),
        "layers": lm.n_layers,
        "held out": held_out.splits.count(VAL),
        **({"left aside": aside} if (aside := held_out.splits.count(ASIDE)) else {}),
        "without tokens": without,
    }


def require_own_tokens(paths: TraitPaths, lm: LM) -> None:
    """Raise UserError when the responses are token ids of another model."""
    wrote, reads = (origin.get("identity") for origin in (read_origin(paths), lm.identity))
    if wrote != reads:
        advice = f"run {GENERATE} with the same model first"
        raise UserError(f"{paths.trait}: the responses are token ids of {wrote}, not of {reads}; {advice}")


STAGE = Stage(
    name=CAPTURE,
    run=capture_activations,
    version=2,
    inputs=lambda paths, params: [paths.responses(side) for side in SIDES],
    outputs=lambda paths, params: [paths.activations, paths.activations_metadata],
    cosmetic=("batch_tokens",),
)

if __name__ == "__main__":
    command(stage_command(STAGE))
