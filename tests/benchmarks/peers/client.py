"""The benchmark's side: starts a peer's worker, tells it when to work, and reads its seconds and its
numbers.
"""

import json
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = HERE.parents[2] / ".bench"  # made by install_peers.sh
NAMES = {
    "persona_vectors' way": "persona",
    "repeng": "repeng",
    "steering-vectors": "steering_vectors",
    "nnsight": "nnsight",
    "TransformerLens": "transformer_lens",
}
TRAINERS = {"traitscope": "traitscope", "TRL": "trl", "pyreft": "pyreft"}


class PeerError(RuntimeError):
    """A peer that is not installed, or failed; its message is the last line it left."""


class Peer:
    """A worker that has loaded its model and waits; use it in `with`."""

    def __init__(self, title: str, job: dict) -> None:
        self.title, self._scratch = title, tempfile.TemporaryDirectory()
        self._folder = Path(self._scratch.name)
        (self._folder / "job.json").write_text(json.dumps(job))
        name = (NAMES | TRAINERS)[title]
        command = [_python(name), str(HERE / f"{name}_way.py"), str(self._folder / "job.json")]
        with open(self._folder / "log", "w") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self.hello = self._read()

    @property
    def ways(self) -> list[str]:
        return self.hello["ways"]

    @property
    def default(self) -> str:
        return self.hello["default"]

    def run(self, way: str, kernels: str) -> float:
        """Do the work once and return its seconds, as the worker measured them."""
        return self.ask({"do": way, "kernels": kernels})["seconds"]

    def numbers(self) -> Any:
        """Return what the last run computed."""
        return torch.load(self.ask({"write": str(self._folder / "numbers.pt")})["written"], weights_only=True)

    def ask(self, order: dict) -> dict:
        """Send one line and return the answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise PeerError(self._last_words()) from None
        return self._read()

    def _read(self) -> dict:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):  # and not what a package prints while it is imported
                return json.loads(line)
        raise PeerError(self._last_words())

    def _last_words(self) -> str:
        self._process.wait()
        lines = (self._folder / "log").read_text(errors="replace").strip().splitlines()
        return f"failed: {lines[-1][:200]}" if lines else f"ended with status {self._process.returncode}"

    def close(self) -> None:
        """End the worker."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._scratch.cleanup()

    def __enter__(self) -> "Peer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _python(name: str) -> str:
    """Return the interpreter of a peer's environment; what needs no package of its own runs in this one."""
    if not (HERE.parent / f"requirements-{name}.txt").exists():
        return sys.executable
    python = ENVIRONMENTS / name / "bin" / "python"
    if not (ENVIRONMENTS / name / "installed").exists():
        raise PeerError("not installed; make bench-peers installs it")
    return str(python)


def start_peers(job: dict, titles: tuple[str, ...] = tuple(NAMES)) -> tuple[list[Peer], dict[str, str]]:
    """Start every peer that can be started; return them, and {title: reason} of the others."""
    started, missing = [], {}
    for title in titles:
        try:
            started.append(Peer(title, job))
        except PeerError as error:
            missing[title] = str(error)
    return started, missing
