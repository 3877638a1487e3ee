"""Work in a process of its own: what it took, and the most memory it held, are nobody else's."""

import importlib
import json
import runpy
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[2] / "__init__.py"), run_name="checkout")
    sys.path[0] = str(Path(__file__).resolve().parents[1])


from benchmarks.peak import peak_mb


class ChildError(RuntimeError):
    """The work failed; the message is the last line it left."""


def run_child(work: str, **arguments: Any) -> dict:
    """Call a function in a fresh process.

    Args:
        work: "module:function" of a function that takes JSON-able arguments and returns None or a dict.

    Returns:
        What the function returned, with `seconds` (of the call, imports not counted), `peak_mb` (resident, of the whole process), `before_mb`
        (before the call) and on a GPU `gpu_peak_mb`; a `seconds` that the function returns wins.
    """
    done = subprocess.run(
        [sys.executable, __file__, work, json.dumps(arguments)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ChildError((done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"])[-1])
    return json.loads(done.stdout.splitlines()[-1])


def _main() -> None:
    module, _, name = sys.argv[1].partition(":")
    function = getattr(importlib.import_module(module), name)
    before, start = peak_mb(), time.perf_counter()
    result = function(**json.loads(sys.argv[2])) or {}
    print(
        json.dumps(
            {"seconds": time.perf_counter() - start, "before_mb": before, "peak_mb": peak_mb()}
            | _gpu_peak()
            | result
        )
    )


def _gpu_peak() -> dict[str, float]:
    torch = sys.modules.get("torch")
    return (
        {"gpu_peak_mb": torch.cuda.max_memory_allocated() / 2**20}
        if torch and torch.cuda.is_available()
        else {}
    )


if __name__ == "__main__":
    _main()
