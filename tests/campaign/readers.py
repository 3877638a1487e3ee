"""Which commands read which file, and the dashboard as one more reader."""

import json
import traceback
from dataclasses import dataclass
from pathlib import Path

from campaign.bench import SET, A, B, job
from campaign.forks import Job

WATCHING = "project capture groups compare dynamics twin dashboard"
VECTORS = "pipeline stage5 export table cross project capture chat dashboard force"
FITTED = "stage4 stage5 pipeline import export table dashboard force"


@dataclass(frozen=True)
class Kind:
    """A kind of file, where it lies, and who reads it."""

    name: str
    glob: str
    read_by: str
    is_pipelines: bool = False  # run_pipeline wrote it, and can write it again
    others: str = ""  # files that may be taken for it; by default those of the glob

    @property
    def readers(self) -> list[str]:
        """The readers, by their short names."""
        return self.read_by.split()


KINDS = (
    Kind(
        "scenario scores",
        "*/demo/extraction/*/*/vetting/scenario_scores.json",
        "stage0 pipeline table dashboard force",
        True,
    ),
    Kind(
        "responses",
        "*/demo/extraction/*/*/responses/*.json",
        "stage2 stage3 pipeline agreement dashboard force",
        True,
    ),
    Kind(
        "response scores",
        "*/demo/extraction/*/*/vetting/response_scores.json",
        "stage4 pipeline table dashboard force",
        True,
    ),
    Kind("activations", "*/demo/extraction/*/*/activations/all_layers.pt", FITTED, True),
    Kind(
        "activations metadata",
        "*/demo/extraction/*/*/activations/metadata.json",
        f"{FITTED} chat project",
        True,
    ),
    Kind("vectors", "*/demo/extraction/*/*/vectors/[mp]*.pt", VECTORS, True),
    Kind("vectors metadata", "*/demo/extraction/*/*/vectors/[mp]*_metadata.json", f"{VECTORS} draw", True),
    Kind("fitted_on", "*/demo/extraction/*/*/vectors/fitted_on.json", FITTED, True, "*/*/*/*/*/*/*.json"),
    Kind(
        "manifests",
        "*/demo/extraction/*/*/stages/*.json",
        "pipeline dry_run stage3 table cross draw dashboard force",
        True,
    ),
    Kind(
        "steering results",
        "*/demo/steering/*/*/results.json",
        "pipeline steering_table cross draw export chat capture dashboard force",
        True,
    ),
    Kind("steering texts", "*/demo/steering/*/*/responses/*.json", "pipeline rescore dashboard force", True),
    Kind("captured responses", "*/*/inference/*/responses/*.json", WATCHING),
    Kind("projections", "*/*/inference/*/projections/*.json", WATCHING),
    Kind("index", "*/*/inference/*/index.json", WATCHING, others="*/*/inference/*/*/*.json"),
    Kind(
        "raw streams",
        "*/demo/inference/*/raw/*.pt",
        "project_more capture",
        others="*/*/inference/*/raw/*.pt",
    ),
    Kind(
        "raw metadata",
        "*/demo/inference/*/raw/*.json",
        "project_more capture",
        others="*/*/inference/*/raw/*.json",
    ),
    Kind("dynamics", "*/*/inference/*/dynamics/*/*.json", "dynamics dashboard"),
    Kind("groups", "*/*/inference/*/groups/*.json", "groups dashboard", others="*/*/inference/*/*/*.json"),
    Kind(
        "comparison", "*/*/inference/*/compare/*.json", "compare dashboard", others="*/*/inference/*/*/*.json"
    ),
    Kind(
        "imported vectors",
        "*/demo/extraction/*/*/vectors/from_safe*.pt",
        "export_import watch_import steer_import import dashboard",
    ),
    Kind(
        "imports' metadata",
        "*/demo/extraction/*/*/vectors/from_safe*_metadata.json",
        "export_import watch_import steer_import import dashboard",
    ),
    Kind("exports", "*/demo/exports/*/*/*/*.[sgp]*", "imports export"),
    Kind("config", "*/demo/config.json", "pipeline capture table export dashboard stage2"),
    Kind("summary", "*/demo/summary.json", "pipeline table dashboard", True),
)

DEMO, TWIN = "/api/experiments/demo", "/api/experiments/twin"
OF_SET = {"prompt_set": SET}
COURSE = OF_SET | {"prompt": "turn", "scale": "raw"}
FIELD = OF_SET | {"by": "kind", "first": "grim", "second": "sunny"}
ROUTES: tuple[tuple[str, dict], ...] = (
    ("/api/experiments", {}),
    (DEMO, {}),
    (f"{DEMO}/chat", {}),
    (f"{DEMO}/prompt-sets", {}),
    (f"{DEMO}/prompts", OF_SET),
    *((f"{DEMO}/course", COURSE | {"prompt": name}) for name in ("turn", "talk", "grim-0", "sunny-1")),
    (f"{DEMO}/comparison", COURSE | {"other": "twin"}),
    (f"{TWIN}/prompts", OF_SET),
    (f"{TWIN}/course", COURSE),
    (f"{DEMO}/groups/stored", OF_SET | {"by": "kind"}),
    (f"{DEMO}/groups/by-field", FIELD),
    (f"{DEMO}/groups/values", OF_SET | {"trait": A, "method": "mean_diff", "layer": 1}),
    *((f"{DEMO}{path}", {"trait": trait} | more) for trait in (A, B) for path, more in (
        ("/card", {}),
        ("/vetting", {}),
        ("/vectors", {}),
        ("/similarity/methods", {"layer": 1}),
        ("/steering", {}),
        ("/steering/texts", {"part": "dev", "arm": "plus mean_diff layer 1 dose 0.1"}),
        ("/steering/texts", {"part": "test", "arm": "unsteered"}),
        ("/steering/judging", {}),
    )),
    (f"{DEMO}/similarity/traits", {"method": "mean_diff", "layer": 2}),
)  # fmt: skip
FRESHNESS = ("stages", "updated", "finished", "seconds", "problem", "problems", "why_not")


