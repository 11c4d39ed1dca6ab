"""Whatever the bytes: no other errors than UnusableFile and DataError, no hang, no memory on a header's word."""

from __future__ import annotations

import bz2
import gzip
import io
import time
import tracemalloc
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skyloom.ops.errors import DataError
from skyloom.ops.formats.examine import examine
from skyloom.ops.formats.frame_file import UnusableFile
from skyloom.ops.frames import forget_decoded, open_source

MEMORY = 24 * 2**20
"""Bytes that examining the small files here, and reading a pixel of them, may take."""
MANY = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def written(*units: Any) -> bytes:
    buffer = io.BytesIO()
    fits.HDUList([*units]).writeto(buffer)
    return buffer.getvalue()


def _seeds() -> dict[str, bytes]:
    header = fits.Header({"FILTER": "R", "CTYPE1": "RA---TAN", "BLANK": -1})
    data = np.random.default_rng(1).normal(1000.0, 9.0, (9, 11)).astype("i2")
    seeds = {
        "plain": written(fits.PrimaryHDU(data, header)),
        "planes": written(fits.PrimaryHDU(np.stack([data] * 3))),
        "extensions": written(fits.PrimaryHDU(), fits.ImageHDU(data, name="A1"), fits.ImageHDU(data, name="A2")),
        "quantized": written(fits.PrimaryHDU(), fits.CompImageHDU(data.astype("f4"), compression_type="RICE_1")),
    }
    for method in ("RICE_1", "GZIP_1", "GZIP_2", "PLIO_1", "HCOMPRESS_1", "NOCOMPRESS"):
        seeds[method] = written(fits.PrimaryHDU(), fits.CompImageHDU(data, compression_type=method))
    return seeds


SEEDS = _seeds()
PLACES = {name: [i for i, b in enumerate(seed) if b not in b" \0"] for name, seed in SEEDS.items()}
"""Headers are mostly blank: aim where there is something."""


