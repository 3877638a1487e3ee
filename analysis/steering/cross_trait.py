"""Moved to analysis/cross_trait.py; this keeps the command working as it was typed before."""

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[2] / "analysis/cross_trait.py"), run_name="__main__")
