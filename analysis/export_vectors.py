"""Write a trait's vectors as files that other tools read, with a model card."""

import inspect
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

if not __package__:  # run as a script
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import utils  # noqa: F401  # before torch: it sets the threads that torch starts with

from analysis.exchange.bundle import Bundle
from analysis.exchange.card import render_card
from analysis.exchange.facts import gather
from analysis.exchange.formats import FORMATS, require_format
from analysis.exchange.hub import check_repo, list_upload, upload
from utils.artifacts import write_bytes, write_json, write_text
from utils.cli import run_cli
from utils.errors import UserError
from utils.flags import Flag, option_flags, pick
from utils.paths import TraitPaths

CARD, FACTS = "README.md", "facts.json"


@dataclass(frozen=True)
class ExportOptions:
    """Write a trait's vectors as safetensors, llama.cpp control vectors, or in the layouts of repeng and persona_vectors, with a model card.

    Args:
        experiment: Experiment whose vectors are exported.
        trait: A trait, as category/name.
        method: Method whose vectors are exported.
        layers: Layers: all that there are, 16, 5-20, 0-75:5, 30%-60%.
        format: Formats, separated by commas: safetensors, gguf, repeng, persona_vectors.
        verdict_from: Experiment in which stage 5 steered with these vectors; by default this one.
        push_to_hub: Upload the export to this repository of the Hugging Face hub, USER/REPO, which is created private where it is missing.
        dry_run: With --push-to-hub, list what would be uploaded, and upload nothing.
    """

    experiment: str
    trait: str
    method: str = "mean_diff"
    layers: str = "all"
    format: tuple[str, ...] = ("safetensors",)
    verdict_from: str = ""
    push_to_hub: str = ""
    dry_run: bool = False


def all_flags() -> dict[str, Flag]:
    """Return the script's flags."""
    return option_flags(ExportOptions)


def main(**given: Any) -> None:
    """Export, and upload where that is asked for.

    Raises:
        UserError: a flag is wrong, a vector is missing, or the hub refuses.
    """
    options = pick(ExportOptions, given)
    if options.push_to_hub:
        check_repo(options.push_to_hub)
    elif options.dry_run:
        raise UserError("--dry-run shows what --push-to-hub USER/REPO would upload; pass that as well")
    paths = TraitPaths(options.experiment, options.trait)
    bundle = gather(paths, options.method, options.layers, paths.within(options.verdict_from))
    folder = paths.export(options.method)
    files = write_export(folder, bundle, options.format)
    print(f"{options.trait}, {options.method}: {len(bundle.vectors)} layers as {', '.join(options.format)} in {folder.relative_to(paths.root)}")
    if options.dry_run:
        print(list_upload(folder, files, options.push_to_hub))
    elif options.push_to_hub:
        print(upload(folder, files, options.push_to_hub))


def write_export(folder: Path, bundle: Bundle, formats: tuple[str, ...]) -> list[str]:
    """Write every format's file, the card and the facts, and return their names. A file of an earlier export that is not among them goes."""
    held = {name: held_layers(bundle, name) for name in dict.fromkeys(formats)}
    contents = {FORMATS[name].file: FORMATS[name].write(replace(bundle, vectors={i: bundle.vectors[i] for i in layers})) for name, layers in held.items()}
    card = render_card(bundle.facts, held)
    for form in FORMATS.values():
        (folder / form.file).unlink(missing_ok=True)
    for file, content in contents.items():
        write_bytes(folder / file, content)
    write_text(folder / CARD, card)
    write_json(folder / FACTS, bundle.facts)
    return [CARD, FACTS, *contents]


def held_layers(bundle: Bundle, name: str) -> list[int]:
    """Return the layers that a format's file can hold.

    Raises:
        UserError: there is no such format, or it can hold none of them.
    """
    form = require_format(name)
    held = [layer for layer in bundle.vectors if layer >= form.first_layer]
    if not held:
        raise UserError(f"--format {name} cannot hold layer 0: it begins at layer {form.first_layer}; choose other --layers, or another format")
    if len(held) < len(bundle.vectors):
        print(f"note: layer 0 is not in {form.file}, which begins at layer {form.first_layer}")
    return held


if __name__ == "__main__":
    run_cli(main, all_flags(), inspect.getdoc(ExportOptions) or "")
