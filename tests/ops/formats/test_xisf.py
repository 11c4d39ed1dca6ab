"""XISF frames load bit by bit what was stored, or are refused with a reason."""

from __future__ import annotations

import base64
import hashlib
import os
import random
import re
import subprocess
import sys
import zlib
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numcodecs import lz4, zstd
from numpy.typing import NDArray

from skyloom.ops.errors import DataError
from skyloom.ops.formats.frame_file import FrameFile, UnusableFile
from skyloom.ops.formats.xisf import SUFFIXES, examine, matches
from skyloom.ops.frames import forget_decoded, open_source

FORMATS = {"u1": "UInt8", "u2": "UInt16", "u4": "UInt32", "u8": "UInt64", "f4": "Float32", "f8": "Float64"}
CODECS = ("", "zlib", "lz4", "lz4hc", "zstd", "zlib+sh", "lz4+sh", "lz4hc+sh", "zstd+sh")


def full(file: FrameFile) -> NDArray[np.float32]:
    """All pixels, opened the way other modules do."""
    source = open_source(file.source.spec())
    return source.read(slice(0, source.shape[0]), slice(0, source.shape[1]))


def unit(path: Path, *images: str, data: bytes = b"", rest: str = "", header: bytes | None = None) -> Path:
    """An XISF file whose data begin at byte 4096."""
    xml = header if header is not None else f"<xisf version='1.0'>{''.join(images)}{rest}</xisf>".encode()
    assert len(xml) < 4080
    path.write_bytes((b"XISF0100" + len(xml).to_bytes(4, "little") + bytes(4) + xml).ljust(4096, b"\0") + data)
    return path


def element(tag: str, content: str = "", /, **attributes: str) -> str:
    return f"<{tag} {' '.join(f'{k}={quoteattr(v)}' for k, v in attributes.items())}>{content}</{tag}>"


def image(array: NDArray[Any], content: str = "", **attributes: str) -> str:
    """Image element of a (channel, row, column) array stored as it is."""
    channels, height, width = array.shape
    given = {
        "geometry": f"{width}:{height}:{channels}",
        "sampleFormat": FORMATS[array.dtype.str[1:]],
        "colorSpace": "RGB" if channels >= 3 else "Gray",
        "location": f"attachment:4096:{array.nbytes}",
    }
    return element("Image", content, **(given | attributes))


def one(path: Path, array: NDArray[Any], content: str = "", rest: str = "", **attributes: str) -> Path:
    """File with one image."""
    return unit(path, image(array, content, **attributes), data=array.tobytes(), rest=rest)


def shuffled(data: bytes, item: int) -> bytes:
    """Naive twin: the first byte of every item, then the second, …; what is left over as it is."""
    count = len(data) // item
    return b"".join(data[byte : count * item : item] for byte in range(item)) + data[count * item :]


def compressed(data: bytes, codec: str) -> bytes:
    name = codec.removesuffix("+sh")
    if name == "zlib":
        return zlib.compress(data)
    if name == "zstd":
        return bytes(zstd.compress(data, 3))
    return bytes(lz4.compress(data))[4:]


def packed(data: bytes, codec: str, item: int, cuts: Sequence[int] = ()) -> tuple[bytes, dict[str, str]]:
    """Stored bytes and attributes of data that are compressed in parts."""
    if not codec:
        return data, {}
    plain = shuffled(data, item) if codec.endswith("+sh") else data
    edges = [0, *sorted({c % len(data) for c in cuts} - {0}), len(data)]
    parts = []
    for start, end in pairwise(edges):
        part = compressed(plain[start:end], codec)
        # What does not shrink is stored as it is, as PixInsight does.
        parts.append((part if len(part) < end - start else plain[start:end], end - start))
    attributes = {"compression": f"{codec}:{len(data)}" + (f":{item}" if codec.endswith("+sh") else "")}
    if len(parts) > 1:
        attributes["subblocks"] = ":".join(f"{len(p)},{n}" for p, n in parts)
    return b"".join(p for p, _ in parts), attributes


