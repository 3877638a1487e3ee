"""Exports in the hands of the tools they are for, each in an interpreter of its own: skipped where the
environment names none.

TRAITSCOPE_REPENG_PYTHON (repeng 0.4 needs numpy < 2), TRAITSCOPE_LLAMACPP_PYTHON (llama-cpp-python and gguf),
TRAITSCOPE_VLLM_PYTHON (vllm and vllm-lens) are such interpreters; see docs/exchange.md.
"""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from traitscope.analysis.exchange.bundle import Bundle, Shape
from traitscope.analysis.exchange.formats import FORMATS
from traitscope.analysis.exchange.snippets import TARGETS, Use, render_snippet
from traitscope.utils.model.encode import encode
from traitscope.utils.model.gguf import converted, embedded_gguf
from traitscope.utils.model.hooks import Push, steer
from traitscope.utils.model.loading import LM

QUESTION = [{"role": "user", "content": "How was your day?"}]
PYTHONS = {
    "repeng": "TRAITSCOPE_REPENG_PYTHON",
    "llama.cpp": "TRAITSCOPE_LLAMACPP_PYTHON",
    "vllm": "TRAITSCOPE_VLLM_PYTHON",
}


def python_of(tool: str) -> str:
    """Return the interpreter that has a tool; skip the test where there is none."""
    if not os.environ.get(PYTHONS[tool]):
        pytest.skip(f"{PYTHONS[tool]} names no interpreter")
    return os.environ[PYTHONS[tool]]


def export(folder: Path, lm: LM, layer: int, share: float) -> tuple[torch.Tensor, Bundle]:
    """Write every format of a random vector, that share of the residual norm long, with others of all
    layers beside it.
    """
    norms = []
    with steer(lm.model, [[]]), torch.no_grad():
        hidden = lm.model(torch.tensor([encode(lm, QUESTION)]), output_hidden_states=True).hidden_states
        norms = [float(h[0, 1:].norm(dim=-1).mean()) for h in hidden[1:]]
    generator = torch.Generator().manual_seed(3)
    rows = {
        i: torch.nn.functional.normalize(torch.randn(lm.d_model, generator=generator), dim=0)
        * share
        * norms[i]
        for i in range(lm.n_layers)
    }
    bundle = Bundle(
        rows, Shape(lm.n_layers, lm.d_model), "llama", {"n_layers": lm.n_layers, "d_model": lm.d_model}
    )
    for form in FORMATS.values():
        held = {i: v for i, v in rows.items() if i >= form.first_layer}
        (folder / form.file).write_bytes(form.write(replace(bundle, vectors=held)))
    return rows[layer], bundle


def run_elsewhere(tool: str, job: dict, folder: Path) -> np.ndarray:
    """Return the logits [pos, vocabulary] that a tool computes."""
    job = job | {"out": str(folder / "logits.npy")}
    script = Path(__file__).parent / "exchange_runs.py"
    done = subprocess.run(
        [python_of(tool), str(script), tool, json.dumps(job)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return np.load(folder / "logits.npy")


def ours(lm: LM, ids: list[int], push: Push | None) -> np.ndarray:
    with steer(lm.model, [[push] if push else []]), torch.no_grad():
        return lm.model(torch.tensor([ids])).logits[0].numpy()


@pytest.mark.parametrize("layer", [0, 2, 3])
def test_repeng_reads_our_file_and_steers_as_we_do(tmp_path, llama, tiny_folders, layer):
    python_of("repeng")
    ids = encode(llama, QUESTION)
    vector, _ = export(tmp_path, llama, layer, 0.5)
    job = {
        "model": tiny_folders["llama"],
        "file": str(tmp_path / "repeng.gguf"),
        "layer": layer,
        "coefficient": -1.5,
        "ids": ids,
    }
    theirs, steered = run_elsewhere("repeng", job, tmp_path), ours(llama, ids, Push(layer, vector, -1.5))
    assert np.abs(theirs - steered).max() < 1e-4
    assert np.abs(steered - ours(llama, ids, None)).max() > 0.1


@pytest.mark.parametrize("layer", [1, 15, 29])
def test_llama_cpp_steers_the_same_model_to_the_same_logits_and_the_same_greedy_text(
    tmp_path, embedded, layer, tmp_path_factory
):
    python_of("llama.cpp")
    ids = encode(embedded, QUESTION)
    vector, bundle = export(tmp_path, embedded, layer, 0.3)
    shape = {"n_layers": bundle.shape.n_layers, "d_model": bundle.shape.d_model}
    f32 = tmp_path_factory.getbasetemp() / "f32.gguf"
    job = {
        "model": str(embedded_gguf()),
        "f32": str(f32),
        "file": str(tmp_path / "control_vector.gguf"),
        "greedy": 40,
    }
    theirs = run_elsewhere(
        "llama.cpp", job | shape | {"layer": layer, "coefficient": 1.0, "ids": ids}, tmp_path
    )
    steered = ours(embedded, ids, Push(layer, vector, 1.0))
    difference = np.abs(theirs - steered).max()
    with steer(embedded.model, [[Push(layer, vector, 1.0)]]):
        prompt = torch.tensor(
            [ids]
        )  # with a mask: without an end token, padding would be guessed from the prompt
        written = embedded.model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=40, eos_token_id=[]
        )
        text = written[0, len(ids) :].tolist()
    agreeing = sum(
        a == b for a, b in zip(text, json.loads((tmp_path / "logits.json").read_text()), strict=True)
    )
    print(f"\nlayer {layer}: max |Δlogit| {difference:.1e}, greedy {agreeing}/40")
    assert difference < 2e-3
    assert agreeing == 40
    assert np.abs(steered - ours(embedded, ids, None)).max() > 0.5


@pytest.mark.parametrize("tool", ["repeng", "llama.cpp", "vllm"])
def test_the_snippet_of_a_card_runs_as_it_stands_and_writes_what_ours_does(tmp_path, embedded, tool):
    python = python_of(tool)
    vector, bundle = export(tmp_path, embedded, 15, 0.3)
    model = str(embedded_gguf() if tool == "llama.cpp" else converted(embedded_gguf()))
    (tmp_path / "snippet.py").write_text(
        _guarded(render_snippet(TARGETS[tool], bundle.facts, Use(model, 15, 1.0)))
    )
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    done = subprocess.run(
        [python, "snippet.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    steered, unsteered = (_write(embedded, Push(15, vector, coefficient)) for coefficient in (1.0, 0.0))
    shared = (
        len(steered) if tool == "repeng" else 20
    )  # llama.cpp's weights stay quantised and vLLM computes in 16 bits: the beginning must agree
    assert steered[:shared].strip() in done.stdout
    assert steered[:shared] != unsteered[:shared]


def _write(lm: LM, push: Push) -> str:
    ids = torch.tensor([encode(lm, QUESTION)])
    with steer(lm.model, [[push]]):
        return lm.tokenizer.decode(
            lm.model.generate(ids, max_new_tokens=40)[0, ids.shape[1] :], skip_special_tokens=True
        )


def _guarded(code: str) -> str:
    """Return a script whose child processes, where the tool starts any, do not run it again."""
    lines = "".join(f"    {line}\n" for line in code.splitlines())
    return f"def main():\n{lines}\n\nif __name__ == '__main__':\n    main()\n"
