"""Which questions are asked: those that no vector was found with."""

from pathlib import Path

from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.files.reading import is_there
from traitscope.utils.records.dataset import TraitDataset
from traitscope.utils.records.dataset_files import is_text, read_lines, read_object
from traitscope.utils.records.questions import choose_questions, read_pool
from traitscope.utils.records.texts import repeated

PARTS = ("test", "dev", "all")


def choose_asked(paths: TraitPaths, dataset: TraitDataset, wanted: str, limit: int = 0) -> list[str]:
    """Return the questions that are asked, those that vectors were extracted with left out.

    Args:
        wanted: test, dev or all of stage 5's questions, or the path of a file.
        limit: Return the first so many; 0 returns all.

    Raises:
        UserError: there is no such file, or no question is left.
    """
    if limit < 0:
        raise UserError("--limit is a number of questions, 0 or more")
    if wanted in PARTS:
        found = choose_questions(dataset, read_pool(paths.root))
        asked = {"test": found.test, "dev": found.dev, "all": found.dev + found.test}[wanted]
        note = found.note()
    else:
        asked, used = dataset.split_used(read_questions(Path(wanted)))
        note = (
            f"{len(used)} questions were left out, because vectors were extracted with them" if used else ""
        )

    if note:
        print(f"note: {paths.trait}: {note}", flush=True)
    if not asked:
        raise UserError(f"{paths.trait}: no question is left to ask; name others with --questions")
    return asked[: limit or None]


def read_questions(file: Path) -> list[str]:
    """Read questions from a file.

    Raises:
        UserError: it is missing, has no question, one that is no text, or one twice.
    """
    if not is_there(file):
        raise UserError(
            f"--questions {file}: write test, dev, all, or the path of a file; there is no such file"
        )
    if file.suffix == ".json":
        questions = read_object(file, "questions").get("questions")
    else:
        questions = [line.strip() for _, line in read_lines(file)]

    if not isinstance(questions, list) or not questions or not all(map(is_text, questions)):
        raise UserError(f"{file} must hold questions: one a line, or JSON with a list 'questions' of texts")
    if twice := repeated(questions):
        raise UserError(f"{file} asks {twice[0]!r:.80} twice; delete one")
    return questions
