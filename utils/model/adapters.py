"""LoRA adapters, merged into a model's own weights."""

import os
from typing import Any

import torch
from torch import Tensor, nn

from traitscope.utils.errors import UserError, first_line
from traitscope.utils.model.anatomy import vocabulary_of
from traitscope.utils.model.checkpoint import refuse_faults

TRIED = 16  # tokens of the text on which merged and unmerged are compared
NEAR = {torch.float32: 1e-3}
NEAR_IN_16_BITS = 0.1


def merge_lora(model: Any, lora: str, name: str) -> Any:
    """Return the model with an adapter's weights added to its own.

    Args:
        lora: Folder or Hugging Face id of the adapter.
        name: Of the model, for errors.

    Raises:
        UserError: the adapter cannot be had, does not fit this model tensor by tensor, changes nothing, or
            cannot be merged.
    """
    from peft import PeftConfig, get_peft_model, load_peft_weights, set_peft_model_state_dict

    where = os.path.expanduser(lora)
    try:
        config = PeftConfig.from_pretrained(where)
        config.inference_mode = True
        if config.is_prompt_learning:
            raise UserError(
                f"{lora!r} holds prompts that are learned ({config.peft_type.value}), no weights to merge"
            )
        weights = load_peft_weights(where, device="cpu")
        _untie(model, weights)
        adapted = get_peft_model(model, config)
        found: Any = set_peft_model_state_dict(adapted, weights, ignore_mismatched_sizes=False)
        missing = [key for key in found.missing_keys if adapted.base_model.prefix in key]
        refuse_faults(
            f"LoRA adapter {lora!r}",
            {"lacks": missing, "holds, and the model has no place for,": found.unexpected_keys},
            f"it was made for another model than {name!r}",
        )
        return _merge(adapted.eval(), lora)
    except UserError:
        raise
    except Exception as error:  # a foreign file, read by foreign code
        said = next(
            (line.strip() for line in str(error).splitlines() if "mismatch" in line), first_line(error)
        )
        raise UserError(f"cannot load LoRA adapter {lora!r} for {name!r}: {said}") from None


def _untie(model: Any, weights: dict[str, Tensor]) -> None:
    """Give the head weights of its own where the adapter changes it or the embeddings, so that what is added to
    one is not added to the other.
    """
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is None or head.weight is not embeddings.weight:
        return

    names = [name for name, module in model.named_modules() if module is embeddings or module is head]
    added = [key for key in weights if ".lora_" in key]  # what replaces tokens is meant for both ends
    if any(f".{name.rpartition('.')[2]}." in key for name in names for key in added):
        head.weight = nn.Parameter(head.weight.detach().clone())
        model.config.get_text_config().tie_word_embeddings = False
        model.config.tie_word_embeddings = False


@torch.inference_mode()
def _merge(adapted: Any, lora: str) -> Any:
    """Merge an adapter, and prove on a short text that it changed something, and the same as before merging."""
    drawn = torch.Generator().manual_seed(0)
    ids = torch.randint(0, vocabulary_of(adapted), (1, TRIED), generator=drawn)
    ids = ids.to(adapted.get_input_embeddings().weight.device)
    with adapted.disable_adapter():
        plain = adapted(input_ids=ids).logits
    wanted = adapted(input_ids=ids).logits
    if not wanted.isfinite().all():
        raise UserError(f"LoRA adapter {lora!r} holds values that are not finite")
    if torch.equal(plain, wanted):
        raise UserError(f"LoRA adapter {lora!r} changes nothing")

    merged = adapted.merge_and_unload()
    found = merged(input_ids=ids).logits
    limit = NEAR.get(merged.dtype, NEAR_IN_16_BITS) * float(wanted.float().norm())
    if not float((found - wanted).float().norm()) <= limit:
        raise UserError(f"LoRA adapter {lora!r} cannot be merged: merged, it does something else")
    return merged
