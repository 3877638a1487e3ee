"""Moved to extraction/import_vectors.py; this keeps the command working as it was typed before.

For example:

    python extraction/import_vectors.py --help
"""

import runpy
from pathlib import Path

if __name__ == "__main__":
    runpy.run_path(
        str(Path(__file__).resolve().parents[1] / "extraction/import_vectors.py"), run_name="__main__"
    )
