"""An experiment's settings: default < config.json < flag, and the command line that numbered scripts share."""

import inspect
from dataclasses import dataclass
from typing import Any

from utils.artifacts import read_json, write_json
from utils.cli import run_cli
from utils.errors import UserError
from utils.flags import Flag, option_flags, pick
from utils.judge import choose_judge
from utils.paths import ExperimentPaths, TraitPaths
from utils.stage import Stage, run_stage

MODELS = {  # experiment name → model, for those who name an experiment after its model
    "demo": "embedded",
    "embedded": "embedded",
    "gemma-2-2b-base": "google/gemma-2-2b",
    "gemma-2-2b-it": "google/gemma-2-2b-it",
    "gemma-2-9b-base": "google/gemma-2-9b",
    "gemma-2-9b-it": "google/gemma-2-9b-it",
    "gemma-3-4b-it": "google/gemma-3-4b-it",
    "llama-3.1-8b-base": "meta-llama/Llama-3.1-8B",
    "llama-3.1-8b-instruct": "meta-llama/Llama-3.1-8B-Instruct",
    "llama-3.3-70b": "meta-llama/Llama-3.3-70B-Instruct",
    "qwen2.5-7b-base": "Qwen/Qwen2.5-7B",
    "qwen2.5-7b-instruct": "Qwen/Qwen2.5-7B-Instruct",
    "qwen3-8b": "Qwen/Qwen3-8B",
    "smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct",
}


LASTING = ("model", "judge")  # what an experiment begins with, it keeps


def default_model(experiment: str) -> str:
    """Return the model that an experiment's name stands for.

    Raises:
        UserError: the name stands for none.
    """
    if experiment not in MODELS:
        raise UserError(f"experiment {experiment!r} names no known model; pass --model with a Hugging Face id, a local folder or 'embedded'")
    return MODELS[experiment]


def resolve_settings(paths: ExperimentPaths, flags: dict[str, Flag], given: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a run: what config.json says, overridden by the flags given (a contradiction is printed).

    Args:
        flags: Every flag there is, to know which settings may change a result.
        given: The flags of this command line.
    """
    config = read_json(paths.config) if paths.config.exists() else {}
    if not isinstance(config, dict):
        raise UserError(f"{paths.config} must hold a JSON object of settings")
    try:
        config = {name: flags[name].coerce(value) if name in flags else value for name, value in config.items()}
    except UserError as error:
        raise UserError(f"{paths.config}: {error}") from None
    for name in sorted(given.keys() & config.keys()):
        if given[name] != config[name]:
            print(f"note: --{name.replace('_', '-')} {given[name]} overrides {config[name]} of {paths.config}")
    settings = config | given
    if "model" in flags and not settings.get("model"):
        settings["model"] = default_model(paths.experiment)
    if "judge" in flags and settings.get("judge", "auto") == "auto":
        settings["judge"] = choose_judge()  # from now on the experiment's judge, whatever keys come and go
    return settings


def keep_settings(paths: ExperimentPaths, flags: dict[str, Flag], settings: dict[str, Any]) -> None:
    """Write an experiment's settings into config.json, once, so that a stage re-run by hand means the same.

    Not before a stage has completed: a mistyped model must not stick. A file that is there only gains what the stages that ran before
    it had no use for.
    """
    if not paths.has_results:
        return
    kept = read_json(paths.config) if paths.config.exists() else {}
    is_first = "model" in flags and "model" not in kept
    new = {n: v for n, v in settings.items() if n in flags and not flags[n].is_cosmetic and n not in kept and (is_first or n in LASTING)}
    if new:
        write_json(paths.config, kept | new)


@dataclass(frozen=True)
class RunOptions:
    """What a script is run on.

    Args:
        experiment: Name of the folder under experiments/; names such as gemma-2-2b-it also choose the model.
        trait: A trait, as category/name.
        traits: Several traits, separated by commas.
        force: Run even where everything is up to date, and forget partial progress.
    """

    experiment: str
    trait: str = ""
    traits: tuple[str, ...] = ()
    force: bool = False

    @property
    def targets(self) -> list[TraitPaths]:
        """The traits asked for by --trait or --traits, each once."""
        names = list(dict.fromkeys([*([self.trait] if self.trait else []), *self.traits]))
        if not names:
            raise UserError("name a trait: --traits category/name[,category/name…]")
        return [TraitPaths(self.experiment, name) for name in names]


def stage_flags(stage: Stage) -> dict[str, Flag]:
    """Return every flag of a numbered script."""
    switches = {name: Flag(name, bool, False, other.help, is_cosmetic=True) for name, other in stage.instead.items()}
    return option_flags(RunOptions) | stage.flags | switches


def stage_main(stage: Stage) -> None:
    """The main() of every numbered script: one stage, for one trait or several."""

    def command(**given: Any) -> None:
        run = pick(RunOptions, given)
        instead = next((name for name in stage.instead if given.get(name)), "")
        own = {name: value for name, value in given.items() if name in stage.flags}
        targets = run.targets
        paths = ExperimentPaths(run.experiment)
        settings = resolve_settings(paths, stage.flags, own)
        failures = run_stage(stage, targets, settings, force=run.force, instead=instead)
        if not instead:
            keep_settings(paths, stage.flags, settings)
        if failures:
            raise UserError(f"{len(failures)} of {len(targets)} traits failed: {', '.join(failures)}")

    run_cli(command, stage_flags(stage), inspect.getdoc(stage.run) or "")
