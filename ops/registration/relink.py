"""The same stars again, now that the frames lie where they belong: all of them, not only what patterns found."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.registration.bundle import Sightings
from skyloom.ops.registration.bundle_problem import distortion_terms
from skyloom.ops.registration.placing import Place, tangent_basis
from skyloom.ops.registration.stars import Detections, link_stars

Floats = NDArray[np.float64]


def undistorted(pixels: Floats, place: Place, half: float, bend: Floats) -> Floats:
    """Pixels without the distortion of their camera.

    Parameters
    ----------
    pixels
        (n, 2).
    place, half
        Of the frame.
    bend
        (2, 7) of its camera.
    """
    return np.asarray(pixels + distortion_terms((pixels - place.middle) / half) @ bend.T)


def relink(
    places: Mapping[int, Place],
    camera: Mapping[int, int],
    half: Mapping[int, float],
    stars: Mapping[int, Floats],
    distortion: Mapping[int, Floats],
    *,
    tolerance: float,
) -> Sightings:
    """Link all stars of all frames by where they are on the sky.

    Parameters
    ----------
    places, camera, half, stars
        As in `solve_bundle`.
    distortion
        Camera → (2, 7).
    tolerance
        Distance at which two detections are one star (pixels of the median scale).

    Notes
    -----
    Lambert's azimuthal projection about the middle of the frames: only near distances count, and it has a place
    for every direction but one.
    """
    frames = sorted(places)
    if not frames:
        none = np.empty(0, np.intp)
        return Sightings(none, none, none)
    scale = float(np.median([places[f].scale for f in frames]))
    centre = np.mean([places[f].centre for f in frames], axis=0)
    basis = tangent_basis(centre / np.linalg.norm(centre))
    labels, rows, xs, ys = [], [], [], []
    for f in frames:
        vectors = places[f].look(undistorted(stars[f], places[f], half[f], distortion[camera[f]]))
        x, y, z = basis @ vectors.T
        stretch = np.sqrt(2.0 / np.maximum(1.0 + z, 1e-9)) / scale
        labels.append(np.full(len(vectors), f, np.intp))
        rows.append(np.arange(len(vectors), dtype=np.intp))
        xs.append(x * stretch)
        ys.append(y * stretch)
    found = link_stars(
        Detections(np.concatenate(labels), np.concatenate(rows), np.concatenate(xs), np.concatenate(ys)),
        tolerance=tolerance,
    )
    return Sightings(found.frame, found.row, found.object)