def pixels(shape: tuple[int, ...], kind: str, seed: int = 0) -> NDArray[Any]:
    """Numbers that compress somewhat and use the whole range of the type."""
    rng = np.random.default_rng(seed)
    if kind.endswith(("f4", "f8")):
        return np.round(rng.normal(0.4, 0.3, shape), 3).astype(kind)
    top = 2 ** (8 * int(kind[-1]))
    return (rng.integers(0, 60, shape).astype("u8") * np.uint64(top // 61)).astype(kind)


# --- pixels ---


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_storage_gives_the_same_pixels(tmp_path: Path, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["<", ">"])) + data.draw(st.sampled_from(sorted(FORMATS)))
    channels = data.draw(st.sampled_from([1, 2, 3, 4]))
    height, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    codec = data.draw(st.sampled_from(CODECS))
    interleaved = data.draw(st.booleans())
    place = data.draw(st.sampled_from(["attachment", "inline:base64", "inline:hex", "base64", "hex"]))
    cuts = data.draw(st.lists(st.integers(1, 10**6), max_size=3))
    array = pixels((channels, height, width), kind)
    stored = array.transpose(1, 2, 0) if interleaved else array
    # Shuffling with another item size than the pixels' is legal.
    item = data.draw(st.sampled_from([array.itemsize, 3]))
    block, attributes = packed(stored.tobytes(), codec, item, cuts)
    digest = data.draw(st.sampled_from(["", "sha1", "sha-256", "sha512", "sha3-256", "sha3-512"]))
    if digest:
        name = {"sha-256": "sha256", "sha3-256": "sha3_256", "sha3-512": "sha3_512"}.get(digest, digest)
        attributes["checksum"] = f"{digest}:{hashlib.new(name, block).hexdigest()}"
    text = block.hex() if place.endswith("hex") else base64.b64encode(block).decode()
    text = "\n".join(text[i : i + 60] for i in range(0, len(text), 60))
    own = {"pixelStorage": "Normal" if interleaved else "Planar"}
    if kind[0] == ">":
        own["byteOrder"] = "big"
    path = tmp_path / "x.xisf"
    if place == "attachment":
        unit(path, image(array, **own, **attributes, location=f"attachment:4096:{len(block)}"), data=block)
    elif len(text) > 3000:
        return
    elif place.startswith("inline"):
        unit(path, image(array, text, **own, **attributes, location=place))
    else:
        content = element("Data", text, encoding=place, **attributes)
        unit(path, image(array, content, **own, location="embedded"))
    forget_decoded()
    files = examine(path)
    assert [f.band for f in files] == (["R", "G", "B"] if channels >= 3 else [""])
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    bottom, right = data.draw(st.integers(top, height)), data.draw(st.integers(left, width))
    for file, plane in zip(files, array, strict=False):
        truth = plane.astype(np.float32)
        assert file.source.windowed == (place == "attachment" and not codec)
        assert np.array_equal(full(file), truth)
        window = open_source(file.source.spec()).read(slice(top, bottom), slice(left, right))
        assert window.dtype == np.float32
        assert window.flags.c_contiguous
        assert window.flags.writeable
        assert np.array_equal(window, truth[top:bottom, left:right])


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("kind", ["<u2", ">f4"])
def test_windows_of_colour_planes_without_decoding(tmp_path: Path, interleaved: bool, kind: str) -> None:
    array = pixels((4, 9, 7), kind)
    stored = array.transpose(1, 2, 0) if interleaved else array
    own = {
        "pixelStorage": "Normal" if interleaved else "Planar",
        "byteOrder": "big" if kind[0] == ">" else "little",
    }
    files = examine(unit(tmp_path / "x.xisf", image(array, **own), data=stored.tobytes()))
    for file, plane in zip(files, array[:3], strict=True):
        assert file.source.windowed
        window = open_source(file.source.spec()).read(slice(2, 8), slice(1, 6))
        assert np.array_equal(window, plane[2:8, 1:6].astype(np.float32))


def test_how_fits_says_the_types(tmp_path: Path) -> None:
    found = {}
    for kind in FORMATS:
        (file,) = examine(one(tmp_path / f"{kind}.xisf", pixels((1, 3, 4), f"<{kind}")))
        found[kind] = (file.bitpix, file.bzero)
    assert found == {
        "u1": (8, 0.0),
        "u2": (16, 32768.0),
        "u4": (32, 2.0**31),
        "u8": (64, 2.0**63),
        "f4": (-32, 0.0),
        "f8": (-64, 0.0),
    }


def test_infinite_is_no_data(tmp_path: Path) -> None:
    array = np.array([[[1.0, np.nan], [np.inf, -np.inf]]], "<f4")
    (file,) = examine(one(tmp_path / "x.xisf", array))
    assert np.array_equal(np.isnan(full(file)), [[False, True], [True, True]])


def test_planes_of_a_colour_image_have_their_own_ids(tmp_path: Path) -> None:
    files = examine(one(tmp_path / "x.xisf", pixels((3, 5, 6), "<u2")))
    assert len({f.content for f in files}) == 3
    assert len({f.header_digest for f in files}) == 3
    assert [f.part for f in files] == ["R", "G", "B"]
    again = examine(one(tmp_path / "y.xisf", pixels((3, 5, 6), "<u2")))
    assert [f.content for f in again] == [f.content for f in files]
    other = examine(one(tmp_path / "z.xisf", pixels((3, 5, 6), "<u2", seed=1)))
    assert not {f.content for f in other} & {f.content for f in files}


def test_a_spec_opens_in_a_process_that_knows_nothing_yet(tmp_path: Path) -> None:
    (file,) = examine(one(tmp_path / "x.xisf", pixels((1, 5, 6), "<u2")))
    code = (
        "import sys; from skyloom.ops.frames import open_source; s = open_source(sys.argv[1]);"
        "print(float(s.read(slice(0, 5), slice(0, 6)).sum()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, file.source.spec()], capture_output=True, text=True, check=False
    )
    assert float(done.stdout) == float(full(file).sum()), done.stderr


def test_importing_the_format_imports_no_codec() -> None:
    code = "import sys, skyloom.ops.formats.xisf; print({'numcodecs', 'xisf', 'astropy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "set()", done.stderr


def test_a_changed_file_is_not_read(tmp_path: Path) -> None:
    path = one(tmp_path / "x.xisf", pixels((1, 5, 6), "<u2"))
    (file,) = examine(path)
    os.utime(path, ns=(1, 1))
    with pytest.raises(DataError, match="changed since it was ingested"):
        full(file)
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        full(file)


def test_matches_goes_by_content() -> None:
    assert matches(b"XISF0100" + bytes(56), ".fits")
    assert not matches(b"SIMPLE  =", ".xisf")
    assert SUFFIXES == (".xisf",)


# --- header ---


def keyword(name: str, value: str, comment: str = "") -> str:
    return element("FITSKeyword", name=name, value=value, comment=comment)


def prop(name: str, value: str, kind: str = "String") -> str:
    if kind == "String":
        return element("Property", value, id=name, type=kind)
    return element("Property", id=name, type=kind, value=value)


def header_of(path: Path, content: str, rest: str = "", kind: str = "<u2", **attributes: str) -> FrameFile:
    (file,) = examine(one(path, pixels((1, 4, 4), kind), content, rest, **attributes))
    return file


def test_keywords_become_cards(tmp_path: Path) -> None:
    content = "".join(
        (
            keyword("OBJECT", "'M 8 O''Neill'", "what"),
            keyword("EXPTIME", "15."),
            keyword("GAIN", "100"),
            keyword("COOLED", "T"),
            keyword("FILTER", "Ha 3nm / wide"),
            keyword("DATE-OBS", "'2023-01-25T16:26:06.994'"),
            keyword("LONGTEXT", "'" + "x'' " * 60 + "'", "c" * 90),
            keyword("BZERO", "32768"),
            keyword("NAXIS1", "9"),
            keyword("HISTORY", "", "nothing"),
            keyword("COMMENT", "", "nothing"),
            keyword("OBJECT", "'a second one'"),
            keyword("MÜNCHEN", "1"),
        )
    )
    header = header_of(tmp_path / "x.xisf", content).header
    assert header.value("OBJECT") == "M 8 O'Neill"
    assert header["OBJECT"].comment == "what"
    assert header.value("EXPTIME") == 15.0
    assert header.value("GAIN") == 100
    assert header.value("COOLED") is True
    assert header.value("FILTER") == "Ha 3nm / wide"
    assert header.value("DATE-OBS") == "2023-01-25T16:26:06.994"
    assert header.value("LONGTEXT") == ("x' " * 60).rstrip()
    assert header.odd == 0
    assert not {"BZERO", "NAXIS1", "HISTORY", "COMMENT"} & set(header)


def test_properties_fill_in_what_the_keywords_lack(tmp_path: Path) -> None:
    content = "".join(
        (
            keyword("FILTER", "'Red'"),
            prop("Instrument:Filter:Name", "Blue"),
            prop("Instrument:ExposureTime", "300", "Float32"),
            prop("Instrument:Camera:Gain", "0.25", "Float32"),
            prop("Instrument:Sensor:Temperature", "-10.5", "Float32"),
            prop("Instrument:Telescope:FocalLength", "0.8", "Float32"),
            prop("Observation:Time:Start", "2023-01-25T16:26:06.994Z", "TimePoint"),
            prop("Observation:Object:Name", "M 31"),
            prop("Instrument:Camera:XBinning", "oops", "Int32"),
        )
    )
    rest = element("Metadata", prop("XISF:CreatorApplication", "PixInsight 1.8.9-1"))
    header = header_of(tmp_path / "x.xisf", content, rest, imageType="MasterDark").header
    assert header.value("FILTER") == "Red"
    assert header.value("EXPTIME") == 300.0
    assert header.value("EGAIN") == 0.25
    assert "e-/ADU" in header["EGAIN"].comment
    assert header.value("CCD-TEMP") == -10.5
    assert header.value("FOCALLEN") == 800.0
    assert header.value("DATE-OBS") == "2023-01-25T16:26:06.994"
    assert header.value("OBJECT") == "M 31"
    assert header.value("IMAGETYP") == "Master Dark"
    assert header.value("CREATOR") == "PixInsight 1.8.9-1"
    assert "XBINNING" not in header


def test_a_property_does_not_disturb_inline_data(tmp_path: Path) -> None:
    array = pixels((1, 4, 4), "<u2")
    text = base64.b64encode(array.tobytes()).decode()
    content = text[:10] + prop("Observation:Object:Name", "M 31") + text[10:] + keyword("GAIN", "7")
    (file,) = examine(unit(tmp_path / "x.xisf", image(array, content, location="inline:base64")))
    assert np.array_equal(full(file), array[0])
    assert file.header.value("OBJECT") == "M 31"
    assert file.header.value("GAIN") == 7


def test_the_colour_filter_array_is_that_of_the_stored_rows(tmp_path: Path) -> None:
    content = keyword("BAYERPAT", "'RGGB'") + keyword("ROWORDER", "'BOTTOM-UP'") + keyword("XBAYROFF", "1")
    assert header_of(tmp_path / "a.xisf", content).header.value("ROWORDER") == "BOTTOM-UP"
    filters = element("ColorFilterArray", pattern="GBRG", width="2", height="2")
    header = header_of(tmp_path / "b.xisf", content + filters).header
    assert header.value("BAYERPAT") == "GBRG"
    assert not {"ROWORDER", "XBAYROFF"} & set(header)
    for pattern, size in (("G" * 36, "6"), ("CMYG", "2")):
        filters = element("ColorFilterArray", pattern=pattern, width=size, height=size)
        with pytest.raises(UnusableFile, match="colour filter array"):
            header_of(tmp_path / "c.xisf", filters)


def test_keywords_in_counts_follow_pixels_from_0_to_1(tmp_path: Path) -> None:
    content = keyword("SATURATE", "65535") + keyword("PEDESTAL", "100") + keyword("GAIN", "100")
    file = header_of(tmp_path / "x.xisf", content, kind="<f4", bounds="0:1")
    assert file.header.value("SATURATE") == 1.0
    assert file.header.value("PEDESTAL") == pytest.approx(100 / 65535)
    assert file.header.value("GAIN") == 100
    assert "from 0 to 1" in file.notes[0]
    file = header_of(tmp_path / "y.xisf", content, kind="<f4", bounds="0:65535")
    assert file.header.value("PEDESTAL") == 100


@pytest.mark.parametrize("matrix", ["CD", "PC", "CDELT", "CROTA"])
def test_the_wcs_of_keywords_counts_rows_from_the_bottom(tmp_path: Path, matrix: str) -> None:
    # As in a FITS file whose first row is the last one stored here.
    wcs = fits.Header()
    wcs["NAXIS"], wcs["NAXIS1"], wcs["NAXIS2"] = 2, 40, 30
    for axis, (kind, pixel, value) in enumerate((("RA", 12.0, 83.0), ("DEC", 7.5, -5.0)), 1):
        wcs[f"CTYPE{axis}"] = f"{kind:-<4}-TAN" + ("-SIP" if matrix == "CD" else "")
        wcs[f"CRPIX{axis}"], wcs[f"CRVAL{axis}"] = pixel, value
    if matrix == "CD":
        wcs["CD1_1"], wcs["CD1_2"], wcs["CD2_1"], wcs["CD2_2"] = -2e-3, 3e-4, 4e-4, 1.9e-3
        wcs["A_ORDER"], wcs["B_ORDER"] = 2, 2
        wcs["A_2_0"], wcs["A_1_1"], wcs["A_0_2"] = 1e-3, 2e-3, -3e-3
        wcs["B_2_0"], wcs["B_1_1"], wcs["B_0_2"] = 2e-3, -1e-3, 1e-3
    else:
        wcs["CDELT1"], wcs["CDELT2"] = -2e-3, 1.5e-3
        if matrix == "PC":
            wcs["PC1_2"] = 0.2
        if matrix == "CROTA":
            wcs["CROTA2"] = 25.0
    truth = WCS(wcs)
    cards = "".join(
        keyword(k, f"'{v}'" if isinstance(v, str) else repr(v))
        for k, v in wcs.items()
        if not k.startswith("NAXIS")
    )
    (file,) = examine(one(tmp_path / "x.xisf", pixels((1, 30, 40), "<u2"), cards))
    found = fits.Header({k: c.value for k, c in file.wcs_header.items()})
    x, y = np.meshgrid(np.arange(40.0), np.arange(30.0))
    expected = truth.all_pix2world(x.ravel(), 29.0 - y.ravel(), 0)
    np.testing.assert_allclose(WCS(found).all_pix2world(x.ravel(), y.ravel(), 0), expected, rtol=0, atol=1e-10)


def test_the_first_of_several_images_and_alpha(tmp_path: Path) -> None:
    array = pixels((2, 4, 4), "<u2")
    second = image(pixels((1, 2, 2), "<u2"))
    (file,) = examine(unit(tmp_path / "x.xisf", image(array), second, data=array.tobytes()))
    assert np.array_equal(full(file), array[0])
    assert any("2 images" in n for n in file.notes)
    assert any("alpha" in n for n in file.notes)


def test_prefixes_padding_and_odd_encodings(tmp_path: Path) -> None:
    array = pixels((1, 4, 4), "<u2")
    xml = f"<?xml version='1.0' encoding='utf8'?><p:xisf xmlns:p='http://x'>{image(array)}</p:xisf>"
    xml = xml.replace("<Image", "<p:Image").replace("</Image", "</p:Image")
    path = unit(tmp_path / "x.xisf", header=xml.encode().ljust(2000, b"\0"), data=array.tobytes())
    (file,) = examine(path)
    assert np.array_equal(full(file), array[0])


# --- refused ---


A = pixels((1, 4, 6), "<u2")
RGB = pixels((3, 4, 6), "<u2")
LOCATION = "attachment:4096:48"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", "no image"),
        (image(A, geometry="6:4"), "an image of 1 dimensions"),
        (image(A, geometry="6:4:2:1"), "an image of 3 dimensions"),
        (image(A, geometry="6:0:1"), "without pixels"),
        (image(A, geometry="6:four:1"), "geometry"),
        (image(A, geometry="999999999:999999999:1"), "48 bytes of data for an image of 19999"),
        (image(A, sampleFormat="Complex32"), "pixels of type 'Complex32'"),
        (image(A, colorSpace="CIELab"), "colours as CIELab"),
        (image(A, colorSpace="RGB"), "RGB with 1 channel"),
        (image(A, pixelStorage="Odd"), "pixelStorage"),
        (image(A, location="url(http://example.com/x)"), "distributed"),
        (image(A, location="path(@header_dir/x.xisb):0x1"), "distributed"),
        (image(A, location="attachment:4096"), "location"),
        (image(A, location="attachment:-1:48"), "location"),
        (image(A, location="attachment:4097:48"), "truncated: 6 x 4 x 1 pixels"),
        (image(A, location="attachment:99999999999999:48"), "truncated"),
        (image(A, location="attachment:16:48"), "lie inside"),
        (image(A, location="embedded"), "without Data"),
        (image(A, "AAAA", location="inline:base32"), "encoding"),
        (image(A, compression="bzip2:48"), "compressed with 'bzip2'"),
        (image(A, compression="zlib:49"), "49 bytes when decompressed"),
        (image(A, compression="zlib"), "compression"),
        (image(A, compression="zlib+sh:48"), "compression"),
        (image(A, compression="lz4:48", subblocks="40,48"), "subblocks"),
        (image(A, compression="lz4:48", subblocks="48,x"), "subblocks"),
        (image(A, compression="zlib:2000000", geometry="1000:1000:1"), "48 bytes of data for an image of 2000000"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, body: str, reason: str) -> None:
    with pytest.raises(UnusableFile, match=reason):
        examine(unit(tmp_path / "x.xisf", body, data=A.tobytes()))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"SIMPLE  =                    T", "not an XISF file"),
        (b"XISF0100", "truncated header"),
        (b"XISF0100" + (999).to_bytes(4, "little") + bytes(4) + b"<xisf/>", "truncated header"),
        (b"XISF0100" + (7).to_bytes(4, "little") + bytes(4) + b"<xisf>!", "broken header"),
        (b"XISF0100" + (7).to_bytes(4, "little") + bytes(4) + b"<html/>", "the XML is 'html'"),
    ],
)
def test_what_is_no_xisf_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "x.xisf"
    path.write_bytes(content)
    with pytest.raises(UnusableFile, match=reason):
        examine(path)


