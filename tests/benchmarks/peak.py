"""The most memory that this process has held."""

import resource
from pathlib import Path


def peak_mb() -> float:
    """Return the peak resident memory in MiB.

    The kernel's VmHWM, where there is one: ru_maxrss of a child starts at what its parent held when it was
    started.
    """
    status = Path("/proc/self/status")
    found = (
        [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        if status.exists()
        else []
    )
    return (
        int(found[0].split()[1]) / 1024
        if found
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    )
