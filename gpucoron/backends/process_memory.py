"""How much memory this process uses, and how much it may still allocate.

Memory limits apply to anonymous memory, which stays allocated until the process frees it. The system can reclaim the
pages of mapped files at any time, including those of ramps in scratch files.

psutil is not installed on every machine with a GPU. Without it, memory is unknown except for the limits of cgroups.
"""

import re
import sys
from contextlib import suppress
from pathlib import Path

_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat", ""),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
        "total_",
    ),
)


def free_memory():
    """Return how many bytes this process may still allocate on this host and in its cgroup; None if unknown."""
    limits = [number for number in (_free_of_host(), *map(_free_of_cgroup, _CGROUPS)) if number is not None]
    return min(limits, default=None)


def anonymous_memory(pid=None):
    """Return how many bytes of anonymous memory a process uses, by default this one; 0 if unknown."""
    try:
        import psutil
    except ImportError:
        return 0
    try:
        usage = psutil.Process(pid).memory_info()
        return usage.rss - usage.shared
    except (psutil.NoSuchProcess, AttributeError):  # AttributeError: only Linux reports shared memory
        return 0


def reset_peak_memory():
    """Reset the kernel's record of the largest resident memory of this process (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory():
    """Return the largest resident memory of this process in bytes.

    psutil does not report it, and getrusage includes the memory of the process that started this one.
    """
    with suppress(OSError):
        peak = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
        if peak:
            return int(peak[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _free_of_host():
    try:
        import psutil
    except ImportError:
        return None
    return psutil.virtual_memory().available


def _free_of_cgroup(files):
    limit_file, usage_file, stat_file, prefix = files
    try:
        limit, usage = int(Path(limit_file).read_text()), int(Path(usage_file).read_text())
    except (OSError, ValueError):  # no such cgroup, or no limit ("max")
        return None
    try:
        statistics = dict(line.split() for line in Path(stat_file).read_text().splitlines())
    except OSError:
        statistics = {}
    reclaimable = sum(int(statistics.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))
    return max(0, limit - usage + reclaimable)
