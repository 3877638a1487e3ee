"""What a model read of recorded responses: the projections of every token, and whole residual streams."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic import model_validator

from traitscope.utils.errors import UserError, first_line
from traitscope.utils.files.artifacts import write_json
from traitscope.utils.files.journal import key_of
from traitscope.utils.files.paths import InferencePaths, is_trait
from traitscope.utils.files.reading import is_there, read_json
from traitscope.utils.files.tensors import load_tensor, save_tensor
from traitscope.utils.records.recorded import Record, read_index, read_records
from traitscope.utils.records.shaped import Shaped, read_shaped, require_own

if TYPE_CHECKING:  # a laptop without torch reads these files too
    from torch import Tensor


@dataclass(frozen=True)
class Projections:
    """One vector's projections h·v̂ on every token of a text."""

    origin: dict[str, Any]  # of the vector: experiment, trait, method, layer, centre, …
    raw: np.ndarray  # [n_tokens]
    norms: np.ndarray  # [n_tokens], ‖h‖ at that layer

    def on(self, scale: str) -> np.ndarray:
        """Return the projections raw, centred on the midpoint of the trait's two sides, or as the cosine
        of h and v.
        """
        if scale == "centered":
            return self.raw - self.origin["centre"]
        return self.raw / self.norms if scale == "cosine" else self.raw

    @property
    def label(self) -> str:
        return f"{self.origin['trait']} {self.origin['method']} {self.origin['layer']}"


class _Origin(Shaped):
    """What every reader needs to know of a projected vector."""

    trait: str
    method: str
    layer: int
    centre: float
    sha256: str

    @model_validator(mode="after")
    def _is_of_a_trait(self) -> Self:
        assert is_trait(self.trait), "the name of no trait"  # it becomes the name of a file
        return self


def vector_id(origin: dict[str, Any]) -> tuple:
    """Return what makes two readings the same: the vector, by its content."""
    return origin["trait"], origin["method"], origin["layer"], origin["sha256"]


def made_from(record: Record, reader: dict) -> dict[str, Any]:
    """Return what readings say of themselves: whose tokens, read by which model."""
    return {"tokens_sha256": key_of(record.ids), "model": reader}


def write_projections(
    paths: InferencePaths, prompt: str, scores: list[Projections], made_by: dict[str, Any]
) -> None:
    """Write the projections of a prompt; numbers keep six digits."""
    norms = {str(s.origin["layer"]): _rounded(s.norms) for s in scores}
    content = {
        "id": prompt,
        "made_by": made_by,
        "vectors": [s.origin for s in scores],
        "scores": [_rounded(s.raw) for s in scores],
        "norms": norms,
    }
    write_json(paths.projections(prompt), content, indent=None)


def read_projections(
    paths: InferencePaths, prompt: str, made_by: dict[str, Any] | None = None
) -> list[Projections]:
    """Read the projections of a prompt; none where there is no file, or where it was not made by what
    `made_by` says.

    Raises:
        UserError: the file is damaged.
    """
    if not is_there(paths.projections(prompt)):
        return []

    content = read_json(paths.projections(prompt))
    try:
        require_own(paths.projections(prompt), prompt=(content.get("id"), prompt))
        if made_by is not None and content["made_by"] != made_by:
            return []
        found = [
            Projections(origin, np.array(raw, float), np.array(content["norms"][str(origin["layer"])], float))
            for origin, raw in zip(content["vectors"], content["scores"], strict=True)
        ]
        for scores in found:
            _Origin.model_validate(scores.origin)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"{paths.projections(prompt)} is damaged ({first_line(error)}); delete it and project again"
        ) from None

    if any(s.raw.ndim != 1 or s.raw.shape != s.norms.shape or not _is_finite(s) for s in found):
        raise UserError(
            f"{paths.projections(prompt)} is damaged (rows of different lengths, or no numbers); delete it and project again"
        )
    return found


def _is_finite(scores: Projections) -> bool:
    return bool(np.isfinite(scores.raw).all() and np.isfinite(scores.norms).all())


