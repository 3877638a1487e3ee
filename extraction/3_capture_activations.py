"""Stage 3: the mean activation of every response at every layer, in one forward pass per batch."""

import sys
from pathlib import Path

if not __package__:  # run as a script
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import utils  # noqa: F401  # before torch: it sets the threads that torch starts with

from torch import Tensor, float16

from extraction.activations import split_held_out
from extraction.responses import read_origin, read_responses, response_digests
from utils.artifacts import save_tensor, write_json
from utils.capture import Reading, pool_activations, select_positions
from utils.errors import UserError
from utils.experiment import stage_main
from utils.hooks import Component
from utils.model import ModelOptions, load_lm
from utils.paths import SIDES, TraitPaths
from utils.stage import Stage

NAME = "3_capture_activations"


def capture_activations(
    paths: TraitPaths,
    *,
    lm: ModelOptions,
    component: Component = "residual",
    position: str = "response[:]",
    val_share: float = 0.2,
    split_seed: int = 0,
    batch_tokens: int = 0,
) -> dict:
    """Capture every layer's activation of every response, averaged over the chosen positions.

    Args:
        component: residual, attn_out or mlp_out.
        position: Pooled tokens, such as response[:], response[:5], response[-1] or prompt[-1].
        val_share: Share of the pairs held out from fitting.
        split_seed: Seed of the held-out split.
        batch_tokens: Tokens per forward pass; 0 chooses.
    """
    if not 0 <= val_share < 1:
        raise UserError(f"--val-share {val_share} must be at least 0 and below 1")
    responses = read_responses(paths)
    chosen = [select_positions(position, len(r.prompt_ids), len(r.response_ids)) for r in responses]
    kept = [(r, p) for r, p in zip(responses, chosen, strict=True) if p]
    if not kept:
        raise UserError(f"{paths.trait}: position {position} names no token of any response")
    model = load_lm(lm)
    wrote, reads = (origin.get("identity") for origin in (read_origin(paths), model.identity))
    if wrote != reads:
        raise UserError(f"{paths.trait}: the responses are token ids of {wrote}, not of {reads}; run 1_generate_responses with the same model first")
    readings = [Reading(r.prompt_ids + r.response_ids, p) for r, p in kept]
    pooled = pool_activations(model, readings, component=component, batch_tokens=batch_tokens, label=f"{NAME} {paths.trait}")
    stored = as_stored(pooled.activations, model.identity["dtype"])
    splits = split_held_out([r for r, _ in kept], val_share, split_seed)
    metadata = {
        "made_by": {"stage": NAME, "model": model.identity},
        "responses_sha256": response_digests(paths),
        "component": component,
        "position": position,
        "shape": list(stored.shape),
        "dtype": str(stored.dtype).removeprefix("torch."),
        "sha256": save_tensor(paths.activations, stored),
        "mean_norms": [round(float(x), 4) for x in pooled.norms],
        "left_out_without_tokens": [r.key for r, p in zip(responses, chosen, strict=True) if not p],
        "rows": [{"key": r.key, "side": r.side, "pair": r.pair, "group": r.group, "split": s} for (r, _), s in zip(kept, splits, strict=True)],
    }
    write_json(paths.activations_metadata, metadata)
    return {"responses": len(kept), "layers": model.n_layers, "held out": splits.count("val"), "without tokens": len(responses) - len(kept)}


def as_stored(activations: Tensor, model_dtype: str) -> Tensor:
    """Return what is written: float32, or float16 where the model ran in 16 bits and every value fits (some models' residuals overflow)."""
    if model_dtype == "float32":
        return activations
    half = activations.to(float16)
    return half if half.isfinite().all() else activations


STAGE = Stage(
    name=NAME,
    run=capture_activations,
    inputs=lambda paths, params: [paths.responses(side) for side in SIDES],
    outputs=lambda paths, params: [paths.activations, paths.activations_metadata],
    cosmetic=("batch_tokens",),
)

if __name__ == "__main__":
    stage_main(STAGE)
