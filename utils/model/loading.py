"""Models: where they come from, how they are loaded, and the one way text becomes token ids."""

import gc
import hashlib
import importlib.util
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub.utils import logging as hub_logging
from transformers import AutoConfig, AutoTokenizer, BitsAndBytesConfig, GenerationConfig
from transformers.utils import logging as transformers_logging

from traitscope.utils.errors import UserError, first_line
from traitscope.utils.files.journal import key_of
from traitscope.utils.model.adapters import merge_lora
from traitscope.utils.model.admission import Habits, admit
from traitscope.utils.model.anatomy import as_ids, depth_of, text_config, vocabulary_of, width_of
from traitscope.utils.model.batching import free_memory
from traitscope.utils.model.checkpoint import explain_failure, loader_of, require_whole
from traitscope.utils.model.cpu import keep_head_fast, speed_up_linear_layers
from traitscope.utils.model.gguf import EMBEDDED, converted, embedded_gguf
from traitscope.utils.model.template import examine, turn_end
from traitscope.utils.stage.flags import flag

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def identify_model(name: str) -> str:
    """Return a model's name, with a digest of its files where they lie on this disk: a fine-tune saved
    over another is another model.

    The digest is of every file's name, size, and first and last 64 KiB, so that it costs milliseconds however
    large the weights are.
    """
    try:
        path = Path(os.path.expanduser(embedded_gguf() if name == EMBEDDED else name))
    except UserError:
        return name

    files = (
        [path]
        if os.path.isfile(path)
        else sorted(p for p in path.glob("*") if p.is_file())
        if name and os.path.isdir(path)
        else []
    )
    return f"{name}#{key_of([(f.name, f.stat().st_size, _ends(f)) for f in files])}" if files else name


def _ends(file: Path) -> str:
    with open(file, "rb") as handle:
        head = handle.read(65536)
        handle.seek(max(0, file.stat().st_size - 65536))
        return hashlib.sha256(head + handle.read()).hexdigest()