def read_own_projections(paths: InferencePaths, record: Record, reader: dict) -> list[Projections]:
    """Read the projections of a response; none where there is no file.

    Args:
        reader: Identity of the model that must have read it.

    Raises:
        UserError: they are damaged, of other tokens, or another model's.
    """
    made_by = made_from(record, reader)
    found = read_projections(paths, record.id, made_by)
    is_other = not found and is_there(paths.projections(record.id)) and read_projections(paths, record.id)
    if is_other or any(len(scores.raw) != len(record.ids) for scores in found):
        raise UserError(
            f"{paths.projections(record.id)} is of other tokens or another model; run inference/project_activations.py"
        )
    return found


def read_projected(paths: InferencePaths) -> list[tuple[Record, Projections]]:
    """Return every recorded prompt with each of its projections.

    Raises:
        UserError: a file is damaged or of something else, or prompts were projected on different fits of a vector,
            which cannot be compared.
    """
    reader = read_index(paths).reader
    pairs = [
        (record, scores)
        for record in read_records(paths)
        for scores in read_own_projections(paths, record, reader)
    ]
    _require_all_projected(paths, pairs)
    fits: dict[str, str] = {}

    for _, scores in pairs:
        if fits.setdefault(scores.label, scores.origin["sha256"]) != scores.origin["sha256"]:
            raise UserError(
                f"{paths.dir}: prompts were projected on different fits of {scores.label}; run "
                "inference/project_activations.py"
            )

    return pairs


def _require_all_projected(paths: InferencePaths, pairs: Sequence[tuple[Record, Projections]]) -> None:
    """Refuse a set of which some prompts lack a vector that others have: a mean over the rest would not say so."""
    there = {(record.id, scores.label) for record, scores in pairs}
    labels = dict.fromkeys(scores.label for _, scores in pairs)
    for prompt in read_index(paths).prompts:
        for label in labels:
            if (prompt["id"], label) not in there and is_there(paths.response(prompt["id"])):
                raise UserError(
                    f"{paths.prompt_set}: the prompt {prompt['id']} has no projection on {label}; "
                    "run inference/project_activations.py"
                )


def mean_projections(
    pairs: Sequence[tuple[Record, Projections]], over: str, scale: str
) -> tuple[dict[str, dict], dict[str, dict[str, float]]]:
    """Return every vector's trait, method, layer and why, and its mean projection per prompt, both by the
    vector's label.
    """
    origins: dict[str, dict] = {}
    values: dict[str, dict[str, float]] = {}

    for record, scores in pairs:
        span = scores.on(scale)[record.span(over)]
        if len(span):
            origins[scores.label] = {
                name: scores.origin[name] for name in ("trait", "method", "layer", "why")
            }
            values.setdefault(scores.label, {})[record.id] = float(span.mean())

    return origins, values


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f"{v:.6g}") for v in values]


class _StreamAbout(Shaped):
    """What is known of a stored residual stream: the columns of raw/{prompt}.json."""

    made_by: dict[str, Any]
    shape: tuple[int, int, int]  # layers, tokens, d_model
    sha256: str


def write_stream(paths: InferencePaths, prompt: str, stream: "Tensor", made_by: dict[str, Any]) -> None:
    """Write a prompt's residual stream, [n_layers, n_tokens, d_model], then what is known of it."""
    about = {
        "made_by": made_by,
        "shape": list(stream.shape),
        "sha256": save_tensor(paths.raw(prompt), stream),
    }
    write_json(paths.raw_metadata(prompt), about)


def has_stream(paths: InferencePaths, prompt: str, made_by: dict[str, Any]) -> bool:
    """Tell whether a stream is stored that was made of just these tokens by just this model."""
    file = paths.raw_metadata(prompt)
    return is_there(file) and read_shaped(file, _StreamAbout).made_by == made_by


def read_stream(paths: InferencePaths, prompt: str) -> "Tensor":
    """Read a prompt's residual stream.

    Raises:
        UserError: a file is missing or damaged, or the stream is not the one that its metadata describes.
    """
    about = read_shaped(paths.raw_metadata(prompt), _StreamAbout)
    return load_tensor(paths.raw(prompt), about.shape, about.sha256)
