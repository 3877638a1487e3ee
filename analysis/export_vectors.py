"""Write a trait's vectors as files that other tools read, with a model card.

For example:

    python analysis/export_vectors.py --experiment demo --trait behavioral/formality --format safetensors,gguf
"""

import hashlib
import runpy
from dataclasses import dataclass, replace
from pathlib import Path

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "__init__.py"), run_name="checkout")


from traitscope.analysis.exchange.bundle import Bundle
from traitscope.analysis.exchange.facts import gather
from traitscope.analysis.exchange.formats import FACTS, FORMATS, require_format
from traitscope.analysis.exchange.hub import check_repo, list_upload, upload
from traitscope.analysis.exchange.model_card import render_card
from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import sweep_temporaries, write_bytes, write_json, write_text
from traitscope.utils.files.locks import hold
from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.stage.command import command
from traitscope.utils.stage.flags import flag

CARD = "README.md"


@dataclass(frozen=True)
class ExportOptions:
    """Write a trait's vectors as safetensors, llama.cpp control vectors, or in the layouts of repeng and
    persona_vectors, with a model card.
    """

    experiment: str = flag(help="Experiment whose vectors are exported.")
    trait: str = flag(help="A trait, as category/name.", also=("traits",))
    method: str = flag("mean_diff", "Method whose vectors are exported.")
    layers: str = flag("all", "Layers: all that there are, 16, 5-20, 0-75:5, 30%-60%.")
    format: tuple[str, ...] = flag(
        ("safetensors",), "Formats, separated by commas: safetensors, gguf, repeng, persona_vectors."
    )
    verdict_from: str = flag(
        "", "Experiment in which stage 5 steered with these vectors; by default this one."
    )
    push_to_hub: str = flag(
        "",
        (
            "Upload the export to this repository of the Hugging Face hub, USER/REPO, which is created private "
            "where it is missing."
        ),
    )
    dry_run: bool = flag(False, "With --push-to-hub, list what would be uploaded, and upload nothing.")


def export_vectors(options: ExportOptions) -> None:
    """Export, and upload where that is asked for.

    Raises:
        UserError: a flag is wrong, a vector is missing, or the hub refuses.
    """
    if options.push_to_hub:
        check_repo(options.push_to_hub)
    elif options.dry_run:
        raise UserError("--dry-run shows what --push-to-hub USER/REPO would upload; pass that as well")

    paths = TraitPaths(options.experiment, options.trait)
    bundle = gather(paths, options.method, options.layers, paths.within(options.verdict_from))
    folder = paths.export(options.method)
    with hold(
        folder.with_name(f".{folder.name}.lock"),
        f"another process is exporting {options.trait}, {options.method}",
    ):
        sweep_temporaries(folder)
        files = write_export(folder, bundle, options.format)
    print(
        f"{options.trait}, {options.method}: {len(bundle.vectors)} layers as {', '.join(options.format)} in "
        f"{folder.relative_to(paths.root)}"
    )
    if options.dry_run:
        print(list_upload(folder, files, options.push_to_hub))
    elif options.push_to_hub:
        print(upload(folder, files, options.push_to_hub))


def write_export(folder: Path, bundle: Bundle, formats: tuple[str, ...]) -> list[str]:
    """Write every format's file, the card, and last the facts, which hold the files' digests; return their names.
    A file of an earlier export that is not among them goes.
    """
    held = {name: held_layers(bundle, name) for name in dict.fromkeys(formats)}
    contents = {
        FORMATS[name].file: FORMATS[name].write(
            replace(bundle, vectors={i: bundle.vectors[i] for i in layers})
        )
        for name, layers in held.items()
    }
    card = render_card(bundle.facts, held)
    for file, content in contents.items():
        write_bytes(folder / file, content)
    for form in FORMATS.values():
        if form.file not in contents:
            (folder / form.file).unlink(missing_ok=True)
    write_text(folder / CARD, card)
    digests = {file: hashlib.sha256(content).hexdigest() for file, content in contents.items()}
    write_json(folder / FACTS, bundle.facts | {"files": digests}, is_sealed=False)

    return [CARD, FACTS, *contents]


def held_layers(bundle: Bundle, name: str) -> list[int]:
    """Return the layers that a format's file can hold.

    Raises:
        UserError: there is no such format, or it can hold none of them.
    """
    form = require_format(name)
    held = [layer for layer in bundle.vectors if layer >= form.first_layer]
    if not held:
        raise UserError(
            f"--format {name} cannot hold layer 0: it begins at layer {form.first_layer}; choose other "
            "--layers, or another format"
        )

    if len(held) < len(bundle.vectors):
        print(f"note: layer 0 is not in {form.file}, which begins at layer {form.first_layer}")
    return held


if __name__ == "__main__":
    command(export_vectors)
