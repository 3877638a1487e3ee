"""`python tests/campaign/run.py --short`: see report.py."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: a process with threads cannot fork
if sys.path[0] != str(Path(__file__).resolve().parents[1]):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import conftest  # noqa: F401  # this checkout is the package, and no key costs money

from campaign.report import run_campaign
from traitscope.utils.stage.command import command

if __name__ == "__main__":
    command(run_campaign)
