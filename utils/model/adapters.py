"""LoRA adapters, merged into a model's own weights."""

import os
from typing import Any

from traitscope.utils.errors import UserError, first_line
from traitscope.utils.model.checkpoint import refuse_faults


def merge_lora(model: Any, lora: str, name: str) -> Any:
    """Return the model with an adapter's weights added to its own.

    Args:
        lora: Folder or Hugging Face id of the adapter.
        name: Of the model, for errors.

    Raises:
        UserError: the adapter cannot be had, does not fit this model tensor by tensor, or changes nothing.
    """
    from peft import PeftConfig, get_peft_model, load_peft_weights, set_peft_model_state_dict

    where = os.path.expanduser(lora)
    try:
        config = PeftConfig.from_pretrained(where)
        config.inference_mode = True
        weights = load_peft_weights(where, device="cpu")
        adapted = get_peft_model(model, config)
        found: Any = set_peft_model_state_dict(adapted, weights, ignore_mismatched_sizes=False)
    except Exception as error:  # a foreign file, read by foreign code
        said = next(
            (line.strip() for line in str(error).splitlines() if "mismatch" in line), first_line(error)
        )
        raise UserError(f"cannot load LoRA adapter {lora!r} for {name!r}: {said}") from None

    missing = [key for key in found.missing_keys if adapted.base_model.prefix in key]
    refuse_faults(
        f"LoRA adapter {lora!r}",
        {"lacks": missing, "holds, and the model has no place for,": found.unexpected_keys},
        f"it was made for another model than {name!r}",
    )
    if not any(bool(t.any()) for key, t in weights.items() if "lora_B" in key or "lora_A" not in key):
        raise UserError(f"LoRA adapter {lora!r} changes nothing: its weights are zero")
    return adapted.merge_and_unload()
