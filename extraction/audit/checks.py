"""The audit of a trait: every check that applies to its form, each with a number, a threshold and what to
change.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

from traitscope.extraction.audit import confounds, soundness
from traitscope.extraction.audit.subject import Measure, Subject, read_subject
from traitscope.utils.errors import UserError, first_line
from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.records.dataset_files import form_of

FORMS = ("scenarios", "instructions", "answers")
READABLE = "readable"  # the check that every dataset meets first
ACCEPTANCE = "accepted_confounds"  # and the one of what its author has accepted


@dataclass(frozen=True)
class Check:
    """One question to a dataset."""

    measure: Callable[[Subject], Measure]
    forms: tuple[str, ...] = FORMS
    needs_pairs: int = 0  # with fewer complete pairs there is nothing to measure


COMPARISON = 2  # pairs
CHECKS: dict[str, Check] = {
    "pairs": Check(soundness.count_pairs),
    "unequal_sides": Check(soundness.count_unpaired),
    "questions": Check(soundness.count_questions),
    "extraction_questions": Check(soundness.count_extraction_questions, ("instructions",)),
    "question_overlap": Check(soundness.count_question_overlap),
    "question_duplicates": Check(soundness.count_question_duplicates),
    "definition_bands": Check(soundness.count_bands),
    "to_fill_in": Check(soundness.count_unfilled),
    "encoding": Check(soundness.count_bad_characters),
    "duplicates": Check(soundness.count_duplicates),
    "near_duplicates": Check(soundness.count_near_duplicates),
    "identical_sides": Check(soundness.count_identical_sides),
    "length_in_words": Check(confounds.check_words, needs_pairs=COMPARISON),
    "length_in_tokens": Check(confounds.check_tokens, needs_pairs=COMPARISON),
    "punctuation": Check(confounds.check_punctuation, needs_pairs=COMPARISON),
    "question_marks": Check(confounds.check_question_marks, needs_pairs=COMPARISON),
    "first_words": Check(confounds.check_first_words, needs_pairs=COMPARISON),
    "last_words": Check(confounds.check_last_words, ("scenarios",), COMPARISON),
    "topics": Check(confounds.check_topics, ("scenarios", "answers"), COMPARISON),
    "common_words": Check(confounds.check_common_words, ("scenarios", "answers"), COMPARISON),
    "marker_words": Check(confounds.check_marker_words, ("scenarios", "answers"), COMPARISON),
    "contrast_start": Check(confounds.check_contrast_start, ("scenarios",), COMPARISON),
    "contrast_end": Check(confounds.check_contrast_end, ("scenarios",), COMPARISON),
}


@dataclass(frozen=True)
class Finding:
    """What a check says of a trait."""

    check: str
    status: str  # ok, accepted or FAIL
    number: float
    threshold: float
    is_minimum: bool  # the number must reach the threshold, else stay at or below it
    detail: str
    advice: str = ""  # what to change, where it does not pass
    reason: str = ""  # why its author accepts it, where it does not pass


@dataclass(frozen=True)
class Audit:
    """All findings on one trait."""

    trait: str
    form: str
    findings: tuple[Finding, ...]

    @property
    def is_clean(self) -> bool:
        return all(finding.status != "FAIL" for finding in self.findings)

    def as_json(self) -> dict:
        return {
            "trait": self.trait,
            "form": self.form,
            "clean": self.is_clean,
            "findings": [asdict(finding) for finding in self.findings],
        }


def audit_trait(paths: TraitPaths) -> Audit:
    """Read a trait and run its checks; a dataset that cannot be read has that as its only finding."""
    try:
        subject = read_subject(paths)
    except UserError as error:
        return Audit(
            paths.trait,
            form_of(paths.dataset) or "",
            (Finding(READABLE, "FAIL", 0, 1, True, "", first_line(error)),),
        )
    return audit_subject(subject)


def audit_subject(subject: Subject) -> Audit:
    """Run the checks that apply to a dataset that was read."""
    # placeholders are not worth comparing
    comparable = len(subject.pairs) if soundness.count_unfilled(subject).passed else 0
    applicable = {
        name: check
        for name, check in CHECKS.items()
        if subject.form in check.forms and comparable >= check.needs_pairs
    }
    findings = [
        judge_measure(name, check.measure(subject), subject.dataset.accepted_confounds)
        for name, check in applicable.items()
    ]

    return Audit(subject.dataset.trait, subject.form, (*findings, *_unknown_acceptances(subject)))


def judge_measure(name: str, measure: Measure, accepted: dict[str, str]) -> Finding:
    """Return a measure as a finding: what fails may be accepted by the trait's author, with a reason."""
    where = (name, measure.number, measure.threshold, measure.is_minimum)
    status = "ok" if measure.passed else "accepted" if name in accepted else "FAIL"
    stale = " (accepted, but passes: the acceptance can go)" if measure.passed and name in accepted else ""
    texts = (
        measure.detail + stale,
        "" if measure.passed else measure.advice,
        accepted[name] if status == "accepted" else "",
    )

    return Finding(where[0], status, *where[1:], *texts)


def _unknown_acceptances(subject: Subject) -> list[Finding]:
    unknown = sorted(subject.dataset.accepted_confounds.keys() - CHECKS.keys())
    advice = f"no such check: {', '.join(unknown)}; the checks are {', '.join(CHECKS)}"
    return [Finding(ACCEPTANCE, "FAIL", len(unknown), 0, False, "", advice)] if unknown else []
