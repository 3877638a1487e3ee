"""Whether what was loaded is whole, and what to tell a user whose model cannot be loaded."""

import os
import pickle
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub import errors as hub
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
)

from traitscope.utils.errors import UserError, first_line
from traitscope.utils.model.anatomy import depth_of

SHOWN = 3  # names of tensors in an error
_INDEXED = re.compile(r"\.(\d+)\.")
_TOWER = re.compile(
    r"vision|visual|image|audio|video|multi_modal|mm_|projector|patch|connector", re.IGNORECASE
)
# masks, positions and versions that older files hold; they are computed, and never learned
_BUFFER = re.compile(
    r"inv_freq|masked_bias|attn\.bias$|attention\.bias$|causal_mask|rotary_emb|embed_positions(?:\.weights)?$|pos_encoding$"
    r"|\.version$|_extra_state|[kv]_scale$|position_ids$|\.pooler\."
)


def loader_of(config: PreTrainedConfig) -> Any:
    """Return the class that loads a model that writes text: that of text models, or of those that see images
    too, whose text model is then used.

    Raises:
        UserError: it is no model that continues a text.
    """
    kind = type(config)
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(f"{config.model_type} is an encoder–decoder; a causal language model is needed")
    if "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {}):
        return AutoModelForCausalLM

    wrapped = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.get(kind, None)
    named = {getattr(c, "__name__", c) for c in (wrapped if isinstance(wrapped, tuple) else (wrapped,))}
    if set(config.architectures or ()) & named or kind not in MODEL_FOR_CAUSAL_LM_MAPPING:
        if wrapped is None:
            raise UserError(f"{config.model_type} is no causal language model")
        return AutoModelForImageTextToText
    return AutoModelForCausalLM


def require_whole(model: Any, report: dict[str, Any], name: str) -> None:
    """Raise UserError unless every tensor of the text model came from its checkpoint, and every tensor of the
    checkpoint that belongs to a text model went into it.

    Args:
        report: What transformers says of its loading: missing_keys, unexpected_keys, mismatched_keys, …
    """
    needed = _needed_by(model)
    refuse_faults(
        f"the checkpoint of {name}",
        {
            "lacks": list(filter(needed, report.get("missing_keys") or ())),
            "has other shapes of": [entry[0] for entry in report.get("mismatched_keys") or ()],
            "also holds": list(filter(needed, report.get("unexpected_keys") or ())),
        },
        f"it is not whole, or no {type(model).__name__}; get it again, or save it with the names that its config.json "
        "stands for",
    )


def refuse_faults(what: str, faults: dict[str, Iterable[str]], advice: str) -> None:
    """Raise UserError where there is a fault: {what is wrong: the tensors' names}."""
    found = [f"{wrong} {_name_some(keys)}" for wrong, keys in faults.items() if keys]
    if found:
        raise UserError(f"{what} {' and '.join(found)}; {advice}")


def _needed_by(model: Any) -> Callable[[str], bool]:
    """Return a function that tells whether a tensor belongs to the text model: to its decoder or its head. What
    belongs to towers for images and to other heads does not matter, nor do the buffers that older versions saved.
    """
    names = {id(module): name for name, module in model.named_modules()}
    decoder, head = names[id(model.get_decoder())], names.get(id(model.get_output_embeddings()), "")
    own = tuple(f"{name}." for name in (decoder, head) if name) if decoder else ("",)
    depth = depth_of(model)
    more = getattr(model.config.get_text_config(), "num_nextn_predict_layers", None) or 0

    def is_needed(key: str) -> bool:
        block = _INDEXED.search(key)
        predicts_further = block is not None and depth <= int(block[1]) < depth + more
        if _BUFFER.search(key) or predicts_further:
            return False
        return key.startswith(own) or not _is_elsewhere(key)

    return is_needed


def _is_elsewhere(key: str) -> bool:
    """Tell whether a tensor is named like nothing of the text model: neither like a block nor like the whole."""
    top = key.split(".")[0]
    return top not in ("base_model", "model", "transformer") or bool(_TOWER.search(key))


def _name_some(keys: Iterable[str]) -> str:
    names = sorted(keys)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} tensor{'s' if len(names) > 1 else ''} ({', '.join(names[:SHOWN])}{more})"


def explain_failure(name: str, error: BaseException) -> UserError:
    """Return what to tell a user whose model raised while it was loaded: one line, with the way out."""
    return UserError(f"cannot load model {name!r:.200}: {_reason(name, error)}")


def _reason(name: str, error: BaseException) -> str:
    said, causes = first_line(error), list(_causes(error))
    if "above report" in said:
        said = "some of its tensors are missing or of another shape, so that they cannot be joined"
    path = Path(os.path.expanduser(name))

    if _is_local(name) and not os.path.exists(path):  # which takes a name that is too long for false
        return "there is no such folder or file"
    if os.path.isdir(path) and (absent := _absent(path)):
        return absent
    if "trust_remote_code" in str(error):
        return "it brings code of its own; read that, then pass --trust-remote-code"
    if any(isinstance(c, pickle.UnpicklingError) for c in causes) or "weights_only" in str(error):
        return (
            "its weights are pickled, and are damaged or hold more than tensors; take a safetensors version"
        )
    if any(isinstance(c, hub.GatedRepoError) for c in causes) or "gated repo" in str(error):
        return "it is gated; accept the licence on its page, then set HF_TOKEN"
    if isinstance(error, ImportError):
        return f"{said}; pip install what is missing"
    if any(isinstance(c, MemoryError) for c in causes) or "out of memory" in str(error):
        return "it does not fit into memory; take a smaller one, or --load-in-8bit on a GPU"
    if "model type" in str(error) or "model_type" in str(error):
        return f"{said}; transformers {transformers.__version__} does not know it"
    if os.path.exists(path):
        what = "a file in the folder" if path.is_dir() else "the file"
        return f"{said}; {what} is damaged or not of the kind: get it again"
    return (
        f"{said}; pass --model a local folder, or the id of a model that you have access to (network on, HF_TOKEN set "
        "where it is private or gated)"
    )


def _absent(folder: Path) -> str:
    """Return what a folder lacks to be a model's, in words; "" where it has a configuration."""
    if (folder / "config.json").exists():
        return ""
    if (folder / "adapter_config.json").exists():
        return "it is a LoRA adapter; pass --model its base model, and --lora this folder"
    return "the folder has no config.json; a model's folder holds config.json, weights and a tokenizer"


def _is_local(name: str) -> bool:
    """Tell a path from the id of a model on the Hub."""
    return name.startswith((".", "~", os.sep)) or name.endswith(".gguf") or name.count("/") > 1


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
