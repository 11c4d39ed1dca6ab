"""Sums along all straight lines through a strip, by halves of halves: the approximate Radon transform."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def line_sums(values, work):  # type: ignore[no-untyped-def]
    """Sums along lines from the first row to the last that move right by 0 … rows - 1 columns.

    Parameters
    ----------
    values
        (rows, columns), rows a power of two.
    work
        (2, rows, rows + columns), overwritten.

    Returns
    -------
    ndarray
        One of `work`: at [s, rows + x] the sum along the line from column x of the first row to column x + s of
        the last, x from -rows on; what lies outside counts nothing.

    Notes
    -----
    A line over 2 m rows is one over the first m that moves by s // 2 and one over the others that starts
    (s + 1) // 2 further on (Götz and Druckmüller 1996; Brady 1998): rows² · columns · log2(rows) / rows sums.
    """
    rows, columns = values.shape
    width = rows + columns
    source, target = work[0], work[1]
    source[:, :rows] = 0
    source[:, rows:] = values
    size = 1
    while size < rows:
        for group in range(0, rows, 2 * size):
            for s in range(2 * size):
                move = (s + 1) // 2
                top, bottom = source[group + s // 2], source[group + size + s // 2]
                out = target[group + s]
                for x in range(width - move):
                    out[x] = top[x] + bottom[x + move]
                for x in range(width - move, width):
                    out[x] = top[x]
        source, target = target, source
        size *= 2
    return source


@njit(nogil=True, cache=True)
def strongest_line(sums, weights, least, step, sample):  # type: ignore[no-untyped-def]
    """Find the largest sum / √weight of the lines that weigh at least `least`.

    Returns
    -------
    tuple
        That ratio (-inf if there is no such line), its slope s and position x as `line_sums` counts them, and how
        many ratios (of every `step`-th line) are in `sample`.
    """
    best = -np.inf
    best_s = best_x = kept = 0
    for s in range(sums.shape[0]):
        for x in range(sums.shape[1]):
            w = weights[s, x]
            if w < least:
                continue
            ratio = sums[s, x] / np.sqrt(w)
            if (s * sums.shape[1] + x) % step == 0 and kept < sample.size:
                sample[kept] = ratio
                kept += 1
            if ratio > best:
                best, best_s, best_x = ratio, s, x
    return best, best_s, best_x, kept
