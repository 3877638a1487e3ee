"""Datasets of every form, small, and how people break them."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from campaign.bench import A
from campaign.json_edits import JSON_EDITS
from campaign.mutations import BYTES, PLACE, TEXT, edit_json
from campaign.observe import clear

FORMS = ("scenarios", "scenarios jsonl", "instructions", "answers", "persona_vectors", "prompt set")
TRAIT = "broken/one"
SIDES = ("positive", "negative")


def write_form(root: Path, form: str) -> list[Path]:
    """Write a small dataset of a form, and return its files."""
    folder = root / "datasets" / "traits" / TRAIT
    shipped = {side: _lines(root, side) for side in SIDES}
    files: dict[str, Any] = {"definition.txt": "Hope.\n\nHIGH: it is there.\nLOW: it is not.\n"}
    files["steering.json"] = {"questions": [f"What of {word}?" for word in ("tea", "rain", "work", "age")]}
    pairs = [{"pos": f"Be hopeful, {i}.", "neg": f"Be gloomy, {i}."} for i in range(4)]
    questions = [f"How was day {i}?" for i in range(4)]
    whole = {"instruction": pairs, "questions": questions, "eval_prompt": "{question} {answer}"}
    if form == "scenarios":
        files |= {f"{side}.txt": "\n".join(shipped[side]) + "\n" for side in SIDES}
    elif form == "scenarios jsonl":
        files |= {
            f"{s}.jsonl": [{"prompt": x, "system_prompt": "Be brief."} for x in shipped[s]] for s in SIDES
        }
    elif form == "instructions":
        files |= {"trait_definition.json": whole, "trait_definition_eval.json": {"questions": questions}}
    elif form == "answers":
        mirrored = zip(*shipped.values(), strict=True)
        files["pairs.jsonl"] = [
            {"question": f"Q{i}?", "positive": p, "negative": n} for i, (p, n) in enumerate(mirrored)
        ]
    elif form == "persona_vectors":
        files |= {"trait_data_extract/one.json": whole, "trait_data_eval/one.json": {"questions": questions}}
    else:
        folder, files = root / "datasets" / "inference", {"broken.json": _prompt_set(shipped["positive"])}
    return [_write(folder / name, content) for name, content in files.items()]


def _lines(root: Path, side: str) -> list[str]:
    return (root / "datasets" / "traits" / A / f"{side}.txt").read_text().split("\n")[:6]


def _prompt_set(texts: list[str]) -> dict:
    prompts: list[dict] = [{"id": f"p{i}", "text": text, "kind": "ab"[i % 2]} for i, text in enumerate(texts)]
    prompts += [{"id": "turns", "turns": ["One?", "Two?"]}]
    prompts += [
        {"id": "talk", "messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]}
    ]
    return {"description": "Broken.", "prompts": prompts}


def _write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    clear(path)
    if isinstance(content, list):
        content = "\n".join(map(json.dumps, content)) + "\n"
    path.write_text(content if isinstance(content, str) else json.dumps(content, indent=1))
    return path


def _text(change: Callable[[Random, list[str]], list[str]]) -> Callable[[Random, Path, list[Path]], str]:
    """Return a damage that changes a file's lines."""

    def damage(rng: Random, path: Path, _: list[Path]) -> str:
        lines = path.read_bytes().decode(errors="replace").split("\n")
        text = "\n".join(change(rng, lines))
        path.write_bytes(text.encode(errors="surrogatepass"))
        return change.__name__.strip("_")

    return damage


def _at(rng: Random, lines: list[str], more: str) -> list[str]:
    i = rng.randrange(len(lines))
    j = rng.randrange(len(lines[i]) + 1)
    return [*lines[:i], lines[i][:j] + more + lines[i][j:], *lines[i + 1 :]]


def nul(rng: Random, lines: list[str]) -> list[str]:
    return _at(rng, lines, "\0")


def controls(rng: Random, lines: list[str]) -> list[str]:
    return _at(
        rng, lines, rng.choice(["\x1b[2J", "\x07", "\x85", "\u2028", "\x0c", "\x1c", "\ufeff", "\ufffe"])
    )


def right_to_left(rng: Random, lines: list[str]) -> list[str]:
    odd = [
        "\u202eabc",
        "\u05e9\u05dc\u05d5\u05dd",
        "e" + "\u0301" * 300,
        "\U0001f469\u200d\U0001f467",
        "\U000e0041",
    ]
    return _at(rng, lines, rng.choice(odd))


def half_character(rng: Random, lines: list[str]) -> list[str]:
    return _at(rng, lines, "\ud800")


def huge_line(rng: Random, lines: list[str]) -> list[str]:
    return _at(rng, lines, "word " * rng.choice([2_000, 200_000]))


def doubled(rng: Random, lines: list[str]) -> list[str]:
    return [*lines, rng.choice(lines)]


def unequal(rng: Random, lines: list[str]) -> list[str]:
    return lines[: rng.randrange(len(lines))]


def blank(rng: Random, lines: list[str]) -> list[str]:
    return [line if rng.random() < 0.6 else rng.choice(["", "   ", "#: nothing"]) for line in lines]


def all_blank(_: Random, lines: list[str]) -> list[str]:
    return [" "] * len(lines)


def line_ends(rng: Random, lines: list[str]) -> list[str]:
    return [line + rng.choice(["\r", "\r\r", "", "\n"]) for line in lines]


def all_the_same(_: Random, lines: list[str]) -> list[str]:
    return [lines[0]] * len(lines)


def templates(rng: Random, lines: list[str]) -> list[str]:
    return _at(
        rng, lines, rng.choice(["{question}", "{0.__class__}", "<|im_end|>", "[FILL IN: x]", "%s", "{{ x }}"])
    )


TEXTS = (nul, controls, right_to_left, half_character, huge_line, doubled, unequal, blank, all_blank)
TEXTS += (line_ends, all_the_same, templates)  # type: ignore[assignment]


def _edit_line(rng: Random, path: Path, _: list[Path]) -> str | None:
    """Change the JSON of one line of a JSON-lines file."""
    lines = path.read_text().splitlines()
    i = rng.randrange(len(lines))
    try:
        content = json.loads(lines[i])
        said = rng.choice(JSON_EDITS)(rng, content)
    except (LookupError, ValueError):
        return None
    path.write_text("\n".join([*lines[:i], json.dumps(content), *lines[i + 1 :]]))
    return f"line {i + 1}: {said}"


def break_one(rng: Random, files: list[Path]) -> str:
    """Break one file of a dataset, or two."""
    said = []
    for file in rng.sample(files, 1 if rng.random() < 0.8 else min(2, len(files))):
        edits: tuple = {".json": (edit_json,) * 14, ".jsonl": (_edit_line,) * 14}.get(file.suffix, ())
        ways = (*BYTES, *TEXT, *PLACE, *edits, *map(_text, TEXTS))
        while file.is_file():
            if words := rng.choice(ways)(rng, file, files):
                said.append(f"{file.name}: {words}")
                break
    return "; ".join(said)
