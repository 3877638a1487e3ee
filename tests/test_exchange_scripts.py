"""Export and import as a user runs them, on the vectors of a tiny model, and what stages 4 and 5 make of
vectors from elsewhere.
"""

import base64
import json
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from conftest import CHECKOUT, N_LAYERS, call, copy_trait

from traitscope.analysis import export_vectors
from traitscope.analysis.exchange.formats import FORMATS
from traitscope.analysis.exchange.snippets import TARGETS, Use, render_snippet
from traitscope.extraction import import_vectors, run_pipeline
from traitscope.utils.errors import UserError
from traitscope.utils.files.locks import hold
from traitscope.utils.files.paths import FIT, TraitPaths
from traitscope.utils.files.reading import digest, read_json
from traitscope.utils.files.tensors import load_tensor
from traitscope.utils.model.encode import encode
from traitscope.utils.model.hooks import Push, steer
from traitscope.utils.records import imported
from traitscope.utils.records.vectors import list_vectors

TRAIT = "epistemic/optimism"
WORLD = ["--experiment", "e", "--trait", TRAIT]
ALL = ",".join(FORMATS)
SMALL = [
    "--max-new-tokens",
    "6",
    "--subset",
    "3",
    "--random-pairs",
    "2",
    "--doses",
    "0.2",
    "--coherence-gate",
    "0",
    "--judge",
    "embedded",
]


