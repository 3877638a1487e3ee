"""Tiny random models of three architectures, with byte-level tokenizers made offline, and small trait
datasets.
"""

import json
import os
import runpy
import sys
from collections.abc import Callable, Iterator
from functools import cache
from types import ModuleType

os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault(
        "OMP_NUM_THREADS", "1"
    )  # the workers share the cores: a file of tests each, and a thread
for _name in (
    "OPENAI_API_KEY",
    "OPENAI_BASE_URL",
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_BASE_URL",
    "GOOGLE_API_KEY",
    "GEMINI_API_KEY",
    "GOOGLE_GEMINI_BASE_URL",
):
    os.environ[_name] = ""  # empty is not set, and wins over a developer's .env: no test may cost money

from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
if "traitscope" not in sys.modules:
    runpy.run_path(
        str(CHECKOUT / "__init__.py"), run_name="checkout"
    )  # this checkout, whichever one is installed

from traitscope.utils.model.loading import LM, ModelOptions, load_lm
from traitscope.utils.stage.alone import stage_command
from traitscope.utils.stage.command import Command, command, run_command

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA = (  # writes BOS itself, and refuses a system role
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>model\n' }}{% endif %}"
)
QWEN = CHATML + "{% if enable_thinking is not defined or enable_thinking %}{{ '<think>' }}{% endif %}"
N_LAYERS, D_MODEL = 4, 32
SPECIAL = ["<pad>", "<bos>", "<eos>", "<|im_start|>", "<|im_end|>"]


def _tokenizer(template: str | None, adds_bos: bool):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {
        token: i for i, token in enumerate([*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())])
    }
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", 1)]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    )
    fast.chat_template = template
    return fast


