"""Real files: every one loads bit by bit what cfitsio or astropy says, or is refused for the right reason."""

from __future__ import annotations

import gzip
import os
import subprocess
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from numpy.typing import NDArray

from skyloom.ops.formats.examine import examine
from skyloom.ops.formats.frame_file import FrameFile, UnusableFile

Data = Callable[[str], Path]
Whole = Callable[[FrameFile], NDArray[np.float32]]

REFUSED = {
    "7 planes of 11 x 10 pixels": {"io_fits__arange"},
    "4 planes of 200 x 200 pixels": {"HST_WFPC_II"},
    "a row of": {"io_fits__compressed_float_bzero"},
    "random groups": {
        "io_fits__group",
        "io_fits__invalid_group_invalid",
        "io_fits__random_groups",
        "Random_Groups",
    },
    "not a FITS file": {"modeling__idcompspec"},
    "not T": {"wcs__header_with_time", "wcs__header_with_time_wcslib71"},
    "empty file": {"empty"},
    "git lfs pull": {"git_lfs_pointer"},
    "truncated gzip": {"truncated"},
    "the file has 1200000": {"truncated_data"},
    "without an END": {"truncated_header"},
    "no image in this FITS file": None,
}
"""Reasons, and the files that may have them; none: any file in which another reader finds no image either."""

FRAMES = {
    "odd_fits/astropy": 33,
    "odd_fits/broken": 1,
    "odd_fits/cfitsio": 1,
    "odd_fits/nasa_samples": 17,
    "odd_fits/nomtam": 15,
    "odd_fits/siril": 1,
    "decam_stamps_grz": 75,
    "made_xisf_rgb": 6,
    "2mass_m42_J_core": 10,
}


def files_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".xisf")


@pytest.mark.parametrize("folder", FRAMES)
def test_every_file_loads_bit_exactly_or_is_refused_for_the_right_reason(
    shared_data: Data, whole: Whole, folder: str
) -> None:
    frames, refused = 0, []
    for path in files_in(shared_data(folder)):
        try:
            files = examine(path)
        except UnusableFile as failure:
            refused.append((path, failure.reason))
            continue
        frames += len(files)
        expected = [twin for twin in by_astropy(path) if twin.shape == files[0].source.shape]
        for file, twin in zip(files, expected, strict=False):
            np.testing.assert_array_equal(whole(file), twin, err_msg=f"{path} {file.part}")
        assert len(expected) >= len(files), path
    for path, reason in refused:
        names = REFUSED[next(k for k in REFUSED if k in reason)]
        if names is None:
            assert not list(by_astropy(path)), (path, reason)
        else:
            assert path.name.partition(".")[0] in names, (path, reason)
    assert frames == FRAMES[folder]


@pytest.mark.parametrize("folder", FRAMES)
def test_cfitsio_reads_the_same(shared_data: Data, whole: Whole, folder: str) -> None:
    compared = 0
    for path in files_in(shared_data(folder)):
        try:
            files = examine(path)
        except UnusableFile:
            continue
        try:
            images = list(by_cfitsio(path))
        except OSError:
            # What cfitsio does not read: integers with a BLANK that is none.
            assert path.name == "Npix691539.fits"
            continue
        for file in files:
            pixels = whole(file)
            assert any(_equal(pixels, twin, file) for twin in images), (path, file.part)
            compared += 1
    assert compared >= FRAMES[folder] - 1


def _equal(pixels: NDArray[np.float32], twin: NDArray[np.float32], file: FrameFile) -> bool:
    # cfitsio leaves blank integers as they are.
    seen = ~np.isnan(pixels) if file.bitpix > 0 else np.ones(pixels.shape, bool)
    return pixels.shape == twin.shape and np.array_equal(pixels[seen], twin[seen], equal_nan=True)


def by_cfitsio(path: Path) -> Iterator[NDArray[np.float32]]:
    """Planes of all images."""
    fitsio = pytest.importorskip("fitsio")
    with fitsio.FITS(str(path)) as units:
        for unit in units:
            shape = unit.get_dims() if unit.get_exttype() == "IMAGE_HDU" else []
            if len(shape) >= 2 and np.prod(shape) > 0:
                yield from _planes(unit.read())


