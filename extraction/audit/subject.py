"""What an audit looks at, and what one check says of it."""

import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property

from traitscope.utils.files.paths import SIDES, TraitPaths
from traitscope.utils.files.reading import read_bytes
from traitscope.utils.model.encode import text_of
from traitscope.utils.records.dataset import TraitDataset, read_trait
from traitscope.utils.records.dataset_files import dataset_files

# written without spaces: one character counts as a word
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|(?:(?![{_CJK}])\w)+(?:'(?:(?![{_CJK}])\w)+)*")
UNIT = {"scenarios": "line", "instructions": "instruction", "answers": "line"}


@dataclass(frozen=True)
class Pair:
    """The two texts of one contrastive pair, and where they stand in their files."""

    number: int  # counted from 1, as an editor does
    pos: str
    neg: str


@dataclass(frozen=True)
class Measure:
    """What a check measured, and what to do where it does not pass."""

    number: float
    threshold: float
    passed: bool
    detail: str = ""  # the number, in words
    advice: str = ""  # what to change, naming the lines
    is_minimum: bool = False  # the number must reach the threshold, else stay at or below it


@dataclass(frozen=True)
class Subject:
    """A trait dataset as its checks see it."""

    dataset: TraitDataset
    files: dict[str, str]  # name → text, of every file that decides

    @property
    def form(self) -> str:
        return self.dataset.form

    @cached_property
    def sides(self) -> dict[str, dict[int, str]]:
        """{side: {line number: text}} of the contrasting text: what the model is told, or what is given
        as its answer.
        """
        texts: dict[str, dict[int, str]] = {side: {} for side in SIDES}
        for item in self.dataset.items:
            example = self.dataset.rubric.examples[item.example]
            text = example.text
            if self.form == "scenarios" and not isinstance(item.prompt, str):
                text = "\n".join(message["content"] for message in item.prompt)
            texts[item.side][example.line + 1] = text

        return texts

    @cached_property
    def pairs(self) -> list[Pair]:
        pos, neg = (self.sides[side] for side in SIDES)
        return [Pair(number, pos[number], neg[number]) for number in sorted(pos.keys() & neg.keys())]

    @cached_property
    def words(self) -> list[tuple[list[str], list[str]]]:
        """The words of every pair, (pos, neg)."""
        return [(words_of(pair.pos), words_of(pair.neg)) for pair in self.pairs]

    @cached_property
    def asked(self) -> list[str]:
        """The questions that extraction asks, in order, with their repetitions: those that every instruction
        meets, or those of the given answers.
        """
        if self.form == "scenarios":
            return []
        side = [item for item in self.dataset.items if item.side == SIDES[0]]
        if self.form == "instructions":
            side = [item for item in side if item.example == side[0].example]
        return [text_of(item.prompt) for item in side]

    def name_lines(self, numbers: list[int], most: int = 8) -> str:
        """Return "lines 3, 9, 12 …" in the words of the form."""
        numbers = sorted(set(numbers))
        more = f" … ({len(numbers)} in all)" if len(numbers) > most else ""
        return (
            f"{UNIT[self.form]}{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers[:most]))}{more}"
        )


def read_subject(paths: TraitPaths) -> Subject:
    """Read a trait for its audit.

    Raises:
        UserError: the dataset cannot be read.
    """
    dataset = read_trait(paths)
    # a file that another one outranks is looked at as well, and need not be readable
    texts = {
        file.relative_to(paths.dataset).as_posix(): read_bytes(file).decode("utf-8-sig", errors="replace")
        for file in dataset_files(paths)
    }
    return Subject(dataset, texts)


def words_of(text: str) -> list[str]:
    """Return a text's words in lower case, with straight apostrophes inside them; a Chinese or Japanese
    character is a word.
    """
    return _WORD.findall(plain(text).casefold())


def plain(text: str) -> str:
    """Return a text with full-width signs and curly apostrophes in their plain form."""
    return unicodedata.normalize("NFKC", text).replace("’", "'")