def test_entities_are_not_expanded(tmp_path: Path) -> None:
    bomb = (
        "<!DOCTYPE x [<!ENTITY a '"
        + "ha" * 20
        + "'>"
        + "".join(f"<!ENTITY {b} '{f'&{a};' * 10}'>" for a, b in pairwise("abcdefgh"))
    )
    xml = f"{bomb}]><xisf>&h;{image(A)}</xisf>"
    with pytest.raises(UnusableFile, match="document type"):
        examine(unit(tmp_path / "x.xisf", header=xml.encode(), data=A.tobytes()))


@pytest.mark.parametrize("codec", CODECS)
def test_damaged_data_are_noticed(tmp_path: Path, codec: str) -> None:
    array = pixels((1, 30, 30), "<u2")
    block, attributes = packed(array.tobytes(), codec, 2)
    attributes["checksum"] = f"sha1:{hashlib.sha1(block).hexdigest()}"
    broken = bytes([block[0] ^ 1]) + block[1:]
    text = base64.b64encode(broken).decode()
    assert len(text) < 3500, "does not fit the header"
    (file,) = examine(unit(tmp_path / "x.xisf", image(array, text, **attributes, location="inline:base64")))
    with pytest.raises(UnusableFile, match="corrupt data: sha1"):
        full(file)


