"""An experiment's settings: default < config.json < flag."""

from dataclasses import dataclass
from typing import Any

from traitscope.utils.errors import UserError
from traitscope.utils.files.artifacts import write_json
from traitscope.utils.files.paths import ExperimentPaths, TraitPaths
from traitscope.utils.files.reading import is_there, read_json
from traitscope.utils.judge import choose_judge
from traitscope.utils.stage.flags import Flag, flag

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
OF_ONE_TRAIT = ("texts_from", "score_column")  # never kept: another trait has other texts


def default_model(experiment: str) -> str:
    """Return the model that an experiment's name stands for.

    Raises:
        UserError: the name stands for none.
    """
    if experiment not in MODELS:
        advice = "pass --model with a Hugging Face id, a local folder or 'embedded'"
        raise UserError(f"experiment {experiment!r} names no known model; {advice}")
    return MODELS[experiment]


def read_config(paths: ExperimentPaths) -> dict[str, Any]:
    """Return what config.json says, nothing where there is none.

    Raises:
        UserError: it holds no object of settings.
    """
    config = read_json(paths.config) if is_there(paths.config) else {}
    if not isinstance(config, dict):
        raise UserError(f"{paths.config} must hold a JSON object of settings")
    return config


def resolve_settings(
    paths: ExperimentPaths, flags: dict[str, Flag], given: dict[str, Any], *, needs_model: bool = True
) -> dict[str, Any]:
    """Return the settings of a run: what config.json says, overridden by the flags given (a contradiction
    is printed).

    Args:
        flags: Every setting that is known here, to read its value by its type.
        given: The flags of this command line.
        needs_model: Refuse an experiment whose model nothing names. Without, the model stays "", and loading
            it refuses: a command may find that it need not load one.
    """
    try:
        config = {
            name: flags[name].coerce(value) if name in flags else value
            for name, value in read_config(paths).items()
        }
    except UserError as error:
        raise UserError(
            str(error) if str(paths.config) in str(error) else f"{paths.config}: {error}"
        ) from None

    given = {name: value for name, value in given.items() if (name, value) != ("model", "")}  # left open
    for name in sorted(given.keys() & config.keys()):
        if given[name] != config[name]:
            print(f"note: {flags[name].typed} {given[name]} overrides {config[name]} of {paths.config}")
    settings = config | given
    if "model" in flags and not settings.get("model") and (needs_model or paths.experiment in MODELS):
        settings["model"] = default_model(paths.experiment)
    if "judge" in flags and settings.get("judge", "auto") == "auto":
        settings["judge"] = choose_judge()  # from now on the experiment's judge, whatever keys come and go
    return settings


def keep_settings(
    paths: ExperimentPaths, flags: dict[str, Flag], settings: dict[str, Any], *, is_done: bool = False
) -> None:
    """Write an experiment's settings into config.json, once, so that a stage re-run by hand means the same.

    Not before a stage has completed: a mistyped model must not stick. A file that is there only gains what
    the stages that ran before it had no use for.

    Args:
        is_done: A stage has just done its work, and its manifest waits for this: no result is ever shown with other
            settings than those it was made with.
    """
    if not (is_done or paths.has_results):
        return

    kept = read_config(paths)
    is_first = "model" in flags and "model" not in kept
    lasting = {
        name: value
        for name, value in settings.items()
        if name in flags and not flags[name].is_cosmetic and name not in OF_ONE_TRAIT
    }
    new = {
        name: value for name, value in lasting.items() if name not in kept and (is_first or name in LASTING)
    }
    if new:
        write_json(paths.config, kept | new, is_sealed=False)  # people edit it


@dataclass(frozen=True)
class RunOptions:
    """What a stage or the pipeline is run on."""

    experiment: str = flag(
        help="Name of the folder under experiments/; names such as gemma-2-2b-it also choose the model."
    )
    traits: tuple[str, ...] = flag((), "Traits as category/name, separated by commas.", also=("trait",))

    heading = "What to run on"

    @property
    def targets(self) -> list[TraitPaths]:
        """The traits asked for, each once."""
        names = list(dict.fromkeys(self.traits))
        if not names:
            raise UserError("name a trait: --traits category/name[,category/name…]")
        return [TraitPaths(self.experiment, name) for name in names]
