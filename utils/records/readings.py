"""What inference leaves per prompt: the response with its token ids, and the projections of every token."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic import TypeAdapter, ValidationError, model_validator

from traitscope.utils.errors import UserError, first_line
from traitscope.utils.files.artifacts import write_json
from traitscope.utils.files.journal import key_of
from traitscope.utils.files.paths import InferencePaths, check_name
from traitscope.utils.files.reading import digest, is_there, read_json
from traitscope.utils.files.tensors import load_tensor, save_tensor
from traitscope.utils.model.encode import Prompt
from traitscope.utils.records.prompt_sets import PromptItem, PromptSet
from traitscope.utils.records.shaped import Shaped, read_shaped, require_own

if TYPE_CHECKING:  # a laptop without torch reads these files too
    from torch import Tensor

SINK = 1  # the first token is often an attention sink, far longer than any other: it is no reading


@dataclass(frozen=True)
class Record:
    """A prompt and what a model answered; the ids are the record, the texts are for people."""

    id: str
    key: str  # digest of what was asked of which model, with which sampling
    prompt: Prompt
    response: str
    ids: list[int]  # prompt and response
    tokens: list[str]  # the text of each
    prompt_tokens: int  # how many of them are the prompt's
    turns: list[dict[str, Any]]  # role, start, end
    is_finished: bool
    metadata: dict[str, Any]
    made_by: dict[str, Any]

    def span(self, over: str) -> slice:
        """Return the tokens of "prompt", "response" or "all", without the first token."""
        return {
            "prompt": slice(SINK, self.prompt_tokens),
            "response": slice(max(SINK, self.prompt_tokens), None),
            "all": slice(SINK, None),
        }[over]


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


def vector_id(origin: dict[str, Any]) -> tuple:
    """Return what makes two readings the same: the vector, by its content."""
    return origin["trait"], origin["method"], origin["layer"], origin["sha256"]


_RECORD = TypeAdapter(Record)


def write_record(paths: InferencePaths, record: Record) -> None:
    write_json(paths.response(record.id), asdict(record), indent=None)


def read_record(paths: InferencePaths, prompt: str) -> Record:
    """Read one response.

    Raises:
        UserError: the file is missing, or its parts do not fit each other.
    """
    file = paths.response(prompt)
    content = read_json(file)
    try:
        record = _RECORD.validate_python(content)
        assert set(content) == {f.name for f in fields(Record)}
        assert len(record.ids) == len(record.tokens) >= record.prompt_tokens > 0
    except (ValidationError, AssertionError):
        raise UserError(
            f"{file} is no response of capture_raw_activations; delete it and capture again"
        ) from None

    require_own(file, prompt=(record.id, prompt))
    return record


def made_from(record: Record, reader: dict) -> dict[str, Any]:
    """Return what readings say of themselves: whose tokens, read by which model."""
    return {"tokens_sha256": key_of(record.ids), "model": reader}


class AboutSet(Shaped):
    """What an index says of its prompt set."""

    name: str = ""
    description: str = ""


class Index(Shaped):
    """What was captured: the columns of a prompt set's index.json."""

    made_by: dict[str, Any]
    prompt_set: AboutSet
    prompts: list[dict[str, Any]]
    responses: dict[str, str] = {}  # prompt → sha256 of its response's file

    @model_validator(mode="after")
    def _says_what_made_it(self) -> Self:
        model = self.made_by.get("model")
        is_said = isinstance(model, dict) and isinstance(model.get("name"), str)
        assert is_said, "made_by names no model"
        assert all(isinstance(prompt.get("id"), str) for prompt in self.prompts), "a prompt has no id"
        return self

    @property
    def reader(self) -> dict[str, Any]:
        """Identity of the model that read the tokens."""
        return self.made_by["model"]


def write_index(
    paths: InferencePaths, prompts: PromptSet, items: Sequence[PromptItem], reader: dict, responses_from: str
) -> None:
    """Write which prompts of a set are captured, and by which model: last, when all their responses are there."""
    about = {
        "made_by": {"model": reader, "responses_from": responses_from or None},
        "prompt_set": prompts.about,
        "responses": {item.id: digest(paths.response(item.id)) for item in items},
    }
    write_json(paths.index, about | {"prompts": [{"id": item.id, **item.metadata} for item in items]})


def read_index(paths: InferencePaths) -> Index:
    """Read what was captured of a prompt set.

    Raises:
        UserError: nothing was, its capture has not ended, or the file is damaged.
    """
    if not is_there(paths.index):
        command = (
            f"inference/capture_raw_activations.py --experiment {paths.experiment} --prompt-set "
            f"{paths.prompt_set}"
        )
        raise UserError(f"{paths.dir} has no responses, or their capture has not ended; run {command}")

    index = read_shaped(paths.index, Index)
    require_own(paths.index, prompt_set=(index.prompt_set.name, paths.prompt_set))
    for prompt in index.prompts:
        check_name("prompt", prompt["id"], range(1, 2))
    return index


def read_records(paths: InferencePaths) -> list[Record]:
    """Read every response of a captured set, in the order of its prompts.

    Raises:
        UserError: nothing was captured, a response is damaged, or is not the one that was captured.
    """
    index = read_index(paths)
    names = [prompt["id"] for prompt in index.prompts]
    if not index.responses:  # an older index was written first: a killed capture left some out
        names = [name for name in names if is_there(paths.response(name))]
    return [read_recorded(paths, name, index) for name in names]


def read_recorded(paths: InferencePaths, prompt: str, index: Index) -> Record:
    """Read one response of a captured set.

    Raises:
        UserError: it is damaged, or is not the one that was captured: of another model, or another run.
    """
    record, file = read_record(paths, prompt), paths.response(prompt)
    if index.responses:
        is_own = index.responses.get(prompt) == digest(file)
    else:
        is_own = bool(index.made_by.get("responses_from")) or record.made_by.get("model") == index.reader
    if not is_own:
        raise UserError(f"{file} is not the response that {paths.index.name} names; capture the set again")
    return record


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
