"""The names of layers on the command line."""

import re

from traitscope.utils.errors import UserError

DEPTH = 0.55  # of the layers, where `--choose-by depth` steers
USUAL_LAYERS = "30%-70%:4"  # among which it is chosen
_LAYER = re.compile(r"(\d+)(%?)(?:-(\d+)(%?))?(?::(\d+))?")


def usual_layer(n_layers: int) -> int:
    """Return the layer at which stage 5 steers where no flag says otherwise."""
    return min(parse_layers(USUAL_LAYERS, n_layers), key=lambda layer: abs(layer - DEPTH * n_layers))


def parse_layers(spec: str, n_layers: int) -> list[int]:
    """Return the layers a spec names, ascending.

    Args:
        spec: all, 16, 5-20, 0-75:5 (every fifth), 30%-60% (of depth), or several of these separated by
            commas.

    Raises:
        UserError: the spec is malformed or names a layer that the model does not have.
    """
    chosen: set[int] = set()
    for part in spec.split(","):
        match = _LAYER.fullmatch(part.strip())
        if part.strip() == "all":
            chosen |= set(range(n_layers))
        elif match:
            first = _resolve(match[1], match[2], n_layers)
            last = _resolve(match[3] or match[1], match[4] or match[2], n_layers)
            chosen |= set(range(first, last + 1, int(match[5] or 1) or 1))
        else:
            raise UserError(
                f"layers {spec!r}: {part.strip()!r} is not a layer; write all, 16, 5-20, 0-75:5 or 30%-60%"
            )

    unknown = sorted(layer for layer in chosen if layer >= n_layers)
    if unknown or not chosen:
        raise UserError(
            f"layers {spec!r}: {f'no layer {unknown[0]}' if unknown else 'nothing chosen'}; the model has "
            f"layers 0 to {n_layers - 1}"
        )

    return sorted(chosen)


def _resolve(number: str, percent: str, n_layers: int) -> int:
    if percent:
        return round(int(number) / 100 * (n_layers - 1)) if int(number) <= 100 else n_layers
    return int(number)
