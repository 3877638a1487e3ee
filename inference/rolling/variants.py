"""What is done to the model: nothing, a system prompt, or a vector at a dose."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from traitscope.utils.errors import UserError
from traitscope.utils.files.journal import key_of
from traitscope.utils.files.paths import TraitPaths
from traitscope.utils.model.hooks import Positions, Push
from traitscope.utils.records.choice import choose_keys, explain_absence
from traitscope.utils.records.dataset import TraitDataset
from traitscope.utils.records.rollouts import PLAIN, PROMPTED, PROMPTED_NEG
from traitscope.utils.records.vectors import Vector, dose_of, list_vectors, read_vector
from traitscope.utils.stage.flags import flag
from traitscope.utils.stage.layers import usual_layer

SIDE_OF = {PROMPTED: "pos", PROMPTED_NEG: "neg"}
DOSES = (-0.4, -0.2, 0.2, 0.4)  # where nothing says otherwise
SCALES = (-1.0, 1.0)  # the same, of a matched length


@dataclass(frozen=True)
class ArmOptions:
    """What is done to the model."""

    arms: tuple[str, ...] = flag(
        (),
        "plain, prompted, prompted_neg (told to show the opposite), and methods of vectors, such as mean_diff; "
        "without any nothing is generated, and what is stored is scored.",
    )
    doses: tuple[float, ...] = flag(
        (),
        "Signed pushes of a vector, as shares of the layer's mean residual norm; by default -0.4,-0.2,0.2,0.4, "
        "where neither --coefficients nor --match-norm is given.",
    )
    coefficients: tuple[float, ...] = flag(
        (),
        "Pushes as factors on the vector as saved; with --match-norm, on the vector at the matched length "
        "(by default -1,1).",
    )
    match_norm: str = flag("", "Give every vector the length that this method's has at the same layer.")
    layers: str = flag(
        "", "Layers to steer, as in stage 5, or best; by default the one where stage 5 steers by default."
    )
    positions: Positions = flag("all", "Where is pushed: all, or response (from the last prompt token on).")
    system_prompts: str = flag(
        "",
        "all, or the numbers (0,2) of the trait's own system prompts, put before the questions of prompted and "
        "steered arms; by default prompted has all, and steered arms have none.",
    )
    no_system_when_steered: bool = flag(False, "Keep --system-prompts off the steered arms.")

    heading = "Arms"


@dataclass(frozen=True)
class Told:
    """A system prompt, and which of the trait's it is."""

    number: int | None = None
    text: str = ""


UNTOLD = Told()


@dataclass(frozen=True)
class Variant:
    """One thing that is done to the model while it answers every question."""

    name: str
    arm: str
    told: Told = UNTOLD
    vector: Vector | None = None
    push: Push | None = None
    positions: str = "all"

    @property
    def pushes(self) -> tuple[Push, ...]:
        return (self.push,) if self.push else ()

    @cached_property
    def key(self) -> str:
        """A digest of all that is done."""
        if self.vector is None or self.push is None:
            return key_of(self.told.text)
        how = (self.push.layer, self.push.coefficient, self.positions)
        return key_of(self.told.text, self.vector.sha256, how)

    def columns(self) -> dict:
        """Return what a row says of it."""
        about: dict = {"variant": self.name, "arm": self.arm}
        if self.told.text:
            about |= {"system_prompt": self.told.number, "system_prompt_text": self.told.text}
        if self.vector is None or self.push is None:
            return about

        length, mean_norm, coefficient = self.length, self.vector.mean_norm, self.push.coefficient
        return about | {
            "method": self.vector.method,
            "layer": self.vector.layer,
            "dose": round(dose_of(coefficient, mean_norm, length), 6) if mean_norm else None,
            "coefficient": coefficient,
            "norm": length,
            "vector": self.vector.sha256,
        }

    @property
    def length(self) -> float:
        """‖v‖ of the vector as saved."""
        assert self.vector is not None
        return float(self.vector.tensor.norm())


def list_variants(paths: TraitPaths, dataset: TraitDataset, options: ArmOptions) -> list[Variant]:
    """Return everything that is asked for, each once.

    Raises:
        UserError: an arm is no method of a vector, there is no such layer, number or system prompt, or a vector cannot
            be read.
    """
    found: list[Variant] = []
    for arm in dict.fromkeys(options.arms):
        if arm == PLAIN:
            found.append(Variant(PLAIN, PLAIN))
        elif arm in SIDE_OF:
            found += _prompted(dataset, arm, options.system_prompts or "all")
        else:
            found += _steered(paths, dataset, arm, options)
    return found


