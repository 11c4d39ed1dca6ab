"""From a file of any format to the frames in it."""

from __future__ import annotations

from pathlib import Path

from skyloom.ops.formats import fits
from skyloom.ops.formats.frame_file import FrameFile

SUFFIXES = fits.SUFFIXES
"""Ends of the names of files a folder is searched for (lower case)."""


def examine(path: str | Path) -> list[FrameFile]:
    """Frames in a file, whatever its name says it is: plan, header and content id of each, from a few short reads.

    Raises
    ------
    UnusableFile
        If there is none, or the file is not what its headers promise; the reason has numbers and remedy.
    """
    return [fits.examine(path)]
