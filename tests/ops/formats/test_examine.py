"""Files go to the reader of their format by their first bytes; what is no frame is refused with what to do."""

from __future__ import annotations

import gzip
import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from skyloom.ops.formats import examine as dispatch
from skyloom.ops.formats import fits
from skyloom.ops.formats.examine import (
    CAMERA_RAW,
    FORMATS,
    SESSION,
    SUFFIXES,
    TIFF,
    XISF,
    Format,
    examine,
    format_of,
)
from skyloom.ops.formats.frame_file import FrameFile, UnusableFile
from skyloom.ops.frames import open_source

HEADS = [
    (b"XISF0100\x10\x00\x00\x00", ".fits", XISF),
    (b"II*\x00\x08\x00\x00\x00", ".tif", TIFF),
    (b"MM\x00*\x00\x00\x00\x08", ".tiff", TIFF),
    (b"II+\x00\x08\x00\x00\x00", ".tif", TIFF),
    (b"II*\x00\x08\x00\x00\x00", "", TIFF),
    (b"II*\x00\x08\x00\x00\x00", ".nef", CAMERA_RAW),
    (b"MM\x00*\x00\x00\x00\x08", ".dng", CAMERA_RAW),
    (b"II*\x00\x10\x00\x00\x00CR\x02\x00", ".tif", CAMERA_RAW),
    (b"\x00\x00\x00\x18ftypcrx \x00\x00", ".bin", CAMERA_RAW),
    (b"FUJIFILMCCD-RAW 0201", "", CAMERA_RAW),
    (b"IIU\x00\x08\x00\x00\x00", ".rw2", CAMERA_RAW),
    (b"IIRO\x08\x00\x00\x00", ".orf", CAMERA_RAW),
    (b"IIRS\x08\x00\x00\x00", "", CAMERA_RAW),
    (b"II\x1a\x00\x00\x00HEAPCCDR", "", CAMERA_RAW),
    (b"\x00\x01\x02\x03", ".raf", CAMERA_RAW),  # cut or spoilt: its reader says so
    (b'{"skyloom": "simulated session", "session": {', ".json", SESSION),
    (b"SIMPLE  =                    T", ".nef", None),
    (b"\x1f\x8b\x08\x00", ".tif", None),
    (b"hello", ".fits", None),
]


@pytest.mark.parametrize(("head", "suffix", "form"), HEADS)
def test_formats_by_their_first_bytes(head: bytes, suffix: str, form: Format | None) -> None:
    assert format_of(head, suffix) is form


@pytest.mark.parametrize("form", FORMATS, ids=lambda f: f.name)
def test_the_readers_agree(form: Format) -> None:
    module = importlib.import_module(form.module)
    assert sorted(module.SUFFIXES) == sorted(form.suffixes)
    for head, suffix, expected in HEADS:
        if expected is form and not head.startswith(b"\x00\x01"):
            assert module.matches(head, suffix), (head, suffix)


def test_suffixes_are_lower_case_and_complete() -> None:
    assert len(set(SUFFIXES)) == len(SUFFIXES)
    assert all(s == s.lower() and s.startswith(".") for s in SUFFIXES)
    assert {*fits.SUFFIXES, ".xisf", ".tif", ".cr3", ".nef", ".dng"} <= set(SUFFIXES)
    assert not set(SUFFIXES) & set(dispatch.ARCHIVE_SUFFIXES)


def refused(path: Path) -> str:
    with pytest.raises(UnusableFile) as caught:
        examine(path)
    return caught.value.reason


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file (0 bytes)"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"PK\x03\x04....", "a zip archive: unpack it first"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        (b"Rar!\x1a\x07\x00", "a RAR archive"),
        (b"\xfd7zXZ\x00", "run `unxz` on it first"),
        (b"\x28\xb5\x2f\xfd...", "run `unzstd` on it first"),
        (b"LUCAM-RECORDER", "a SER video"),
        (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
        (b"\xff\xd8\xff\xe0", "a JPEG picture"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"# text\n", "not a FITS file: it begins with text"),
    ],
)
def test_what_is_no_frame_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.fits").write_bytes(content)
    assert reason in refused(tmp_path / "a.fits")


@pytest.mark.parametrize("content", [b"XISF0100", b"II*\x00", b"MM\x00*....", b"FUJIFILMCCD-RAW", b"IIU\x00\x00"])
@pytest.mark.parametrize("suffix", [".fits", ".nef", ".tif"])
def test_cut_files_of_other_formats_are_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_bytes(content)
    assert "\n" not in refused(tmp_path / f"a{suffix}")


def test_a_folder_and_a_missing_file(tmp_path: Path) -> None:
    assert "cannot be read" in refused(tmp_path)
    assert "cannot be read" in refused(tmp_path / "none.fits")


def test_a_reader_that_cannot_be_imported_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.xisf").write_bytes(b"XISF0100....")
    monkeypatch.setitem(sys.modules, XISF.module, None)
    assert "an XISF file, which cannot be read here: " in refused(tmp_path / "a.xisf")


def test_fits_come_as_a_list(
    tmp_path: Path, plain_file: Callable[..., Path], whole: Callable[[FrameFile], NDArray[np.float32]]
) -> None:
    data = np.arange(60, dtype=">i2").reshape(6, 10)
    path = plain_file(tmp_path / "a.nef", data)
    path.write_bytes(gzip.compress(path.read_bytes()))
    (file,) = examine(str(path))
    np.testing.assert_array_equal(whole(file), data)


def test_fits_alone_import_no_other_reader(tmp_path: Path, plain_file: Callable[..., Path]) -> None:
    path = plain_file(tmp_path / "a.fits", np.zeros((6, 10), ">i2"))
    heavy = ["rawpy", "xisf", "tifffile", "numba", "astropy", *(form.module for form in FORMATS)]
    code = (
        "import sys; from skyloom.ops.formats.examine import examine;"
        f"source = examine({str(path)!r})[0].source; source.read(slice(0, 2), slice(0, 2));"
        f"print([m for m in {heavy!r} if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("folder", ["raw_camera", "xisf_wrenby", "made_xisf_rgb"])
def test_every_real_file_of_other_formats_is_read_or_refused(
    shared_data: Callable[[str], Path], folder: str
) -> None:
    frames: list[FrameFile] = []
    refusals: list[str] = []
    for path in sorted(shared_data(folder).iterdir()):
        try:
            frames += examine(path)
        except UnusableFile as failure:
            refusals.append(failure.reason)
    assert frames
    assert not any("\n" in reason for reason in refusals)
    for file in frames:
        source = open_source(file.source.spec())
        assert source.read(slice(0, 2), slice(0, 3)).shape == (2, 3)
