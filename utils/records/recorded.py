"""What was captured of a prompt set: every prompt's response with its token ids, and the index that names them all."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError, model_validator

from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import write_json
from traitscope.utils.files.paths import InferencePaths, is_name
from traitscope.utils.files.reading import digest, is_there, read_json
from traitscope.utils.model.encode import Prompt
from traitscope.utils.records.prompt_sets import PromptItem, PromptSet
from traitscope.utils.records.shaped import Shaped, read_shaped, require_own

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
    for prompt in index.prompts:  # each becomes the name of a file
        if not is_name(prompt["id"], range(1, 2)):
            raise UserError(f"{paths.index} names a prompt {prompt['id']!r:.80}; capture the set again")
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
