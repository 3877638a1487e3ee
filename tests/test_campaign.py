"""The reliability campaign in its short form: no wrong result, no traceback, no hang."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CAMPAIGN = Path(__file__).parent / "campaign/run.py"


@pytest.mark.slow
def test_the_short_campaign_misses_no_target(tmp_path):
    command = [sys.executable, str(CAMPAIGN), "--short", "--seed", "1", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200, env=os.environ)
    cases = "\n".join(file.read_text()[-3000:] for file in sorted(tmp_path.glob("*.jsonl")))
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-2000:]}\n{cases}"
    assert "| Damaged files" in done.stdout
