"""The formats there are, each a file that is written and read."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from traitscope.analysis.exchange import gguf_format, persona_format, repeng_format, safetensors_format
from traitscope.analysis.exchange.bundle import Bundle, Foreign, Found, Shape, check_vectors, read_bounded
from traitscope.utils.errors import UserError
from traitscope.utils.files.reading import read_json

FACTS = "facts.json"  # of an export: what is known of the vectors, and the digest of every file


@dataclass(frozen=True)
class Format:
    """A kind of file."""

    file: str  # its name in an export
    write: Callable[[Bundle], bytes]
    read: Callable[[bytes, Shape], Found]
    about: str  # a sentence for the card
    first_layer: int = 0  # the lowest that it can hold


FORMATS = {
    "safetensors": Format(
        "vectors.safetensors",
        safetensors_format.write,
        safetensors_format.read,
        "Tensor `layer_<l>` is added to the output of decoder block l, counted from 0.",
    ),
    "gguf": Format(
        "control_vector.gguf",
        gguf_format.write,
        gguf_format.read,
        (
            "A llama.cpp control vector: `direction.<k>` is added to the output of block k, counted from 0; "
            "block 0 cannot have one."
        ),
        first_layer=1,
    ),
    "repeng": Format(
        "repeng.gguf",
        repeng_format.write,
        repeng_format.read,
        "For `ControlVector.import_gguf` of repeng: key l is the output of block l, counted from 0.",
    ),
    "persona_vectors": Format(
        "persona_vectors.pt",
        persona_format.write,
        persona_format.read,
        "A tensor [n_layers + 1, d_model] in the order of `hidden_states`: row l + 1 is the output of block l (so persona_vectors' `layer` is l + 1), "
        "row 0 is empty, and so is the row of every layer that is not listed.",
    ),
}


def require_format(name: str) -> Format:
    """Return a format by name.

    Raises:
        UserError: there is none of that name.
    """
    if name not in FORMATS:
        raise UserError(f"unknown format {name!r}; choose {', '.join(FORMATS)}")
    return FORMATS[name]


def read_vectors(path: Path, name: str, shape: Shape) -> Foreign:
    """Return the vectors of a file that somebody else may have made.

    Raises:
        UserError: the file is not what it should be.
    """
    form = require_format(name)
    data = read_bounded(path, shape)
    sha256 = hashlib.sha256(data).hexdigest()
    if _stated_digest(path) not in (None, sha256):
        raise UserError(f"{path} is not the file that {FACTS} beside it describes; export it again")

    try:
        found = form.read(data, shape)
        return Foreign(check_vectors(found.vectors, shape), found.said, sha256)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _stated_digest(path: Path) -> str | None:
    """Return the sha256 that an export's facts state of a file; None where there are none, or none of ours."""
    try:
        facts = read_json(path.with_name(FACTS))
    except UserError:
        return None
    files = facts.get("files") if isinstance(facts, dict) else None
    return files.get(path.name) if isinstance(files, dict) else None
