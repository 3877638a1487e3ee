"""The pool of neutral questions: what a trait is asked where its own questions are too few, or were used."""

from pathlib import Path

from traitscope.utils.errors import UserError
from traitscope.utils.files.paths import question_pool
from traitscope.utils.records.dataset_files import is_text, read_object
from traitscope.utils.records.texts import repeated

LEAST = 200  # questions that a pool must have


def read_pool(root: Path) -> list[str]:
    """Read the neutral questions, in order: topics take turns, so that the first few are of many.

    Args:
        root: The folder that holds datasets/; one without a pool has this checkout's.

    Raises:
        UserError: the pool is no JSON, or has too few questions, one that is no text, or one twice.
    """
    path = question_pool(root)
    questions = read_object(path, "questions").get("questions")
    if not isinstance(questions, list) or not all(map(is_text, questions)):
        raise UserError(f"{path} must have a list 'questions' of texts that are not empty")

    if twice := repeated(questions):
        raise UserError(f"{path} asks {twice[0]!r:.80} twice; delete one")
    if len(questions) < LEAST:
        raise UserError(f"{path} has {len(questions)} questions; a pool needs at least {LEAST}")
    return questions