def _prompted(dataset: TraitDataset, arm: str, wanted: str) -> list[Variant]:
    return [
        Variant(f"{arm} {told.number}", arm, told) for told in choose_prompts(dataset, SIDE_OF[arm], wanted)
    ]


def choose_prompts(dataset: TraitDataset, side: str, wanted: str) -> list[Told]:
    """Return a trait's own system prompts for a side: "all", or those of some numbers ("0,2").

    Raises:
        UserError: there is no such number.
    """
    texts = dataset.system_prompts(side)
    numbers = (
        [str(i) for i in range(len(texts))] if wanted == "all" else [n.strip() for n in wanted.split(",")]
    )
    for number in numbers:
        if not (number.isdecimal() and int(number) < len(texts)):
            raise UserError(
                f"--system-prompts {wanted!r}: {dataset.trait} has the system prompts 0 to {len(texts) - 1}; write all or "
                "their numbers"
            )
    return [Told(int(number), texts[int(number)]) for number in dict.fromkeys(numbers)]


def _steered(paths: TraitPaths, dataset: TraitDataset, method: str, options: ArmOptions) -> list[Variant]:
    told = [UNTOLD]
    if options.system_prompts and not options.no_system_when_steered:
        told = choose_prompts(dataset, SIDE_OF[PROMPTED], options.system_prompts)

    return [
        Variant(
            name + (f", prompted {who.number}" if who.text else ""),
            method,
            who,
            vector,
            push,
            options.positions,
        )
        for vector in choose_vectors(paths, method, options.layers)
        for name, push in _pushes(paths, vector, options)
        for who in told
    ]


def choose_vectors(paths: TraitPaths, method: str, layers: str) -> list[Vector]:
    """Read the vectors of a method at the layers asked for; by default at the layer where stage 5 steers by default.

    Raises:
        UserError: there is none, or one cannot be read or is none of the residual stream.
    """
    there = list_vectors(paths)
    if method not in {name for name, _ in there}:
        raise explain_absence(paths, method)

    if not layers:
        first = read_vector(paths, next(key for key in there if key[0] == method))
        if first.n_layers is None:
            raise UserError(f"{paths.trait}: the model's depth is not known here; name --layers")
        layers = str(usual_layer(first.n_layers))
        if (method, int(layers)) not in there:
            at = ", ".join(str(layer) for name, layer in sorted(there) if name == method)
            raise UserError(
                f"{paths.trait} has no vector of {method!r} at layer {layers}, where stage 5 steers by default; name "
                f"--layers among {at}"
            )

    found = [read_vector(paths, key, why) for key, why in choose_keys(paths, layers, method)]
    for vector in found:
        if vector.about.component != "residual":
            raise UserError(
                f"the {method} vectors of {paths.trait} are of {vector.about.component}; only the residual stream is steered"
            )
    return found


def _pushes(paths: TraitPaths, vector: Vector, options: ArmOptions) -> Iterator[tuple[str, Push]]:
    """Yield every push of a vector with the name of its variant."""
    where = f"{vector.method} layer {vector.layer}"
    doses, factors = _amounts(options)
    for dose in doses:
        yield f"{where} dose {dose:+g}", vector.push(dose)

    matched = _matched_length(paths, vector, options.match_norm)
    said = f" × ‖{options.match_norm}‖" if options.match_norm else ""
    for factor in factors:
        coefficient = factor * matched
        yield f"{where} times {factor:+g}{said}", Push(vector.layer, vector.tensor, coefficient)


def _amounts(options: ArmOptions) -> tuple[Sequence[float], Sequence[float]]:
    """Return the doses and the factors asked for."""
    doses, factors = dict.fromkeys(options.doses), dict.fromkeys(options.coefficients)
    if 0 in doses or 0 in factors:
        raise UserError("a push of 0 is the arm plain; leave it out of --doses and --coefficients")
    if options.match_norm and not factors:
        factors = dict.fromkeys(SCALES)
    if not (doses or factors):
        doses = dict.fromkeys(DOSES)
    return list(doses), list(factors)


def _matched_length(paths: TraitPaths, vector: Vector, method: str) -> float:
    """Return the coefficient that gives a vector the length of a method's vector at the same layer; 1 without one."""
    if not method:
        return 1.0
    [other] = choose_vectors(paths, method, str(vector.layer))
    return float(other.tensor.norm()) / float(vector.tensor.norm())
