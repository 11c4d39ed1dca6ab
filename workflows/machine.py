"""What this machine has, and numbers as people read them."""

from __future__ import annotations

import contextlib
import ctypes
import re
import resource
import sys
from pathlib import Path

from skyloom.ops.errors import ConfigError

BASE_BYTES = 340 * 2**20
"""Resident size of the process before work: interpreter, imports, compiled kernels, allocator slack (measured)."""

_UNITS = {
    "": 1,
    "k": 1000,
    "m": 1000**2,
    "g": 1000**3,
    "t": 1000**4,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}


def parse_bytes(text: str) -> float:
    """Bytes of a size such as "8GiB", "500 MB" or "2e9".

    Raises
    ------
    ConfigError
        If the text is no size.
    """
    match = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([kmgt]?i?)b?\s*", text.lower())
    try:
        if match is None:
            raise ValueError
        size = float(match.group(1)) * _UNITS[match.group(2)]
    except (ValueError, KeyError):
        raise ConfigError(f"{text!r} is no size; write for example 8GiB or 500MB") from None
    if size <= 0:
        raise ConfigError(f"{text!r} should be more than nothing")
    return size


def format_bytes(size: float) -> str:
    """Size as people read it: "1.2 GiB"."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1024 or unit == "TiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def format_seconds(seconds: float) -> str:
    """Time as people read it: "3 min 20 s"."""
    if seconds < 1:
        return "1 s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"


# Of mallopt (glibc's malloc.h).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8


def count(number: int, noun: str) -> str:
    """Number and noun: "1 task", "3 tasks"."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def available_memory() -> float:
    """Bytes that can be had now without swapping."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        match = re.search(r"MemAvailable:\s+(\d+) kB", text)
        if match:
            return float(match.group(1)) * 1024
    except OSError:
        pass
    return 4.0 * 2**30


def peak_memory() -> float:
    """Bytes of this process at its peak so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) if sys.platform == "darwin" else float(peak) * 1024


def release_memory() -> None:
    """Hand freed memory back to the system (glibc keeps it otherwise; elsewhere nothing happens)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def return_memory_early() -> None:
    """Have freed blocks of more than a MiB go back to the system at once, for the rest of the process.

    glibc keeps what threads of a server free, in pieces no other thread uses: hundreds of MiB after some minutes.
    Blocks up to a MiB are used again: to have each page of them anew from the system takes longer than to fill it.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_MMAP_THRESHOLD, 2**20 + 2**14)
        libc.mallopt(_TRIM_THRESHOLD, 2**23)
        libc.mallopt(_ARENA_MAX, 2)
