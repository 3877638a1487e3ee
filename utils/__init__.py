"""The ground: models, files, judges. Knows no trait and no stage.

CPU threads are chosen here and nowhere else, because OpenMP reads its settings once, when torch is imported,
and every module of traitscope imports `utils` first. Threads that spin at barriers run ten times slower
beside any busy process; passive ones cost a little on a quiet machine. OpenBLAS, under numpy and scipy, has
threads of its own that cannot wait passively: it gets one. Set OMP_NUM_THREADS, OMP_WAIT_POLICY or
OPENBLAS_NUM_THREADS in the environment to choose otherwise.

So are the sizes of two caches that torch reads as it starts: oneDNN's of kernels, and that of their
descriptions. A product takes an entry, 0.6 MB, for every number of rows that it meets, and batches are of
many sizes; a model needs four to six entries at a time.
"""

import os
from pathlib import Path

from dotenv import load_dotenv

load_dotenv(Path(__file__).parents[1] / ".env")  # the shell's own variables win
_SETTINGS = (
    "HF_TOKEN",
    "TRAITSCOPE_CACHE",
    "TRAITSCOPE_ROOT",
    "TRAITSCOPE_ONEDNN",
    "TRAITSCOPE_CUDA_GRAPHS",
    "OMP_NUM_THREADS",
)
_JUDGES = (
    "OPENAI_API_KEY",
    "OPENAI_BASE_URL",
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_BASE_URL",
    "GOOGLE_API_KEY",
    "GEMINI_API_KEY",
    "GOOGLE_GEMINI_BASE_URL",
)
for _name in (*_SETTINGS, *_JUDGES):
    if not os.environ.get(_name, "x"):
        del os.environ[_name]  # left empty in .env: not set

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault(
    "OMP_NUM_THREADS",
    str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1),
)
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")  # torch would keep 1024 of each: 0.6 GB
os.environ.setdefault("LRU_CACHE_CAPACITY", "32")
# its fork warnings would interleave with the progress bars
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