def by_astropy(path: Path) -> Iterator[NDArray[np.float32]]:
    """Planes of all images that are frames by their names, from stored numbers by float64 arithmetic."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with fits.open(path, do_not_scale_image_data=True, ignore_blank=True) as units:
            for unit in units:
                image = isinstance(unit, fits.PrimaryHDU | fits.ImageHDU | fits.CompImageHDU)
                if (
                    not image
                    or unit.data is None
                    or unit.data.size == 0
                    or unit.data.ndim < 2
                    or unit.name in ("D2IMARR", "ERR", "DQ")
                ):
                    continue
                header, raw = unit.header, np.array(unit.data)
                with np.errstate(over="ignore"):
                    values = raw.astype(np.float64) * float(header.get("BSCALE", 1)) + float(
                        header.get("BZERO", 0)
                    )
                    pixels = values.astype(np.float32)
                if header["BITPIX"] > 0 and "BLANK" in header:
                    pixels[raw == int(header["BLANK"])] = np.nan
                yield from _planes(pixels)


def _planes(image: NDArray[Any]) -> Iterator[NDArray[np.float32]]:
    with np.errstate(over="ignore"):
        pixels = image.reshape(-1, *image.shape[-2:]).astype(np.float32)
    pixels[np.isinf(pixels)] = np.nan
    yield from pixels


TWINS = {
    "nomtam/m13": ["nomtam/m13_gzip", "nomtam/m13_plio", "nomtam/m13_rice"],
    "astropy/io_fits_hdu_compressed__m13": [
        f"astropy/io_fits_hdu_compressed__m13_{method}" for method in ("gzip", "plio", "rice")
    ],
}


@pytest.mark.parametrize("plain", TWINS)
def test_compressed_files_equal_their_uncompressed_twins(shared_data: Data, whole: Whole, plain: str) -> None:
    folder = shared_data("odd_fits")
    (twin,) = examine(folder / f"{plain}.fits")
    for name in TWINS[plain]:
        (file,) = examine(folder / f"{name}.fits")
        np.testing.assert_array_equal(whole(file), whole(twin), err_msg=name)
        assert file.source.windowed
        np.testing.assert_array_equal(file.source.read(slice(7, 90), slice(30, 31)), whole(twin)[7:90, 30:31])


def test_files_packed_as_a_whole_equal_their_twins(shared_data: Data, whole: Whole) -> None:
    folder = shared_data("odd_fits") / "nomtam"
    (twin,) = examine(folder / "test.fits")
    for suffix in (".Z", ".bz2", ".gz"):
        (file,) = examine(folder / f"test.fits{suffix}")
        np.testing.assert_array_equal(whole(file), whole(twin))


def test_what_gunzip_makes_of_compress_files(shared_data: Data, whole: Whole, tmp_path: Path) -> None:
    names = ("nomtam/rp600245n00_im1.fits.Z", "astropy/io_fits__lzw.fits.Z")
    for path in (shared_data("odd_fits") / name for name in names):
        try:
            plain = subprocess.run(["gzip", "-dc", path], check=True, capture_output=True).stdout
        except FileNotFoundError:
            pytest.skip("no gzip here")
        (tmp_path / "a.fits").write_bytes(plain)
        (file,), (twin,) = examine(path), examine(tmp_path / "a.fits")
        np.testing.assert_array_equal(whole(file), whole(twin))
        assert file.plain_content() == twin.plain_content()


def test_real_gzip_named_fits_equal_what_gzip_unpacks(shared_data: Data, whole: Whole, tmp_path: Path) -> None:
    path = next(iter(files_in(shared_data("2mass_m42_J_core"))))
    (tmp_path / "a.fits").write_bytes(gzip.decompress(path.read_bytes()))
    (file,), (twin,) = examine(path), examine(tmp_path / "a.fits")
    np.testing.assert_array_equal(whole(file), whole(twin))
    assert (file.codec, twin.codec) == ("gzip", "")
    assert file.plain_content() == twin.plain_content()


def test_a_real_file_cut_at_many_bytes_is_refused(shared_data: Data, tmp_path: Path) -> None:
    sources = ["siril/star_test1.fit.fz", "nomtam/m13_hcomp.fits", "broken/gzip_named_fits.fits"]
    for path in (shared_data("odd_fits") / name for name in sources):
        copy = tmp_path / path.name
        copy.write_bytes(path.read_bytes())
        for keep in np.linspace(copy.stat().st_size - 2881, 0, 25).astype(int):
            os.truncate(copy, int(keep))
            with pytest.raises(UnusableFile):
                examine(copy)


@pytest.mark.parametrize(
    "name", ["2mass_m101_J", "jocular_arp145_L", "jocular_m8_LRGB", "seestar_m94_s1", "als_samples"]
)
def test_real_frames_load_bit_exactly(shared_data: Data, whole: Whole, name: str) -> None:
    for path in sorted(shared_data(name).iterdir())[:4]:
        (file,) = examine(path)
        np.testing.assert_array_equal(whole(file), next(by_astropy(path)), err_msg=str(path))
        np.testing.assert_array_equal(whole(file), next(by_cfitsio(path)), err_msg=str(path))
