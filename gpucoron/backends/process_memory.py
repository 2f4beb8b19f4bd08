"""The memory of this process, and what it may still take.

Limits are kept on anonymous memory, which nobody can take back from a process. Pages of mapped files, among them those
of ramps in scratch files, are the system's to give back.
"""

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
    """Tell how many bytes this process may still take, by the host and by its control group; None where unknown."""
    known = [number for number in (_free_of_host(), *map(_free_of_cgroup, _CGROUPS)) if number is not None]
    return min(known, default=None)


def _free_of_host():
    numbers = _named_numbers("/proc/meminfo")
    return numbers["MemAvailable:"] * 1024 if "MemAvailable:" in numbers else None


def _free_of_cgroup(files):
    limit_file, usage_file, stat_file, prefix = files
    try:
        limit, usage = int(Path(limit_file).read_text()), int(Path(usage_file).read_text())
    except (OSError, ValueError):  # no such group, or the word "max"
        return None
    numbers = _named_numbers(stat_file)
    reclaimable = sum(numbers.get(f"{prefix}{kind}_file", 0) for kind in ("active", "inactive"))
    return max(0, limit - usage + reclaimable)


def _named_numbers(path):
    try:
        lines = [line.split() for line in Path(path).read_text().splitlines()]
    except OSError:
        return {}
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}


def anonymous_memory(pid="self"):
    """Tell how many bytes of anonymous memory a process has; 0 where the system does not say."""
    return _named_numbers(f"/proc/{pid}/status").get("RssAnon:", 0) * 1024


def forget_high_water():
    """Start the kernel's mark of the largest resident memory anew (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def high_water():
    """Read the largest resident memory of this process, bytes."""
    numbers = _named_numbers("/proc/self/status")
    if "VmHWM:" in numbers:
        return numbers["VmHWM:"] * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
