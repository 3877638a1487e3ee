"""Tiny random models of many architectures, built from the configurations in tests/data."""

import json
from pathlib import Path

import torch
import transformers
from conftest import CHATML, _tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

DATA = Path(__file__).parent / "data"
# name → [transformers' model type, configuration, class where it is not the type's causal language model]
FAMILIES: dict[str, list] = json.loads((DATA / "model_families.json").read_text()) | json.loads(
    (DATA / "more_families.json").read_text()
)


def build(folder: Path, name: str) -> Path:
    """Write a family's tiny model, with clearly different rows, so that greedy texts vary.

    Raises:
        Exception: transformers refuses the configuration; a folder with the configuration alone is left.
    """
    kind, settings, *architecture = FAMILIES[name]
    folder.mkdir(parents=True, exist_ok=True)
    _tokenizer(CHATML, adds_bos=False).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": kind, **settings}))

    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **settings)
    model = (
        getattr(transformers, architecture[0])(config)
        if architecture
        else AutoModelForCausalLM.from_config(config)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    model.save_pretrained(folder)
    return folder
