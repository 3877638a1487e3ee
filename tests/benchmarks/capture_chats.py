"""Capture of what a pipeline captures: chats that all begin with the model's system message. Run:
.venv/bin/python tests/benchmarks/capture_chats.py

Everything is as in capture.py; only the texts have their beginning in common, which traitscope computes
once, and peers run on traitscope's kernels only.
"""

import runpy
import sys
from functools import partial
from pathlib import Path

if not __package__:  # run as a script: this checkout is the package traitscope, installed or not
    runpy.run_path(str(Path(__file__).resolve().parents[2] / "__init__.py"), run_name="checkout")
    sys.path[0] = str(Path(__file__).resolve().parents[1])


from benchmarks import capture
from benchmarks.kernels import kernel_choices
from benchmarks.workload import bench_main, make_chats

measure = partial(capture.measure, make=make_chats, subject="Capture of chats", kernels=kernel_choices()[:1])

if __name__ == "__main__":
    bench_main(measure, __doc__)
