"""Which skyloom this is: version and source, so that workers that run another one are noticed."""

from __future__ import annotations

from functools import cache
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path

FOLDERS = ("ops", "configs", "workflows")
SUFFIXES = (".py", ".yaml")


@cache
def source_id() -> str:
    """Version and digest of the source files, such as "0.1.0+3f0c9a12": equal where the same skyloom runs."""
    root = Path(__file__).resolve().parent.parent
    digest = blake2b(digest_size=4)
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in SUFFIXES:
                digest.update(path.relative_to(root).as_posix().encode() + b"\0")
                digest.update(path.read_bytes() + b"\0")
    return f"{version('skyloom')}+{digest.hexdigest()}"