@dataclass(frozen=True)
class ModelOptions:
    """Which model, and how it is loaded."""

    model: str = flag(
        "",
        'Hugging Face id, local folder, .gguf file or "embedded"; by default the experiment\'s config decides, else its name.',
        identify=identify_model,
    )
    revision: str = flag("", "Branch, tag or commit of a Hugging Face model.")
    lora: str = flag(
        "", "Folder or Hugging Face id of a LoRA adapter, merged into the model.", identify=identify_model
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = flag(
        "auto", "auto (bfloat16 on a GPU, float32 on a CPU), float32, bfloat16 or float16."
    )
    device: str = flag("auto", "auto, cuda, cuda:1, mps or cpu.", cosmetic=True)
    load_in_8bit: bool = flag(False, "Quantise to 8 bits with bitsandbytes.")
    load_in_4bit: bool = flag(
        False, "Quantise to 4 bits with bitsandbytes (4 bits are known to break directions)."
    )
    trust_remote_code: bool = flag(
        False,
        "Run the code that a model brings along; read that code first. Never asked for on the way.",
        identify=lambda runs: runs or None,
    )
    chat_template: bool = flag(
        True,
        'Use the tokenizer\'s chat template for questions; False gives plain "Question: … Answer:" text.',
    )

    heading = "Model"
    is_setting = True  # a key of config.json


@dataclass(frozen=True)
class LM:
    """A loaded causal language model with its tokenizer, in eval mode, frozen."""

    model: Any
    tokenizer: Any
    chat_template: bool
    identity: dict  # what an artifact says about the model that made it
    habits: Habits = field(default_factory=Habits)

    @property
    def n_layers(self) -> int:
        return depth_of(self.model)

    @property
    def d_model(self) -> int:
        return width_of(self.model)

    @property
    def n_tokens(self) -> int:
        return vocabulary_of(self.model)

    @property
    def device(self) -> torch.device:
        return self.model.get_input_embeddings().weight.device


_loaded: dict[
    str, tuple[ModelOptions, LM]
] = {}  # at most one a role: stages go one after the other, and more models may not fit
_refused: dict[ModelOptions, UserError] = {}  # the other traits of a run need not wait for the same failure


def load_lm(options: ModelOptions, role: str = "studied") -> LM:
    """Load a model, or return it when it is already loaded for this role or another.

    Args:
        role: "studied", or "judge": a model that grades stays loaded beside the one that is studied.

    Raises:
        UserError: the model cannot be had, or an option does not fit this machine.
    """
    held = next((lm for known, lm in _loaded.values() if known == options), None)
    if held is None:
        unload_lm(role)
        if options in _refused:
            raise _refused[options]
        try:
            held = _load(options)
        except UserError as error:
            _refused[options] = error
            raise

    _loaded[role] = (options, held)
    return held


def unload_lm(role: str) -> None:
    """Let go of the model that is loaded for a role."""
    _loaded.pop(role, None)
    gc.collect()
    free_memory()


def _load(options: ModelOptions) -> LM:
    if not options.model:
        raise UserError(
            "nothing names the model; pass --model with a Hugging Face id, a local folder or 'embedded'"
        )
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    hub_logging.set_verbosity_error()
    source = resolve_source(options.model)
    device = choose_device(options.device)
    dtype = choose_dtype(options.dtype, device)

    where = {"trust_remote_code": options.trust_remote_code} | (
        {"revision": options.revision} if options.revision else {}
    )

    try:
        config = AutoConfig.from_pretrained(source, **where)
        loader = loader_of(config)
        tokenizer = AutoTokenizer.from_pretrained(source, **where)
        placement = _placement(loader, config, options, device, dtype)
        model, report = loader.from_pretrained(
            source,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that the report names them
            **where,
            **placement,
        )
    except UserError:
        raise
    except Exception as error:  # foreign files are read by foreign code, and both may fail in any way
        raise explain_failure(options.model, error) from None

    if getattr(model, "_hf_peft_config_loaded", False):  # then the report speaks of the adapter alone
        raise UserError(
            f"{options.model!r} holds an adapter beside a model; pass --lora the adapter's folder, and --model the model's"
        )
    require_whole(model, report, options.model)
    if not placement:
        model.to(device)
    if options.lora:
        model = _merge_lora(model, options)
    lm = wrap(model, tokenizer, options)
    print(
        f"model: {options.model} on {device}, {lm.identity['dtype']}, {torch.get_num_threads()} CPU threads",
        flush=True,
    )
    return lm


def _merge_lora(model: Any, options: ModelOptions) -> Any:
    if options.load_in_8bit or options.load_in_4bit:
        raise UserError(
            "--lora needs weights that are not quantised; leave out --load-in-8bit and --load-in-4bit"
        )
    return merge_lora(model, options.lora, options.model)


def wrap(model: Any, tokenizer: Any, options: ModelOptions) -> LM:
    """Freeze a model and pair it with its tokenizer.

    Decoding settings that a model ships with (temperature, penalties) are dropped: a greedy run is greedy for
    every model.
    """
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    model.generation_config = GenerationConfig(
        eos_token_id=_known_ends(model, tokenizer) or None, pad_token_id=tokenizer.pad_token_id
    )
    _require_reading(tokenizer, options.model)
    model.eval().requires_grad_(False)
    speed_up_linear_layers(model)
    keep_head_fast(model)
    chats = bool(options.chat_template and tokenizer.chat_template)
    identity = {
        "name": " + ".join(filter(None, (options.model, options.lora))),
        "identity": " + ".join(map(identify_model, filter(None, (options.model, options.lora)))),
        "revision": getattr(model.config, "_commit_hash", None) or options.revision or None,
        "architecture": type(model).__name__,
        "dtype": str(model.dtype).removeprefix("torch."),
        "quantization": "int8" if options.load_in_8bit else "int4" if options.load_in_4bit else None,
        "chat_template": chats,
    }

    if chats:
        identity |= _examine_template(tokenizer, options.model)
    return LM(model, tokenizer, chats, identity, admit(model, options.model))


def _require_reading(tokenizer: Any, name: str) -> None:
    """Raise UserError where a tokenizer was made of no vocabulary: it reads every text as nothing."""
    ids = tokenizer("One two three, 1 2 3.", add_special_tokens=False).input_ids
    if not set(ids) - {tokenizer.unk_token_id}:
        raise UserError(
            f"the tokenizer of {name} reads no text; the model's folder lacks tokenizer.json or the like: get it again"
        )


def _known_ends(model: Any, tokenizer: Any) -> list[int]:
    """Return every token that is known to end a text or a turn: by the generation settings, the configuration,
    the tokenizer, and the chat template.
    """
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    # a configuration's own default may name an ordinary token
    configured = [i for i in as_ids(getattr(text_config(model), "eos_token_id", None)) if i in special]
    template_end = turn_end(tokenizer) if tokenizer.chat_template else None
    ends = [
        *as_ids(model.generation_config.eos_token_id),
        *configured,
        *as_ids(tokenizer.eos_token_id),
        *as_ids(template_end),
    ]
    return list(dict.fromkeys(ends))


def _examine_template(tokenizer: Any, name: str) -> dict:
    """Say once what is worth knowing of a chat template, and return what an artifact says of it."""
    facts = examine(tokenizer, name)
    if facts.clock:
        print(f"note: the chat template of {name} asks for the time; it is told {facts.clock}, always")
    if facts.closes_thought:
        print(
            f"note: the chat template of {name} opens a thought; it is closed at once, so that answers are judged and "
            "pooled"
        )
    if facts.moves_system:
        print(
            f"note: the chat template of {name} has no place for a system message; it goes into the user's turn"
        )
    return {"template_clock": facts.clock} if facts.clock else {}


def resolve_source(name: str) -> str:
    """Return what `from_pretrained` takes: an id or folder; GGUF files are converted once into the cache."""
    if name == EMBEDDED:
        return str(converted(embedded_gguf()))
    if name.endswith(".gguf") and not os.path.isdir(Path(os.path.expanduser(name))):
        return str(converted(name))
    return os.path.expanduser(name)


def choose_device(wanted: str) -> torch.device:
    """Return the device asked for, or the best one of this machine for "auto"."""
    if wanted == "auto":
        wanted = (
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    try:
        return torch.empty(0, device=wanted).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"--device {wanted}: {first_line(error)}; use cuda, mps or cpu as this machine has it"
        ) from None


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """Return the torch dtype; "auto" is bfloat16 on a GPU and float32 elsewhere."""
    if wanted == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if wanted not in DTYPES:
        raise UserError(f"unknown dtype {wanted!r}; choose auto, {', '.join(DTYPES)}")
    return DTYPES[wanted]


def _placement(
    loader: Any, config: Any, options: ModelOptions, device: torch.device, dtype: torch.dtype
) -> dict:
    """Return arguments for accelerate: quantised, spread over GPUs when one is too small, else none."""
    if options.load_in_8bit or options.load_in_4bit:
        if not importlib.util.find_spec("bitsandbytes"):
            raise UserError("--load-in-8bit and --load-in-4bit need bitsandbytes: pip install bitsandbytes")
        if options.load_in_4bit:
            print(
                "warning: 4-bit weights are known to break trait directions; compare with bfloat16 before trusting a result"
            )
        quantized = BitsAndBytesConfig(
            load_in_8bit=options.load_in_8bit and not options.load_in_4bit, load_in_4bit=options.load_in_4bit
        )
        return {
            "quantization_config": quantized,
            "device_map": "auto" if device.type == "cuda" else {"": device},
        }

    if (
        device.type == "cuda"
        and _weight_bytes(loader, config, options, dtype) > 0.9 * torch.cuda.mem_get_info(device)[0]
    ):
        return {"device_map": "auto"}
    return {}


def _weight_bytes(loader: Any, config: Any, options: ModelOptions, dtype: torch.dtype) -> int:
    with torch.device("meta"):
        model = loader.from_config(config, dtype=dtype, trust_remote_code=options.trust_remote_code)
    return sum(p.numel() * p.element_size() for p in model.parameters())
