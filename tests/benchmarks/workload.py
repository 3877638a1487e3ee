"""The same work for everybody: which model, which texts, and the command line that the benchmarks share."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma2Config, LlamaConfig

from benchmarks.tables import render_subject
from traitscope.utils.files.artifacts import write_json
from traitscope.utils.model.capture import Reading
from traitscope.utils.model.encode import encode
from traitscope.utils.model.gguf import converted, embedded_gguf
from traitscope.utils.model.loading import LM, ModelOptions, choose_device, choose_dtype, load_lm, wrap
from traitscope.utils.stage.command import Command, command
from traitscope.utils.stage.flags import flag

SHORTEST, LONGEST = 21, 158  # tokens of a text, prompt and response
TRAITS = Path(__file__).resolve().parents[2] / "datasets" / "traits"


def llama(width: int, depth: int) -> LlamaConfig:
    """Return a small Llama with the embedded model's vocabulary."""
    heads = {"num_attention_heads": width // 16, "num_key_value_heads": width // 32}
    return LlamaConfig(
        vocab_size=49152,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=depth,
        max_position_embeddings=8192,
        **heads,
    )


SHAPES: dict[str, Any] = {  # built from config with random weights: speed does not need trained ones
    "gemma-2-2b": Gemma2Config(
        **{"vocab_size": 256000, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26},
        **{"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256},
    ),
    "llama-3.1-8b": LlamaConfig(
        **{"vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32},
        **{"num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192},
    ),
    "tiny": llama(64, 4),
}


@dataclass(frozen=True)
class BenchOptions:
    """What is measured, and on what."""

    quick: bool = flag(False, "A size that shows the script works; its figures mean little.")
    rounds: int = flag(0, "Interleaved rounds; 0 takes the subject's own number.")
    device: Literal["cpu", "cuda"] = flag("cpu", "cpu or cuda.")
    shape: Literal["embedded", "gemma-2-2b", "llama-3.1-8b", "tiny"] = flag(
        "embedded",
        "embedded (the real model), or a model of that shape with random weights; peers take part with "
        "the embedded one on a CPU.",
    )
    json: str = flag("", "File that the results are written to.")

    @property
    def has_peers(self) -> bool:
        return self.device == "cpu" and self.shape == "embedded"


@dataclass(frozen=True)
class Text:
    """A prompt and its response, as ids and as a text whose tokens are these ids."""

    ids: list[int]
    n_prompt: int
    text: str

    @property
    def reading(self) -> Reading:
        return Reading(self.ids, list(range(self.n_prompt, len(self.ids))))

    @property
    def last(self) -> Reading:
        return Reading(self.ids, [len(self.ids) - 1])


def bench_main(measure: Callable[[BenchOptions], dict], doc: str) -> None:
    """The foot of every benchmark: measure, print, and write the results where they are wanted."""

    def bench(options: BenchOptions) -> None:
        results = measure(options)
        print(render_subject(results))
        if options.json:
            write_json(Path(options.json), results)

    command(Command(bench, doc=doc))


def model_folder() -> str:
    """Return the folder of the embedded model's float32 weights, which every peer loads."""
    return str(converted(embedded_gguf()))


def load_model(options: BenchOptions, dtype: str = "auto") -> LM:
    """Return the model that is measured, with traitscope's kernels."""
    if options.shape == "embedded":
        return load_lm(ModelOptions(model="embedded", device=options.device, dtype=dtype))  # type: ignore[arg-type]
    return build_model(SHAPES[options.shape], options.device, dtype)


def build_model(config: Any, device: str, dtype: str = "auto") -> LM:
    """Return a model with random weights, made on its device, and the embedded model's tokenizer."""
    where = choose_device(device)
    torch.manual_seed(0)
    with where:
        model = AutoModelForCausalLM.from_config(config, dtype=choose_dtype(dtype, where))
    return wrap(
        model,
        AutoTokenizer.from_pretrained(model_folder()),
        ModelOptions(model=f"random {config.model_type}"),
    )


def token_budget(lm: LM) -> int:
    """Return the tokens of a batch of capture, padding included, that traitscope chooses for a device."""
    return 16384 if lm.device.type == "cuda" else 512


def prose() -> str:
    """Return plain English text from the library's scenarios, as much as anybody needs."""
    return " ".join(
        line
        for file in sorted(TRAITS.glob("epistemic/*/positive.txt"))
        for line in file.read_text().split("\n")
        if line
    )


def make_texts(n: int, longest: int = LONGEST, seed: int = 0) -> list[Text]:
    """Return n texts of mixed lengths, evenly from SHORTEST to `longest` tokens, in random order; two
    fifths are the prompt.
    """
    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    lengths = [round(SHORTEST + (longest - SHORTEST) * i / max(n - 1, 1)) for i in range(n)]
    random.Random(seed).shuffle(lengths)
    words = prose().split(" ")
    texts = []
    for i, length in enumerate(lengths):
        start = 29 * i % (len(words) - longest)
        coded = tokenizer(" ".join(words[start : start + longest]), return_offsets_mapping=True)
        source = tokenizer.decode(coded.input_ids)
        while (
            source[coded.offset_mapping[length][0]] != " "
        ):  # cut between words, so that the text has these tokens and no others
            length -= 1
        texts.append(
            Text(coded.input_ids[:length], 2 * length // 5, source[: coded.offset_mapping[length][0]])
        )
    assert all(tokenizer(t.text).input_ids == t.ids for t in texts)
    return texts


def make_chats(n: int, seed: int = 0) -> list[Text]:
    """Return n chats, scenarios of a shipped trait with responses of mixed lengths, 16 to 64 tokens; the
    template's system message comes first.
    """
    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    scenarios = [
        line
        for side in ("positive", "negative")
        for line in (TRAITS / f"epistemic/optimism/{side}.txt").read_text().split("\n")
        if line
    ]
    lengths = [round(16 + 48 * i / max(n - 1, 1)) for i in range(n)]
    rng = random.Random(seed)
    rng.shuffle(lengths)
    words, texts = prose().split(" "), []
    for i, (scenario, length) in enumerate(zip(rng.sample(scenarios, n), lengths, strict=True)):
        chat = [{"role": "user", "content": scenario}]
        prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        response = tokenizer.decode(tokenizer(" ".join(words[29 * i : 29 * i + 64])).input_ids[:length])
        ids, n_prompt = tokenizer(prompt + response).input_ids, len(tokenizer(prompt).input_ids)
        assert ids[:n_prompt] == tokenizer(prompt).input_ids
        texts.append(Text(ids, n_prompt, prompt + response))
    return texts


def make_prompts(lm: LM, n: int) -> list[list[int]]:
    """Return the first n evaluation questions of a shipped trait as the model is given them."""
    questions = json.loads((TRAITS / "epistemic/optimism/steering.json").read_text())["questions"]
    return [encode(lm, [{"role": "user", "content": q}]) for q in questions[:n]]


def supports_bf16() -> bool:
    """Tell whether this CPU multiplies bfloat16 in hardware."""
    flags = Path("/proc/cpuinfo").read_text(errors="replace") if Path("/proc/cpuinfo").exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def cosine(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Return the lowest cosine over rows and layers: [n, layers, d_model] each."""
    return float(torch.nn.functional.cosine_similarity(ours.double(), theirs.double(), dim=-1).min())