@pytest.fixture(scope="module")
def root(tmp_path_factory, tiny_folders) -> Path:
    """A trait with vectors of a tiny model."""
    folder = tmp_path_factory.mktemp("exchange")
    copy_trait(folder, TRAIT, 12)
    fit = [
        "--model",
        tiny_folders["llama"],
        "--no-vet",
        "--no-steering",
        "--max-new-tokens",
        "6",
        "--min-usable",
        "2",
        "--methods",
        "mean_diff,probe",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAITSCOPE_ROOT", str(folder))
        call(run_pipeline, "--experiment", "e", "--traits", TRAIT, *fit)
    return folder


@pytest.fixture
def paths(root, monkeypatch) -> TraitPaths:
    monkeypatch.setenv("TRAITSCOPE_ROOT", str(root))
    return TraitPaths("e", TRAIT, root)


@pytest.fixture
def run(paths, capfd):
    """Run a script's command line and return what it printed."""
    scripts = {"export": export_vectors, "import": import_vectors, "pipeline": run_pipeline}

    def run_here(script: str, *flags: str, code: int = 0) -> str:
        world = ["--experiment", "e", "--traits", TRAIT] if script == "pipeline" else WORLD
        capfd.readouterr()
        status = 0
        try:
            call(scripts[script], *world, *flags)
        except UserError as error:
            print(error, file=sys.stderr)
            status = 1
        printed = "".join(capfd.readouterr())
        assert status == code, printed
        assert "Traceback" not in printed
        return printed

    return run_here


def vector_files(paths: TraitPaths, method: str) -> dict[int, bytes]:
    return {
        layer: paths.vector(method, layer).read_bytes()
        for layer in range(N_LAYERS)
        if paths.vector(method, layer).exists()
    }


@pytest.mark.parametrize("name", FORMATS)
def test_a_vector_goes_out_and_comes_back_as_the_same_file(run, paths, name):
    printed = run("export", "--method", "probe", "--format", name)
    assert ("layer 0 is not in control_vector.gguf" in printed) == (name == "gguf")
    file = paths.export("probe") / FORMATS[name].file
    run("import", "--file", str(file), "--format", name, "--method", f"back-{name}", "--made-by", "a test")
    ours, theirs = vector_files(paths, "probe"), vector_files(paths, f"back-{name}")
    assert theirs == {layer: content for layer, content in ours.items() if layer or name != "gguf"}
    known, before = (read_json(paths.vector_metadata(method, 2)) for method in (f"back-{name}", "probe"))
    origin = known["origin"]
    assert (origin["file"], origin["sha256"], origin["format"], origin["made_by"]) == (
        FORMATS[name].file,
        digest(file),
        name,
        "a test",
    )
    assert {k: known[k] for k in ("norm", "centre", "train", "val")} == {
        k: before[k] for k in ("norm", "centre", "train", "val")
    }


def test_an_import_that_was_killed_is_refused_until_it_is_run_again(run, paths, monkeypatch):
    flags = [export(run, paths, method) for method in ("mean_diff", "probe")]
    run("import", *flags[0], "--method", "back")
    real, written = imported.write_vector, []

    def dies(*arguments):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(arguments[1])
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(imported, "write_vector", dies)
        with pytest.raises(KeyboardInterrupt):
            run("import", *flags[1], "--method", "back")

    assert len(vector_files(paths, "back")) == N_LAYERS  # nothing was deleted before the new ones were there
    said = run("export", "--method", "back", code=1)
    assert "an import of back was interrupted" in said
    assert "an import of back was interrupted" in run("pipeline", "--stages", "4", "--force", code=1)
    run("import", *flags[1], "--method", "back")
    assert vector_files(paths, "back") == vector_files(paths, "probe")
    run("export", "--method", "back")


def export(run, paths, method: str) -> tuple[str, ...]:
    """Export a method, and return the flags that import the file."""
    run("export", "--method", method)
    file = paths.export(method) / FORMATS["safetensors"].file
    return ("--file", str(file), "--format", "safetensors")


@pytest.mark.parametrize("name", FORMATS)
def test_an_exported_file_that_was_changed_is_not_taken_back(run, paths, name):
    run("export", "--method", "probe", "--format", ALL)
    file = paths.export("probe") / FORMATS[name].file
    content = file.read_bytes()
    file.write_bytes(content[:-100] + bytes([content[-100] ^ 1]) + content[-99:])
    flags = ("--file", str(file), "--format", name, "--method", "back")
    assert "not the file that facts.json beside it describes" in run("import", *flags, code=1)
    file.rename(paths.root / file.name)  # away from its export, it is somebody's file
    run("import", "--file", str(paths.root / file.name), "--format", name, "--method", "back", code=0)


def test_an_import_with_fewer_layers_leaves_none_of_the_earlier_one(run, paths):
    flags = export(run, paths, "probe")
    run("import", *flags, "--method", "back")
    run("import", *flags, "--method", "back", "--layers", "1,2")
    assert set(vector_files(paths, "back")) == {1, 2}
    assert set(list_vectors(paths)) >= {("back", 1), ("back", 2)}


def test_an_import_sweeps_up_what_a_killed_one_left_half_written(run, paths):
    left = paths.vectors / ".back_layer0.pt.99999999.tmp"
    left.write_text("half")
    run("import", *export(run, paths, "probe"))
    assert not left.exists()


def test_an_import_waits_for_stage_4_or_says_that_it_runs(run, paths):
    flags = export(run, paths, "probe")
    with hold(paths.lock(FIT), "a test"):
        assert "another process is running 4_fit_vectors" in run("import", *flags, code=1)


def test_vectors_of_a_fit_that_did_not_end_are_refused(run, paths):
    content = paths.fitted_on.read_bytes()
    paths.fitted_on.unlink()
    assert "not those that 4_fit_vectors left" in run("export", "--method", "probe", code=1)
    paths.fitted_on.write_bytes(content)
    paths.vector_metadata("probe", 1).unlink()
    assert "not those that 4_fit_vectors left" in run("export", "--method", "probe", code=1)
    assert "output missing" in run("pipeline", "--stages", "4")
    run("export", "--method", "probe")


def test_a_damaged_vector_or_list_is_made_again_by_its_stage(run, paths):
    whole = {f: f.read_bytes() for f in paths.vectors.iterdir()}
    for file in (paths.vector_metadata("probe", 1), paths.vector("probe", 2), paths.fitted_on):
        file.write_bytes(b"[")
        assert "output changed" in run("pipeline", "--stages", "4")
        assert {f: f.read_bytes() for f in paths.vectors.iterdir()} == whole


def test_an_export_holds_what_was_asked_for_and_nothing_of_an_earlier_one(run, paths):
    run("export", "--format", ALL)
    run("export", "--format", "safetensors", "--layers", "1-2")
    assert sorted(f.name for f in paths.export("mean_diff").iterdir()) == [
        "README.md",
        "facts.json",
        "vectors.safetensors",
    ]
    assert read_json(paths.export("mean_diff") / "facts.json")["layers"] == [1, 2]


def test_the_card_says_what_is_known_and_that_the_rest_is_not(run, paths, tiny_folders):
    run("export", "--format", ALL)
    folder = paths.export("mean_diff")
    card = (folder / "README.md").read_text()
    held_out = read_json(paths.vector_metadata("mean_diff", 2))["val"]
    for fact in (
        "4 layers of width 32",
        "| site | residual |",
        "| position | response[:] |",
        "| chat template | used for questions |",
        "llama (a local copy)",
    ):
        assert fact in card
    assert f"{held_out['auroc']:.2f} [{held_out['auroc_low']:.2f}" in card
    assert "| revision | not recorded |" in card
    assert "Not known: 5_steer_evaluate has not been run." in card
    assert "placeholders: no dose was found" in card
    assert all(target.title in card for target in TARGETS.values())
    for file in folder.iterdir():  # nothing of this machine
        assert str(Path(tiny_folders["llama"]).parent).encode() not in file.read_bytes()


def test_stage_5_steers_with_an_imported_method_and_says_where_it_came_from(run, paths, tmp_path):
    torch.save(
        torch.stack(
            [
                torch.zeros(32),
                *(load_tensor(paths.vector("mean_diff", layer), (32,)) * 3 for layer in range(N_LAYERS)),
            ]
        ),
        tmp_path / "v.pt",
    )
    run(
        "import",
        "--file",
        str(tmp_path / "v.pt"),
        "--format",
        "persona_vectors",
        "--method",
        "foreign",
        "--layers",
        "2",
    )
    steering = ["--only-stage", "5", "--method", "foreign", *SMALL]
    assert "foreign was imported at 2, and --layers 1 names none of these" in run(
        "pipeline", *steering, "--layers", "1", code=1
    )
    run("pipeline", *steering, "--layers", "1-3")
    results = read_json(paths.steering_results)
    assert (results["chosen"]["method"], results["chosen"]["layer"]) == ("foreign", 2)
    assert results["shuffled_labels_fitted_by"] == {"foreign": "mean_diff"}
    assert results["shuffled_labels_odd_part"] is not None
    assert results["random"]["n"] == 2
    assert results["made_by"]["vectors"]["imported"]["foreign"]["sha256"] == digest(tmp_path / "v.pt")
    assert "up to date" in run("pipeline", *steering, "--layers", "1-3")
    run("export", "--method", "foreign", "--format", "safetensors")
    card = (paths.export("foreign") / "README.md").read_text()
    assert f"**{results['verdict']}**" in card
    assert f"coefficient={results['chosen']['coefficient']:g}" in card
    assert f"sha256 {digest(tmp_path / 'v.pt')}" in card
    run("export", "--method", "mean_diff")
    assert (
        "Not known: 5_steer_evaluate chose foreign at layer 2"
        in (paths.export("mean_diff") / "README.md").read_text()
    )
    run(
        "import",
        "--file",
        str(tmp_path / "v.pt"),
        "--format",
        "persona_vectors",
        "--method",
        "foreign",
        "--layers",
        "1-2",
    )
    assert sorted(vector_files(paths, "foreign")) == [1, 2]
    torch.save(-torch.load(tmp_path / "v.pt"), tmp_path / "other.pt")
    run("import", "--file", str(tmp_path / "other.pt"), "--format", "persona_vectors", "--method", "foreign")
    run("export", "--method", "foreign")
    assert (
        "Not known: 5_steer_evaluate tested earlier vectors"
        in (paths.export("foreign") / "README.md").read_text()
    )
    assert "input changed" in run("pipeline", *steering, "--layers", "1-3", "--dry-run")


def test_a_verdict_from_another_experiment_names_the_model_that_was_steered(run, paths, tiny_folders):
    steering = [
        "--only-stage",
        "5",
        "--steer-experiment",
        "sibling",
        "--steer-model",
        tiny_folders["sibling"],
        "--method",
        "probe",
        "--layers",
        "1",
    ]
    said = [line for line in run("pipeline", *steering, *SMALL).splitlines() if line.startswith("note:")]
    assert (
        len([line for line in said if "was fitted on" in line]) == 1
    )  # a sibling is steered, and it is said
    run("export", "--method", "probe", "--verdict-from", "sibling")
    card = (paths.export("probe") / "README.md").read_text()
    assert f"**{read_json(paths.within('sibling').steering_results)['verdict']}**" in card
    assert "| steered model | sibling (a local copy), float32, quantisation none |" in card
    assert "| model | llama (a local copy) |" in card


def test_imported_vectors_make_stage_4_no_older_and_outlive_it(run, paths, tmp_path):
    run("export", "--method", "probe", "--layers", "2")
    run(
        "import",
        "--file",
        str(paths.export("probe") / "vectors.safetensors"),
        "--format",
        "safetensors",
        "--method",
        "kept",
    )
    assert "up to date" in run("pipeline", "--only-stage", "4")
    vector, known = paths.vector("kept", 2).read_bytes(), read_json(paths.vector_metadata("kept", 2))
    fit = ("--only-stage", "4", "--methods", "mean_diff", "--no-vet")
    run("pipeline", "--only-stage", "3", "--val-share", "0.5")
    run("pipeline", *fit)
    assert not vector_files(paths, "probe")
    again = read_json(paths.vector_metadata("kept", 2))
    assert paths.vector("kept", 2).read_bytes() == vector
    assert again["origin"] == known["origin"]
    assert again["val"]["n_pos"] > known["val"]["n_pos"]  # measured on the new activations
    run("pipeline", "--only-stage", "3")
    run("pipeline", "--only-stage", "4")
    assert read_json(paths.vector_metadata("kept", 2)) == known


@pytest.mark.parametrize(
    ("script", "flags", "said"),
    [
        ("export", ["--method", "pca"], "no vector of 'pca' in e; there are"),
        ("export", ["--layers", "9"], "the model has layers 0 to 3"),
        (
            "export",
            ["--format", "onnx"],
            "unknown format 'onnx'; choose safetensors, gguf, repeng, persona_vectors",
        ),
        ("export", ["--format", "gguf", "--layers", "0"], "--format gguf cannot hold layer 0"),
        ("export", ["--dry-run"], "--push-to-hub"),
        ("export", ["--push-to-hub", "no-user"], "write USER/REPO"),
        ("export", ["--push-to-hub", "a/../b"], "--push-to-hub 'a/../b'"),
        ("import", ["--file", "/none", "--format", "gguf"], "/none is no file"),
        ("import", ["--file", "/none", "--format", "pt"], "unknown format 'pt'"),
        (
            "import",
            ["--file", "/none", "--format", "gguf", "--method", "probe"],
            "a method of traitscope's own",
        ),
        ("import", ["--file", "/none", "--format", "gguf", "--method", "../x"], "letters, digits"),
        ("import", ["--file", "/none", "--format", "gguf", "--method", "a_layer1"], "no '_layer'"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(run, script, flags, said):
    printed = run(script, *flags, code=1)
    assert said in printed
    assert printed.count("\n") == 1


def test_a_file_for_another_model_or_without_the_layer_is_refused_and_leaves_nothing(run, paths, tmp_path):
    torch.save(torch.ones(9, 32), tmp_path / "deep.pt")
    assert "tensor (5, 32)" in run(
        "import",
        "--file",
        str(tmp_path / "deep.pt"),
        "--format",
        "persona_vectors",
        "--method",
        "never",
        code=1,
    )
    torch.save(torch.cat([torch.zeros(2, 32), torch.ones(3, 32)]), tmp_path / "some.pt")
    some = ["--file", str(tmp_path / "some.pt"), "--format", "persona_vectors", "--method", "never"]
    assert "no vector for layer 0; it has 1, 2, 3" in run("import", *some, "--layers", "0-1", code=1)
    assert not vector_files(paths, "never")


def test_what_a_file_says_of_its_model_is_compared(run, paths):
    run("export", "--method", "mean_diff")
    file = paths.export("mean_diff") / "vectors.safetensors"
    content = file.read_bytes()
    file = paths.root / "from_elsewhere.safetensors"
    file.write_bytes(content.replace(b'\\"model_type\\": \\"llama\\"', b'\\"model_type\\": \\"gemma\\"'))
    printed = run("import", "--file", str(file), "--format", "safetensors", "--method", "odd")
    assert "note: the file says model_type gemma; this experiment's is llama" in printed


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("analysis/import_vectors.py", "extraction/import_vectors.py"),
        ("analysis/steering/cross_trait.py", "analysis/cross_trait.py"),
        ("analysis/steering/figures.py", "analysis/draw_steering.py"),
    ],
)
def test_a_command_that_has_moved_still_runs_as_it_was_typed_before(before, now, tmp_path):
    typed = [sys.executable, str(CHECKOUT / before), "--help"]
    done = subprocess.run(typed, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"python {now} --experiment EXPERIMENT --trait")


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("chats", [True, False])
def test_a_snippet_is_python_of_at_most_ten_lines(name, chats):
    code = render_snippet(TARGETS[name], {"n_layers": 4, "d_model": 32}, Use('a "model"', 2, -0.5, chats))
    compile(code, name, "exec")
    assert len(code.splitlines()) <= 10
    assert not re.search(r"\{\w+\}|\{\{", code)  # nothing left to fill in


def test_our_snippet_steers_as_we_do(run, paths, tiny_folders, llama, monkeypatch, capfd):
    run("export", "--method", "mean_diff")
    monkeypatch.chdir(paths.export("mean_diff"))
    exec(
        render_snippet(
            TARGETS["transformers"], {"n_layers": 4, "d_model": 32}, Use(tiny_folders["llama"], 2, 8.0)
        ),
        {},
    )
    printed = capfd.readouterr().out
    ids = torch.tensor([encode(llama, [{"role": "user", "content": "How was your day?"}])])
    texts = []
    for coefficient in (8.0, 0.0):
        with steer(llama.model, [[Push(2, load_tensor(paths.vector("mean_diff", 2), (32,)), coefficient)]]):
            texts.append(
                llama.tokenizer.decode(
                    llama.model.generate(ids, max_new_tokens=40)[0, ids.shape[1] :], skip_special_tokens=True
                )
            )
    assert printed.endswith(texts[0] + "\n")
    assert texts[0] != texts[1]


def test_a_dry_run_lists_what_would_be_uploaded_and_sends_nothing(run, paths):
    printed = run("export", "--format", "safetensors,gguf", "--push-to-hub", "someone/vectors", "--dry-run")
    assert "would upload to someone/vectors" in printed
    for name in ("README.md", "facts.json", "vectors.safetensors", "control_vector.gguf"):
        assert f"{name}  {(paths.export('mean_diff') / name).stat().st_size} bytes" in printed


def test_without_a_token_or_a_network_the_export_is_written_and_one_line_says_why_it_is_not_uploaded(
    run, paths, monkeypatch
):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/none")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert "set HF_TOKEN" in run("export", "--push-to-hub", "someone/vectors", code=1)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    assert "HF_HUB_OFFLINE is set" in run("export", "--push-to-hub", "someone/vectors", code=1)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "cannot reach the hub" in run("export", "--push-to-hub", "someone/vectors", code=1)
    assert (paths.export("mean_diff") / "README.md").exists()


class Hub(BaseHTTPRequestHandler):
    """The three requests of an upload, as the hub answers them."""

    received: ClassVar[dict[str, bytes]] = {}

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else self._chunks()
        Hub.received[re.sub(r"\?.*", "", self.path)] = body
        if self.headers.get("Authorization") != "Bearer hf_test":
            return self._answer(401, {"error": "Invalid username or password."})
        if self.path.endswith("/preupload/main"):
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            return self._answer(200, {"files": files})
        url = f"http://{self.headers['Host']}/someone/vectors"
        return self._answer(
            200, {"url": url, "commitUrl": f"{url}/commit/1", "commitOid": "1", "success": True}
        )

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, status: int, content: dict) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def test_an_upload_creates_a_private_repository_and_sends_every_file_whole(run, paths, monkeypatch):
    from huggingface_hub import constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    try:
        (paths.export("mean_diff") / "notes.txt").write_text("not part of the export")
        assert f":{server.server_port}/someone/vectors/commit/1" in run(
            "export", "--format", ALL, "--push-to-hub", "someone/vectors"
        )
        monkeypatch.setenv("HF_TOKEN", "hf_wrong")
        created = json.loads(Hub.received["/api/repos/create"])
        lines = [
            json.loads(line) for line in Hub.received["/api/models/someone/vectors/commit/main"].splitlines()
        ]
        assert "the hub refuses someone/vectors" in run("export", "--push-to-hub", "someone/vectors", code=1)
    finally:
        server.shutdown()
        (paths.export("mean_diff") / "notes.txt").unlink()
    assert (created["name"], created["visibility"]) == ("vectors", "private")
    sent = {
        line["value"]["path"]: base64.b64decode(line["value"]["content"])
        for line in lines
        if line["key"] == "file"
    }
    assert sorted(sent) == sorted(["README.md", "facts.json", *(form.file for form in FORMATS.values())])
    assert b"mean_diff" in sent["README.md"]
