"""A real S3 store on loopback, and machines that sync with it."""

import os
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from traitscope.utils.files.artifacts import write_json, write_text
from traitscope.utils.sync.store import find_rclone

CHECKOUT = Path(__file__).resolve().parents[1]
KEY, SECRET = "a-key-of-this-test", "a-secret-of-this-test"
TRAIT = "extraction/mood — 気分/calm and open"
VECTORS = [f"{TRAIT}/vectors/mean_diff_layer{n}.pt" for n in range(3)]
MANIFEST = f"{TRAIT}/stages/4_fit_vectors.json"
TENSOR = f"{TRAIT}/activations/all_layers.pt"
EXPERIMENT = "my gemma — 試験"


class S3:
    """`rclone serve s3` over a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self.bucket = folder, 0, ""
        self.log = folder.with_name(f"{folder.name}.log")

    def new_bucket(self) -> None:
        """Make an empty bucket and use it from now on."""
        self.bucket = f"bucket-{len(list(self.folder.iterdir()))}"
        (self.folder / self.bucket).mkdir()

    def start(self) -> "S3":
        flags = [
            "--addr",
            f"127.0.0.1:{self.port}",
            "--auth-key",
            f"{KEY},{SECRET}",
            "--dir-cache-time",
            "50ms",
        ]  # tests write behind its back
        command = [find_rclone(), "serve", "s3", *flags, str(self.folder)]
        with open(self.log, "w") as log:  # a pipe that nobody reads would stop it
            self.process = subprocess.Popen(
                command, stderr=log, env=os.environ | {"RCLONE_CONFIG": os.devnull}
            )
        while not (
            said := re.search(r"Starting s3 server on \[http://127\.0\.0\.1:(\d+)", self.log.read_text())
        ):
            time.sleep(0.02)
        self.port = int(said[1])
        return self

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()

    @property
    def environment(self) -> dict[str, str]:
        return {
            "R2_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "R2_ACCESS_KEY_ID": KEY,
            "R2_SECRET_ACCESS_KEY": SECRET,
            "R2_BUCKET": self.bucket,
        }

    def experiment(self, name: str = EXPERIMENT) -> Path:
        return self.folder / self.bucket / "experiments" / name


def files_of(folder: Path) -> dict[str, bytes]:
    """Return {path: content} of what is no secret of the sync."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and not any(x.startswith(".") for x in p.parts)
    }


def write_version(folder: Path, version: int) -> None:
    """Write stage 4's vectors and its manifest as a run of that version would leave them."""
    for path in VECTORS:
        write_text(folder / path, f"vector of version {version}")
    write_json(folder / MANIFEST, {"version": version, "outputs": VECTORS})


def killed_at(call: int, owner: object, name: str, action: Callable[[], None]) -> bool:
    """Run `action` in a child process that kills itself, with -9, at its n-th call of `owner.name`;
    return whether it came to that.
    """
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            _die_at(call, owner, name)
            action()
            code = 0
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(code)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def _die_at(call: int, owner: object, name: str) -> None:
    calls, real = [], getattr(owner, name)

    def counted(*arguments, **options):
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)

    setattr(owner, name, counted)
