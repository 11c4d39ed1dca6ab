"""Colour profiles of pictures: what the numbers of a stretched picture look like."""

from __future__ import annotations

import struct
from functools import lru_cache

import numpy as np

_WHITE = (0.9642, 1.0, 0.8249)
"""D50, the white of the profile connection space."""
_CURVE = 1024


def profile_of(channels: int) -> bytes:
    """Profile of a picture of three channels (sRGB), or of one (grey of the same tones)."""
    return srgb_profile() if channels == 3 else grey_profile()


@lru_cache(maxsize=1)
def srgb_profile() -> bytes:
    """ICC profile of sRGB."""
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    return bytes(profile.tobytes())


@lru_cache(maxsize=1)
def grey_profile() -> bytes:
    """ICC profile of grey with the tones of sRGB.

    Notes
    -----
    ICC.1:2001-04, monochrome display: a picture of one channel must not have a profile of three, and Pillow makes
    none of one.
    """
    x = np.linspace(0.0, 1.0, _CURVE)
    linear = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    curve = np.rint(linear * 65535.0).astype(">u2").tobytes()
    name = b"Grey with the tones of sRGB\0"
    description = b"desc" + bytes(4) + struct.pack(">I", len(name)) + name + bytes(8 + 3 + 67)
    tags = {
        b"desc": description,
        b"cprt": b"text" + bytes(4) + b"Public domain\0",
        b"wtpt": b"XYZ " + bytes(4) + _xyz(_WHITE),
        b"kTRC": b"curv" + bytes(4) + struct.pack(">I", _CURVE) + curve,
    }
    table, data = struct.pack(">I", len(tags)), b""
    begin = 128 + 4 + 12 * len(tags)
    for tag, content in tags.items():
        table += tag + struct.pack(">II", begin + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    size = begin + len(data)
    head = struct.pack(">I4sI", size, bytes(4), 0x02100000) + b"mntrGRAYXYZ "
    # The date is fixed: the same picture is the same file.
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _xyz(_WHITE)
    return head.ljust(128, b"\0") + table + data


def _xyz(values: tuple[float, float, float]) -> bytes:
    return struct.pack(">3i", *(round(v * 65536) for v in values))
