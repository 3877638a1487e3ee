"""A trait's own responses in tokens, each after a prompt that does not ask for the trait."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.model.encode import Prompt, encode
from traitscope.utils.model.loading import LM
from traitscope.utils.records.activations import ActivationsAbout
from traitscope.utils.records.responses import Response, read_responses
from traitscope.utils.records.scores import Thresholds, usable_responses

OTHER = {"pos": "neg", "neg": "pos"}


@dataclass(frozen=True, eq=False)
class Text:
    """A prompt and the response to it, in tokens."""

    key: str
    side: str
    group: int  # texts of a group share a question or a scenario, and validate together or not at all
    prompt_ids: list[int]
    response_ids: list[int]
    told_ids: list[int] = field(
        default_factory=list
    )  # the prompt with an instruction before it, where there is one

    @property
    def ids(self) -> list[int]:
        return self.prompt_ids + self.response_ids


def count_tokens(texts: Iterable[Text]) -> int:
    """Return how many response tokens texts have."""
    return sum(len(text.response_ids) for text in texts)


def own_texts(
    paths: TraitPaths,
    lm: LM,
    about: ActivationsAbout,
    thresholds: Thresholds | None,
    *,
    in_pairs: bool = False,
    split: str = "train",
) -> list[Text]:
    """Return a trait's own responses that passed stage 2, each after a prompt that does not ask
    for it, so that the vector must bring the trait: a question without its system message, the other side's scenario.

    Args:
        thresholds: Where a response's score counts as passed; None takes every response.
        in_pairs: Give a scenario's response after its own side's scenario as well, so that both sides' responses come
            after the same prompts.
        split: Which of stage 4's parts they are of: "train", or "val", what is held out.

    Raises:
        UserError: scores and activations are of other responses.
    """
    responses = read_responses(paths)
    usable = (
        usable_responses(paths, thresholds, about.responses_sha256)
        if thresholds
        else {r.key for r in responses}
    )
    groups = {row.key: row.group for row in about.rows if row.split == split and row.key in usable}
    prompts = plain_prompts(responses, in_pairs=in_pairs)

    texts = []
    for r in responses:
        if r.key in groups and r.response_ids:
            for i, prompt in enumerate(prompts[r.key]):
                texts.append(Text(f"{r.key}:{i}", r.side, groups[r.key], encode(lm, prompt), r.response_ids))
    return texts


def plain_prompts(responses: Sequence[Response], *, in_pairs: bool = False) -> dict[str, list[Prompt]]:
    """Return {response's key: the prompts after which it is read} that do not ask for the trait, as `own_texts` says."""
    prompts = {(r.side, r.pair): r.prompt for r in responses}
    return {r.key: _prompts(r, prompts.get((OTHER[r.side], r.pair)), in_pairs=in_pairs) for r in responses}


def _prompts(response: Response, mirror: Prompt | None, *, in_pairs: bool) -> list[Prompt]:
    """Return the prompts after which a response is learnt."""
    own = without_system(response.prompt)
    other = own if mirror is None else without_system(mirror)
    if other == own:
        return [own]  # what asked for the trait is gone, or never was there
    return [other, own] if in_pairs else [other]


def without_system(prompt: Prompt) -> Prompt:
    """Return a prompt without what a system message asks for."""
    return prompt if isinstance(prompt, str) else [m for m in prompt if m["role"] != "system"]
