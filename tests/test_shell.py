"""Commands in shells as they are: stopped at any moment, without a home, with another encoding."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from traitscope.utils.errors import UserError
from traitscope.utils.files import paths

CHECKOUT = Path(__file__).resolve().parents[1]
PIPELINE = ("extraction/run_pipeline.py", "--experiment", "e", "--model", "embedded", "--judge", "embedded")
TRAIT = ("--traits", "behavioral/formality", "--subset", "4")
ENDS = pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])


def start(root: Path, *arguments: str, **environment: str) -> subprocess.Popen:
    """Start a command of the checkout with a root of its own, stopped by the signals that stop one in a terminal:
    tests that run in the background are told to ignore them.
    """
    own = os.environ | {"TRAITSCOPE_ROOT": str(root)} | environment
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=CHECKOUT,
        env=own,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed,
    )


def heed() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def catches(process: subprocess.Popen, number: signal.Signals) -> bool:
    """Tell whether a process has a handler of its own for a signal."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


@ENDS
@pytest.mark.parametrize("seconds", [0, 0.3])
def test_a_command_stopped_during_its_imports_ends_with_one_line(tmp_path, number, status, seconds):
    process = start(tmp_path, *PIPELINE, *TRAIT)
    while not catches(process, signal.SIGTERM):  # Python itself is still starting
        time.sleep(0.001)
    time.sleep(seconds)
    process.send_signal(number)
    said, complaint = process.communicate(timeout=30)
    assert process.returncode == status
    assert len(complaint.strip().splitlines()) == 1
    assert said == ""


@pytest.mark.slow
@ENDS
def test_a_command_stopped_at_work_says_how_to_go_on(tmp_path, number, status):
    (tmp_path / "datasets").symlink_to(CHECKOUT / "datasets")
    process = start(tmp_path, *PIPELINE, *TRAIT)
    assert process.stdout is not None
    while "model:" not in process.stdout.readline():
        pass
    process.send_signal(number)
    complaint = process.communicate(timeout=60)[1]
    assert process.returncode == status
    assert complaint.strip().splitlines()[-1].endswith("it goes on where it stopped")
    assert "Traceback" not in complaint


def test_what_the_shell_told_a_process_to_ignore_stays_ignored(tmp_path):
    """As with nohup: a session that ends must not end the run."""
    script = (
        "import signal, subprocess, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "sys.exit(subprocess.run([sys.executable, *sys.argv[1:]]).returncode)"
    )
    process = start(tmp_path, "-c", script, "extraction/trait_table.py", "--help")
    time.sleep(0.3)
    subprocess.run(["pkill", "-TERM", "-P", str(process.pid)], check=False)
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_letters_that_a_terminal_does_not_know_cost_nothing(tmp_path):
    process = start(tmp_path, "extraction/new_trait.py", "café/größe", PYTHONIOENCODING="ascii")
    said, complaint = process.communicate(timeout=60)
    assert process.returncode == 0, complaint
    assert "caf\\xe9" in said
    assert (tmp_path / "datasets" / "traits" / "café" / "größe" / "definition.txt").exists()


def test_a_trait_with_any_letters_works_under_the_c_locale(tmp_path):
    process = start(tmp_path, "extraction/new_trait.py", "café/größe", LC_ALL="C", PYTHONUTF8="")
    assert process.communicate(timeout=60)
    assert process.returncode == 0
    assert (tmp_path / "datasets" / "traits" / "café" / "größe").is_dir()


def test_a_python_that_reads_files_as_ascii_is_one_line(tmp_path):
    other = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    process = start(tmp_path, "extraction/new_trait.py", "café/größe", **other)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 1
    assert complaint.strip().splitlines() == [complaint.strip()]
    assert "PYTHONUTF8=1" in complaint


def test_no_home_is_needed_where_the_cache_is_named(monkeypatch, tmp_path):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(paths.Path, "home", homeless)
    monkeypatch.setenv("TRAITSCOPE_CACHE", str(tmp_path))
    assert paths.cache_dir() == tmp_path
    monkeypatch.delenv("TRAITSCOPE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(UserError, match="set TRAITSCOPE_CACHE"):
        paths.cache_dir()
