"""safetensors: one float32 tensor `layer_<l>` [d_model] for each layer, added to the output of block l;
the card's facts in the header.
"""

import json
import re

from safetensors import SafetensorError
from safetensors.torch import load, save

from traitscope.analysis.exchange.bundle import SAID, Bundle, Found, Shape
from traitscope.utils.errors import UserError, first_line

KEY = "traitscope"  # the header's entry that holds the facts
# those of them that an import keeps
SAYS = ("made_by", "model_name", "model_type", "trait", "method", "component", "position")
_NAME = re.compile(r"layer_(\d{1,4})")


def write(bundle: Bundle) -> bytes:
    """Return the file's content."""
    tensors = {f"layer_{layer}": vector.contiguous() for layer, vector in bundle.vectors.items()}
    return save(tensors, {KEY: json.dumps(bundle.facts, ensure_ascii=False, sort_keys=True)})


def read(data: bytes, shape: Shape) -> Found:
    """Return the vectors. The library checks the header against the bytes that there are before it takes
    anything from them.

    Raises:
        UserError: it is no safetensors file, or a tensor is not named layer_<l>.
    """
    try:
        tensors = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"not a readable safetensors file ({first_line(error)})") from None

    names = {name: _NAME.fullmatch(name) for name in tensors}

    for name, match in names.items():
        if not match:
            raise UserError(f"a tensor named {name[:SAID]!r}; vectors are named layer_0, layer_1, …")

    found = {int(match[1]): tensors[name] for name, match in names.items() if match}
    if len(found) < len(tensors):
        raise UserError("two tensors for one layer")

    return Found(found, _said(data))


def _said(data: bytes) -> dict[str, str]:
    """Return what the header says of model, trait and method, as text; nothing where it is not ours."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])  # the library has read it already
    try:
        facts = json.loads((header.get("__metadata__") or {}).get(KEY, "{}"))
    except (ValueError, RecursionError):
        return {}
    said = facts if isinstance(facts, dict) else {}
    return {key: said[key][:SAID] for key in SAYS if isinstance(said.get(key), str)}