@pytest.fixture(scope="module", autouse=True)
def _warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Load the kernels first: their machinery takes memory too."""
    path = tmp_path_factory.mktemp("warm") / "a.fits"
    for seed in SEEDS.values():
        path.write_bytes(seed)
        for file in examine(path):
            file.source.read(slice(0, 1), slice(0, 1))


@pytest.fixture(autouse=True)
def _short() -> Iterator[None]:
    """No test here may hang."""
    begin = time.monotonic()
    yield
    assert time.monotonic() - begin < 60


def attempt(path: Path, data: bytes) -> str:
    """Examine and read a file of these bytes; the reason of its refusal."""
    path.write_bytes(data)
    forget_decoded()
    tracemalloc.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            files = examine(path)
            assert files
            for file in files:
                source = open_source(file.source.spec())
                rows, columns = source.shape
                assert source.read(slice(0, 1), slice(0, 1)).shape == (1, 1)
                assert source.read(slice(rows - 1, rows), slice(columns - 1, columns)).shape == (1, 1)
    except UnusableFile as failure:
        return failure.reason
    except DataError as failure:
        return str(failure)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MEMORY, peak
    return ""


@pytest.mark.parametrize("name", SEEDS)
def test_the_seeds_are_sound(tmp_path: Path, name: str) -> None:
    assert attempt(tmp_path / "a.fits", SEEDS[name]) == ""


@MANY
@given(
    name=st.sampled_from(list(SEEDS)),
    flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 7)), max_size=6),
    keep=st.one_of(st.just(1.0), st.floats(0, 1)),
    codec=st.sampled_from(["", "gzip", "bzip2"]),
)
def test_flipped_bits_and_cut_files(
    tmp_path: Path, name: str, flips: list[tuple[float, int]], keep: float, codec: str
) -> None:
    broken, places = bytearray(SEEDS[name]), PLACES[name]
    for place, bit in flips:
        broken[places[int(place * len(places))]] ^= 1 << bit
    data = bytes(broken[: int(keep * len(broken))])
    if codec:
        data = gzip.compress(data, 1) if codec == "gzip" else bz2.compress(data)
    attempt(tmp_path / "fuzz.fits", data)


@MANY
@given(name=st.sampled_from(list(SEEDS)), codec=st.sampled_from(["", "gzip", "bzip2"]), data=st.data())
def test_files_cut_at_any_byte(tmp_path: Path, name: str, codec: str, data: st.DataObject) -> None:
    whole = SEEDS[name]
    if codec:
        whole = gzip.compress(whole, 1) if codec == "gzip" else bz2.compress(whole)
    keep = data.draw(st.integers(0, len(whole) - 1))
    reason = attempt(tmp_path / "fuzz.fits", whole[:keep])
    # Only padding, or what follows the frame, may be missing without a sign.
    if reason == "" and name not in ("extensions",):
        assert not codec
        assert not whole[keep:].strip(b"\0")


@MANY
@given(
    name=st.sampled_from(list(SEEDS)),
    flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=6),
    codec=st.sampled_from(["gzip", "bzip2"]),
)
def test_damaged_compressed_files(tmp_path: Path, name: str, flips: list[tuple[float, int]], codec: str) -> None:
    packed = bytearray(gzip.compress(SEEDS[name], 1) if codec == "gzip" else bz2.compress(SEEDS[name]))
    for place, value in flips:
        packed[int(place * len(packed))] = value
    attempt(tmp_path / "fuzz.fits", bytes(packed))


KEYWORDS = [
    *("BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "NAXIS3", "PCOUNT", "GCOUNT", "BZERO", "BSCALE", "BLANK", "SIMPLE"),
    *("GROUPS", "XTENSION", "EXTNAME", "TFIELDS", "TFORM1", "TTYPE1", "THEAP", "ZTILE1", "ZTILE2", "ZCMPTYPE"),
    *("ZVAL1", "ZVAL2", "ZNAME1", "ZQUANTIZ", "ZDITHER0", "ZIMAGE"),
]
VALUES = [
    *(
        "0",
        "1",
        "-1",
        "2",
        "3",
        "16",
        "1000000000",
        "99999999999999999999",
        "1e400",
        "-32",
        "'16'",
        "T",
        "",
        "2.0",
    ),
    *("2.5", "1E3", "NaN", "'", "'IMAGE'", "'BINTABLE'", "'GZIP_2'", "'RICE_1'", "'PLIO_1'", "'1QB'", "'9PB'"),
    *("'COMPRESSED_DATA'", "'SUBTRACTIVE_DITHER_1'", "'HCOMPRESS_1'"),
]


@MANY
@given(
    name=st.sampled_from(list(SEEDS)),
    changes=st.dictionaries(
        st.sampled_from([*KEYWORDS, *(f"Z{k}" for k in KEYWORDS[:10])]), st.sampled_from(VALUES), max_size=8
    ),
)
def test_absurd_values(tmp_path: Path, name: str, changes: dict[str, str]) -> None:
    data = SEEDS[name]
    for keyword, value in changes.items():
        at = data.rfind(f"{keyword:8}=".encode())
        if at >= 0 and at % 80 == 0:
            data = data[:at] + f"{keyword:8}= {value}".ljust(80).encode() + data[at + 80 :]
    assert "\n" not in attempt(tmp_path / "fuzz.fits", data)


@MANY
@given(
    cards=st.lists(
        st.one_of(
            st.binary(min_size=80, max_size=80),
            st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=80, max_size=80).map(str.encode),
            st.tuples(st.sampled_from(KEYWORDS), st.text(max_size=20)).map(
                lambda c: f"{c[0]:8}= {c[1]}".encode("latin-1", "replace").ljust(80)[:80]
            ),
        ),
        max_size=20,
    ),
    at=st.integers(1, 4),
)
def test_headers_of_anything(tmp_path: Path, cards: list[bytes], at: int) -> None:
    seed = SEEDS["plain"]
    block = b"".join([seed[: 80 * at], *cards, seed[80 * at : 80 * 12]])[:2800] + b"END".ljust(80)
    assert "\n" not in attempt(tmp_path / "fuzz.fits", block.ljust(2880) + seed[2880:])


@settings(MANY, max_examples=150)
@given(
    data=st.binary(max_size=400),
    start=st.sampled_from(
        [b"", b"SIMPLE  =                    T".ljust(80), b"\x1f\x8b\x08", b"BZh9", b"\x1f\x9d\x90", b"\x1f\x9d"]
    ),
)
def test_noise(tmp_path: Path, data: bytes, start: bytes) -> None:
    assert attempt(tmp_path / "fuzz.fits", start + data)