def _config(family: str, n_layers: int):
    from transformers import Gemma2Config, LlamaConfig, Qwen2Config

    shape = {
        "vocab_size": 5 + 256,
        "hidden_size": D_MODEL,
        "intermediate_size": 48,
        "num_hidden_layers": n_layers,
        "num_attention_heads": 4,
    }
    shape |= {
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    if family == "gemma":
        shape |= {
            "head_dim": 8,
            "sliding_window": 24,
        }  # so small that sliding layers differ from full ones within a short text
    return {"llama": LlamaConfig, "qwen": Qwen2Config, "gemma": Gemma2Config}[family](**shape)


def save_tiny(
    folder: Path, family: str, template: str | None, adds_bos: bool, seed: int = 0, n_layers: int = N_LAYERS
) -> Path:
    """Write a random model with clearly different rows, so that greedy texts vary."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(_config(family, n_layers))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    model.save_pretrained(folder)
    _tokenizer(template, adds_bos).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory) -> dict[str, str]:
    base = tmp_path_factory.mktemp("models")
    return {
        "llama": str(save_tiny(base / "llama", "llama", CHATML, adds_bos=False)),
        "gemma": str(save_tiny(base / "gemma", "gemma", GEMMA, adds_bos=True)),
        "qwen": str(save_tiny(base / "qwen", "qwen", QWEN, adds_bos=False)),
        "base": str(save_tiny(base / "base", "llama", None, adds_bos=True)),  # no chat template, adds BOS
        "sibling": str(save_tiny(base / "sibling", "llama", CHATML, adds_bos=False, seed=1)),
        "shallow": str(save_tiny(base / "shallow", "llama", CHATML, adds_bos=False, n_layers=3)),
    }


@cache
def _lm(folder: str) -> LM:
    """Return a tiny model, loaded once a session: nothing may change it but for the length of a test."""
    return load_lm(ModelOptions(model=folder, device="cpu"))


@pytest.fixture(params=["llama", "gemma", "qwen"])
def lm(request, tiny_folders) -> LM:
    """Each architecture in turn."""
    return _lm(tiny_folders[request.param])


@pytest.fixture
def llama(tiny_folders) -> LM:
    return _lm(tiny_folders["llama"])


@pytest.fixture
def gemma(tiny_folders) -> LM:
    return _lm(tiny_folders["gemma"])


@pytest.fixture
def base_lm(tiny_folders) -> LM:
    return _lm(tiny_folders["base"])


@pytest.fixture(scope="session")
def embedded() -> LM:
    """The real embedded model, held for the whole session beside the tiny ones."""
    return load_lm(ModelOptions(model="embedded", device="cpu"))


SHIPPED = Path(__file__).parents[1] / "datasets" / "traits"


def copy_trait(root: Path, trait: str, pairs: int) -> Path:
    """Put the first pairs of a shipped trait under another root."""
    target = root / "datasets" / "traits" / trait
    target.mkdir(parents=True)
    for name in ("positive.txt", "negative.txt"):
        lines = (SHIPPED / trait / name).read_text().split("\n")[:pairs]
        (target / name).write_text("\n".join(lines))
    for name in ("definition.txt", "steering.json"):
        (target / name).write_bytes((SHIPPED / trait / name).read_bytes())
    return target


@pytest.fixture
def own_cache(tmp_path, monkeypatch) -> Path:
    """Answers of judges in a folder of the test's own, no money spent, and short waits between tries."""
    from traitscope.utils.judge import asking, budget

    monkeypatch.setenv("TRAITSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(asking, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(budget, "_own_accounts", {})
    return tmp_path / "cache"


@pytest.fixture
def serve(monkeypatch, own_cache):
    """Return a function that starts a server and points every provider at it."""
    from judge_server import KEYS, URLS, JudgeServer

    running = []

    def start(key: str | None = None, **options):
        server = JudgeServer(**options).__enter__()
        running.append(server)
        for provider in KEYS:
            monkeypatch.setenv(KEYS[provider], key or server.key)
            monkeypatch.setenv(URLS[provider], server.url + ("/v1" if provider == "openai" else ""))
        return server

    yield start
    for server in running:
        server.__exit__()


@pytest.fixture(scope="session")
def shown(tmp_path_factory) -> Path:
    """Return a root with experiments for the dashboard; nobody writes there."""
    from dashboard_server import shared_experiments

    own = tmp_path_factory.getbasetemp()
    return shared_experiments(own.parent if "PYTEST_XDIST_WORKER" in os.environ else own)


@pytest.fixture(scope="session")
def dashboard(shown) -> Iterator[str]:
    """Return the address of a dashboard over those experiments."""
    from dashboard_server import DashboardServer

    with DashboardServer(shown) as server:
        yield server.url


@pytest.fixture(scope="module")
def browser():
    """Return a browser."""
    from dashboard_browser import running_browser

    with running_browser() as running:
        yield running


@pytest.fixture
def visit(browser, dashboard):
    """Open pages of the dashboard; whatever the console says fails the test."""
    from dashboard_browser import watched

    with watched(browser, dashboard) as visit:
        yield visit


def write_dataset(folder: Path, files: dict) -> None:
    """Write the files of a dataset: bytes and texts as they are, other content as JSON, or as lines of
    JSON; None is left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if content is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(dataset_bytes(name, content))


def dataset_bytes(name: str, content) -> bytes:
    """Return a file's content as bytes."""
    if isinstance(content, bytes):
        return content
    if isinstance(content, str):
        return content.encode()
    return (
        "\n".join(map(json.dumps, content)).encode()
        if name.endswith("jsonl")
        else json.dumps(content).encode()
    )


def command_of(script: ModuleType) -> Callable | Command:
    """Return what a command's file runs: a stage, a command with further flags, or the function that is
    called like the file.
    """
    if hasattr(script, "STAGE"):
        return stage_command(script.STAGE)
    return getattr(script, "COMMAND", None) or getattr(script, Path(str(script.__file__)).stem)


def call(script: ModuleType, *arguments: str) -> None:
    """Run a command in this process; what the user must mend is a UserError."""
    run_command(command_of(script), list(arguments))


def typed(**flags: object) -> list[str]:
    """Return flags as they are typed: `traits=("a", "b"), force=True` is --traits=a,b --force=True."""
    texts = {name: ",".join(map(str, v)) if isinstance(v, tuple) else str(v) for name, v in flags.items()}
    return [f"--{name.replace('_', '-')}={text}" for name, text in texts.items()]


def call_with(script: ModuleType, **flags: object) -> None:
    """Run a command in this process with flags by their names."""
    call(script, *typed(**flags))


def call_as_shell(script: ModuleType, *arguments: str) -> None:
    """Run a command in this process as a shell does: it leaves by SystemExit where something is wrong."""
    before = sys.argv
    sys.argv = [str(script.__file__), *arguments]
    try:
        command(command_of(script))
    finally:
        sys.argv = before
