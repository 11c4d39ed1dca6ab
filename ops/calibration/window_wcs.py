"""The WCS of a part of a frame's pixels: trimmed, or every second one."""

from __future__ import annotations

import re

from astropy.io import fits

_SIP = re.compile(r"(A|B|AP|BP)_(\d)_(\d)$")


def window_wcs(text: str, *, row: float = 0.0, column: float = 0.0, step: float = 1) -> str:
    """WCS of pixels taken at row + step·i, column + step·j of a frame.

    Parameters
    ----------
    text
        WCS of the frame as `skyloom.ops.grid.parse_wcs` reads it; "" stays "".
    row, column
        Zero-based position in the frame where pixel (0, 0) of the part has its centre; a half lies between two.
    step
        Frame pixels from one pixel of the part to the next.

    Returns
    -------
    str
        Gives every pixel of the part the sky position its centre had in the frame; distortions included: of SIP's
        polynomials, which are in pixels, the term of order n is scaled by step^(n − 1); others are on the sky.
    """
    if not text:
        return ""
    header = fits.Header.fromstring(text, sep="\n")
    for axis, offset in ((1, column), (2, row)):
        header[f"CRPIX{axis}"] = (float(header.get(f"CRPIX{axis}", 0.0)) - 1.0 - offset) / step + 1.0
    if step != 1:
        matrix = [k for k in header if re.match(r"(CD|PC)\d_\d$", k)]
        if not matrix and "CROTA2" not in header:
            matrix = ["PC1_1", "PC2_2"]
        elif matrix and matrix[0].startswith("PC"):
            matrix = sorted({*matrix, "PC1_1", "PC2_2"})
        # Not CDELT where there is a matrix: distortions of the TPV kind come before it.
        for keyword in matrix or ["CDELT1", "CDELT2"]:
            header[keyword] = float(header.get(keyword, 1.0)) * step
        for keyword in list(header):
            match = _SIP.match(keyword)
            if match:
                header[keyword] = float(header[keyword]) * float(step) ** (int(match[2]) + int(match[3]) - 1)
    return str(header.tostring(sep="\n", endcard=False, padding=False))