@pytest.mark.parametrize("codec", ["zlib", "lz4", "zstd"])
@pytest.mark.parametrize("size", [-2, 2])
def test_data_of_another_length_are_noticed(tmp_path: Path, codec: str, size: int) -> None:
    array = pixels((1, 30, 30), "<u2")
    other = (array.tobytes() + b"\0\0")[: array.nbytes + size]
    block = compressed(other, codec)
    attributes = {"compression": f"{codec}:{array.nbytes}", "location": f"attachment:4096:{len(block)}"}
    (file,) = examine(unit(tmp_path / "x.xisf", image(array, **attributes), data=block))
    with pytest.raises(UnusableFile, match=f"corrupt {codec} data"):
        full(file)


def test_a_huge_promise_allocates_nothing(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    block = compressed(bytes(10**6), "zstd")
    size = 2 * 10**10
    array = pixels((1, 4, 4), "<u2")
    attributes = {
        "geometry": "100000:100000:1",
        "compression": f"zstd:{size}",
        "location": f"attachment:4096:{10**6}",
    }
    path = unit(tmp_path / "x.xisf", image(array, **attributes), data=block.ljust(10**6, b"\0"))
    (file,) = examine(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UnusableFile, match="corrupt zstd data"):
        full(file)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


# --- noise ---


def _seeds(folder: Path) -> list[bytes]:
    seeds = []
    for i, codec in enumerate(CODECS):
        array = pixels((3 if i % 2 else 1, 12, 10), "<f4" if i % 3 else "<u2")
        block, attributes = packed(array.tobytes(), codec, array.itemsize, (100,) if i % 2 else ())
        content = keyword("GAIN", "10") + element("ColorFilterArray", pattern="RGGB", width="2", height="2")
        path = folder / f"{i}.xisf"
        where = f"attachment:4096:{len(block)}"
        unit(path, image(array, content, **attributes, location=where, bounds="0:1"), data=block)
        seeds.append(path.read_bytes())
    array = pixels((1, 8, 8), "<u2")
    text = base64.b64encode(array.tobytes()).decode()
    seeds.append(unit(folder / "i.xisf", image(array, text, location="inline:base64")).read_bytes())
    return seeds


@pytest.mark.parametrize("seed", range(8))
def test_flipped_bits_and_cut_files_raise_only_data_errors(tmp_path: Path, seed: int) -> None:
    seeds = _seeds(tmp_path)
    rng = random.Random(seed)
    read, refused, named = 0, 0, 0
    for number in range(250):
        data = bytearray(rng.choice(seeds))
        zone = rng.choice([20, 700, len(data)])
        for _ in range(rng.choice([1, 2, 5])):
            at = rng.randrange(zone)
            data[at] = rng.randrange(256) if rng.random() < 0.5 else rng.choice(b"0123456789:,.<>/'\"")
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        path = tmp_path / f"f{number}.xisf"
        path.write_bytes(data)
        try:
            for file in examine(path):
                assert full(file).shape == file.source.shape
                read += 1
        except DataError as failure:
            named += str(failure).startswith(str(path))
            refused += 1
        path.unlink()
    assert refused == named
    assert read > 10  # else the noise hides the decoders


# --- real files ---


def test_real_files_equal_the_independent_decoder(shared_data: Callable[[str], Path]) -> None:
    xisf = pytest.importorskip("xisf")
    paths = sorted(shared_data("made_xisf_rgb").glob("*.xisf"))
    assert len(paths) == 15
    for path in paths:
        truth = xisf.XISF(str(path)).read_image(0, "channels_first")
        files = examine(path)
        assert len(files) == len(truth) == (3 if path.name.startswith("rgb") else 1)
        for file, plane in zip(files, truth, strict=True):
            assert np.array_equal(full(file), plane.astype(np.float32)), path.name
            assert file.header.value("OBJECT") in ("M8", "M94")
            assert file.header.value("EXPTIME") in (10, 15)


def test_real_files_equal_their_fits_twins(shared_data: Callable[[str], Path]) -> None:
    folder = shared_data("made_xisf_rgb")
    colour = fits.getdata(folder / "m8_rgb_3plane_f32.fits").astype(np.float32) / np.float32(65535)
    mono = fits.getdata(shared_data("jocular_m8_LRGB") / "light_L_15000ms_13.fit")[:580:2, ::2]
    raw = fits.getdata(shared_data("seestar_m94_s1") / "Light_M 94_10.0s_IRCUT_20250326-212046.fit")
    mosaic = raw[600:1100, 300:800]
    for path in sorted(folder.glob("*.xisf")):
        truth = {"rgb": colour, "mono": mono[None], "cfa": mosaic[None]}[path.name.split("_")[0]]
        for file, plane in zip(examine(path), truth, strict=True):
            assert np.array_equal(full(file), plane.astype(np.float32)), path.name


def test_files_pixinsight_wrote(shared_data: Callable[[str], Path]) -> None:
    text = re.search(rb'encoding="base64">([^<]*)<', (shared_data("xisf_wrenby") / "test.xisf").read_bytes())
    assert text is not None
    truth = np.frombuffer(base64.b64decode(text[1]), "<u2").reshape(10, 8)
    (file,) = examine(shared_data("xisf_wrenby") / "test.xisf")
    assert np.array_equal(full(file), truth)
    header = file.header
    assert header.value("FILTER") == "Red"
    assert header.value("IMAGETYP") == "Light Frame"
    assert header.value("EXPTIME") == 1.0
    assert header.value("DATE-OBS") == "2023-01-25T16:26:06.994"
    assert header.value("OBJCTDEC") == "89 52 16.56"
    assert str(header.value("CREATOR")).startswith("PixInsight")
    assert not {"BZERO", "NAXIS1"} & set(header)
    (two,) = examine(shared_data("xisf_wrenby") / "2ch.xisf")
    assert np.array_equal(full(two), truth[:5].reshape(10, 4))
    assert any("1 further channel" in n for n in two.notes)
