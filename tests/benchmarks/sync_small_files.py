"""Seconds to push and pull many small files, against `rclone serve s3` on loopback: python
tests/benchmarks/sync_small_files.py [FILES] [BYTES].
"""

import os
import runpy
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests")]
runpy.run_path(str(ROOT / "__init__.py"), run_name="checkout")

from store_server import EXPERIMENT, S3, files_of

from traitscope.utils.sync.main import main


def timed(direction: str, root: Path) -> None:
    """Run one of the two scripts' main for a root."""
    os.environ["TRAITSCOPE_ROOT"] = str(root)
    start = time.monotonic()
    main(direction)
    print(f"  {time.monotonic() - start:.1f} s")


def run(folder: Path, count: int, size: int) -> None:
    """Push, push again, change one in a hundred, push, pull elsewhere, and compare."""
    (folder / "store").mkdir()
    server = S3(folder / "store")
    server.new_bucket()
    server.start()
    os.environ.update(server.environment)
    here, there = (folder / name / "experiments" / EXPERIMENT for name in "ab")
    files = [
        here / f"extraction/category/trait_{n // 500}/vectors/probe_layer{n % 500}_metadata.json"
        for n in range(count)
    ]
    try:
        for n, file in enumerate(files):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes((b"%d " % n).ljust(size, b"x"))
        timed("push", folder / "a")
        timed("push", folder / "a")
        for file in files[::100]:
            file.write_bytes(b"changed")
        timed("push", folder / "a")
        timed("pull", folder / "b")
        assert files_of(here) == files_of(there)
    finally:
        server.stop()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), *(int(n) for n in (*sys.argv[1:], *("5000", "9000")[len(sys.argv) - 1 :])))