def ask_dashboard(root: Path) -> None:
    """Print what every route of the dashboard answers, a line of JSON each."""
    from fastapi.testclient import TestClient

    from traitscope.visualization.app import build_app
    from traitscope.visualization.library import Library

    client = TestClient(build_app(Library(root)), base_url="http://localhost")
    for path, query in ROUTES:
        try:
            answer = client.get(path, params=query)
            body = answer.json()
        except Exception:
            traceback.print_exc()
            continue
        print(json.dumps([path, query, answer.status_code, body], sort_keys=True))


def plain_answer(line: str) -> tuple[str, int, object, bool]:
    """Return a route, its status, what it answers without freshness, and whether all is said to be fresh."""
    path, query, status, body = json.loads(line)
    return f"{path} {query}", status, _without(body), not _says_stale(body)


def _without(body: object) -> object:
    if isinstance(body, dict):
        return {key: _without(value) for key, value in body.items() if key not in FRESHNESS}
    return [_without(item) for item in body] if isinstance(body, list) else body


def _says_stale(body: object) -> bool:
    if isinstance(body, dict):
        is_bad = body.get("state") in ("stale", "missing") or body.get("problem") or body.get("problems")
        return bool(is_bad) or any(map(_says_stale, body.values()))
    return any(map(_says_stale, body)) if isinstance(body, list) else False


def judge_dashboard(before: str, after: str) -> tuple[str, str]:
    """Sort what the dashboard answers over a damaged root: no_effect, one_line, noted or wrong_result."""
    known = {route: body for route, _, body, _ in map(plain_answer, before.splitlines())}
    answers = [plain_answer(line) for line in after.splitlines()]
    is_fresh = all(fresh for _, _, _, fresh in answers)
    refused = [route for route, status, _, _ in answers if status != 200]
    if failed := [route for route, status, _, _ in answers if status >= 500]:
        return "traceback", failed[0]
    other = [route for route, status, body, _ in answers if status == 200 and body != known[route]]
    if other:
        omits = all(_is_part(body, known[route]) for route, _, body, _ in answers if route in other)
        return ("omitted" if omits else "wrong_result" if is_fresh else "noted"), other[0]
    return ("one_line", refused[0]) if refused else ("no_effect", "")


def judge_pages(old: str, new: str, now: str) -> tuple[str, str]:
    """Sort what the dashboard answers over a half-finished root, page by page: each is the old one, the new
    one, refused or marked, or a mixture.
    """
    known = [
        {route: body for route, _, body, _ in map(plain_answer, side.splitlines())} for side in (old, new)
    ]
    answers = [plain_answer(line) for line in now.splitlines()]
    if failed := [route for route, status, _, _ in answers if status >= 500]:
        return "traceback", failed[0]
    shown = [(route, body) for route, status, body, _ in answers if status == 200]
    if other := [
        route for route, body in shown if not any(_is_less(body, side.get(route)) for side in known)
    ]:
        return ("mixture" if all(fresh for *_, fresh in answers) else "noted"), other[0]
    refused = [route for route, status, _, _ in answers if status != 200]
    return ("one_line", refused[0]) if refused else ("old_or_new", "")


def _is_part(body: object, whole: object) -> bool:
    """Tell whether a page is another, or lists some of what that one lists."""
    if isinstance(body, list) and isinstance(whole, list):
        return all(item in whole for item in body)
    return body == whole


def _is_less(body: object, whole: object) -> bool:
    """Tell whether a page says nothing that another one does not: what is under way has empty fields still."""
    if body in (None, [], {}, ""):
        return True
    if isinstance(body, list) and isinstance(whole, list):
        return all(any(_is_less(item, other) for other in whole) for item in body)
    if isinstance(body, dict) and isinstance(whole, dict):
        return all(name in whole and _is_less(value, whole[name]) for name, value in body.items())
    return body == whole


def reader_job(home: Path, root: Path, name: str, file: Path) -> Job:
    """Return a reader of a file as a job."""
    if name == "dashboard":
        return Job(action=lambda: ask_dashboard(root))
    if name == "imports":
        name = {".gguf": "import_gguf", ".pt": "import_persona_vectors"}.get(file.suffix, "import")
        name = "import_repeng" if file.name == "repeng.gguf" else name
    trait = B if f"/{B}/" in str(file) and name.startswith(("stage", "export", "rescore")) else A
    return job(home, root, name, trait=trait)
