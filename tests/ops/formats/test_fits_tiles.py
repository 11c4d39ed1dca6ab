"""Windows of tile-compressed images are those of the uncompressed twin, and cost only the tiles they touch."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from skyloom.ops.formats import fits_pixels, plain_pixels
from skyloom.ops.formats.fits import FitsSource, examine
from skyloom.ops.formats.fits_kernels import RANDOM, RANDOM_COUNT
from skyloom.ops.formats.fits_tiling import Tiling
from skyloom.ops.formats.frame_file import FrameFile, UnusableFile
from skyloom.ops.frames import forget_decoded, open_source

METHODS = ("RICE_1", "GZIP_1", "GZIP_2", "PLIO_1", "HCOMPRESS_1", "NOCOMPRESS")
Whole = Callable[[FrameFile], NDArray[np.float32]]


@pytest.fixture(scope="module")
def cfitsio() -> Any:
    """An independent reader and writer."""
    return pytest.importorskip("fitsio")


def source_of(path: Path) -> FitsSource:
    (file,) = examine(path)
    source = open_source(file.source.spec())
    assert source == file.source
    assert isinstance(source, FitsSource)
    return source


def plan_of(source: FitsSource) -> Tiling:
    assert source.tiling is not None
    return source.tiling


def everything(source: FitsSource) -> NDArray[np.float32]:
    return source.read(slice(0, source.shape[0]), slice(0, source.shape[1]))


def sky(kind: str, shape: tuple[int, ...], seed: int = 3) -> NDArray[Any]:
    # Like a sky, not white noise: astropy 8.0's HCOMPRESS encoder overruns its buffer on that and aborts.
    return np.random.default_rng(seed).normal(1000.0, 9.0, shape).astype(kind)


def write(path: Path, data: NDArray[Any], method: str, **options: Any) -> Path:
    fits.CompImageHDU(data, compression_type=method, **options).writeto(path, overwrite=True)
    return path


# --- windows ---


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    draw=st.data(),
    method=st.sampled_from(METHODS),
    kind=st.sampled_from(["u1", "i2", "u2", "i4", "f4"]),
    tile=st.sampled_from([(1, 41), (5, 41), (9, 13), (33, 41), (7, 8)]),
)
def test_any_window_is_cut_from_the_twin(
    tmp_path: Path, draw: st.DataObject, method: str, kind: str, tile: tuple[int, int]
) -> None:
    if method in ("HCOMPRESS_1", "PLIO_1") and kind in ("u2", "f4", "u1"):
        kind = "i2"
    if method == "HCOMPRESS_1" and tile != (33, 41):
        tile = (9, 41)  # its encoder wants 4 pixels at least of every tile
    path = tmp_path / f"{method}{kind}{tile[0]}x{tile[1]}.fits"
    data = sky(kind, (33, 41))
    if not path.exists():
        # Floats: quantized (Rice) or lossless (gzip).
        options = {"quantize_level": 16.0 if method == "RICE_1" else 0.0} if kind == "f4" else {}
        write(path, data, method, tile_shape=tile, **options)
        np.save(path.with_suffix(".npy"), fits.getdata(path).astype(np.float32))
    twin = np.load(path.with_suffix(".npy"))
    if not (kind == "f4" and method == "RICE_1"):
        np.testing.assert_array_equal(twin, data.astype(np.float32))
    y = sorted(draw.draw(st.tuples(*[st.integers(0, 33)] * 2)))
    x = sorted(draw.draw(st.tuples(*[st.integers(0, 41)] * 2)))
    source = source_of(path)
    assert source.windowed
    window = source.read(slice(*y), slice(*x))
    np.testing.assert_array_equal(window, twin[slice(*y), slice(*x)])
    assert window.flags.c_contiguous
    assert window.flags.writeable
    assert window.dtype == np.float32
    np.testing.assert_array_equal(source.read(slice(y[0], None), slice(None, x[1])), twin[y[0] :, : x[1]])


def test_a_window_decodes_only_the_tiles_it_touches(tmp_path: Path) -> None:
    data = sky("i2", (64, 64))
    path = write(tmp_path / "a.fits", data, "RICE_1", tile_shape=(16, 16))
    source = source_of(path)
    plan = plan_of(source)
    raw = bytearray(path.read_bytes())
    count, start = np.frombuffer(raw, ">i4", 32, source.offset).reshape(16, 2).T
    # Of all tiles but the sixth (row 1, column 1) nothing is left.
    keep = bytes(raw[source.offset + plan.heap + start[5] :][: count[5]])
    raw[source.offset + plan.heap : source.offset + plan.stored] = b"\xff" * (plan.stored - plan.heap)
    raw[source.offset + plan.heap + start[5] :][: count[5]] = keep
    at = source.offset + plan.heap + start[5]
    raw[at : at + count[5]] = keep
    path.write_bytes(raw)
    source = source_of(path)
    np.testing.assert_array_equal(source.read(slice(16, 32), slice(17, 30)), data[16:32, 17:30])
    with pytest.raises(UnusableFile, match=r"tile \d+ is damaged"):
        source.read(slice(16, 32), slice(17, 33))


def test_only_the_bytes_of_those_tiles_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.fits", sky("i4", (2048, 2048)), "RICE_1", tile_shape=(128, 128))
    source = source_of(path)
    read: list[int] = []
    read_into = plain_pixels.read_into

    def counted(path: str, descriptor: int, place: memoryview, offset: int) -> None:
        read.append(len(place))
        read_into(path, descriptor, place, offset)

    monkeypatch.setattr(fits_pixels, "read_into", counted)
    source.read(slice(128, 384), slice(256, 512))
    assert sum(read) < plan_of(source).stored / 25
    assert len(read) == 3  # the table, and two rows of tiles


def test_planes_of_a_cube_and_tiles_that_span_them(tmp_path: Path) -> None:
    data = sky("i2", (3, 21, 30))
    for depth in (1, 2, 3):
        path = write(tmp_path / f"{depth}.fits", data, "RICE_1", tile_shape=(depth, 8, 30))
        files = examine(path)
        assert [f.band for f in files] == ["R", "G", "B"]
        for file, plane in zip(files, data, strict=True):
            np.testing.assert_array_equal(everything(open_source(file.source.spec())), plane)  # type: ignore[arg-type]
            np.testing.assert_array_equal(file.source.read(slice(5, 17), slice(3, 9)), plane[5:17, 3:9])
    with pytest.raises(UnusableFile, match="HCOMPRESS tiles of several planes"):
        examine(_with_card(path, "ZCMPTYPE= 'HCOMPRESS_1'"))


def test_threads_read_the_same(tmp_path: Path) -> None:
    data = sky("u2", (256, 300))
    sources = [source_of(write(tmp_path / f"{m}.fits", data, m)) for m in ("RICE_1", "GZIP_2")]
    with ThreadPoolExecutor(4) as pool:
        windows = list(pool.map(lambda k: sources[k % 2].read(slice(k, 200), slice(k, 290)), range(40)))
    for k, window in enumerate(windows):
        np.testing.assert_array_equal(window, data[k:200, k:290])


def test_one_tile_the_size_of_a_large_frame_is_not_windowed(tmp_path: Path, whole: Whole) -> None:
    data = sky("u2", (1024, 1024))
    path = write(tmp_path / "a.fits", data, "RICE_1", tile_shape=(1024, 1024))
    assert not source_of(path).windowed
    np.testing.assert_array_equal(source_of(path).read(slice(5, 9), slice(0, 1024)), data[5:9])
    assert source_of(write(tmp_path / "b.fits", data, "RICE_1", tile_shape=(256, 256))).windowed
    assert source_of(write(tmp_path / "c.fits", data, "RICE_1")).windowed


@pytest.mark.parametrize("method", METHODS)
def test_a_gzipped_tile_compressed_file(tmp_path: Path, method: str) -> None:
    data = sky("i2", (23, 37))
    path = write(tmp_path / "a.fits", data, method)
    path.write_bytes(gzip.compress(path.read_bytes()))
    source = source_of(path)
    assert not source.windowed
    np.testing.assert_array_equal(everything(source), data.astype(np.float32))


# --- numbers ---


@pytest.mark.parametrize("method", ["RICE_1", "GZIP_1", "GZIP_2"])
@pytest.mark.parametrize("kind", ["u1", "i2", "u2", "i4", "u4"])
@pytest.mark.parametrize("wild", [False, True])
def test_integers_over_their_whole_range(tmp_path: Path, method: str, kind: str, wild: bool, cfitsio: Any) -> None:
    info = np.iinfo(kind)
    data = np.random.default_rng(5).integers(info.min, info.max, (23, 37), dtype=kind, endpoint=True)
    if not wild:  # runs of one number, and jumps between the ends
        data = np.where(data > (int(info.min) + int(info.max)) // 2, info.max, info.min).astype(kind)
        data[5:] = info.max
    path = write(tmp_path / "a.fits", data, method, tile_shape=(5, 37))
    np.testing.assert_array_equal(everything(source_of(path)), data.astype(np.float32))
    np.testing.assert_array_equal(cfitsio.read(str(path)), data)


@pytest.mark.parametrize("kind", ["i2", "u2", "i4"])
def test_what_cfitsio_writes_is_read(tmp_path: Path, kind: str, cfitsio: Any) -> None:
    data = sky(kind, (40, 50))
    for method in ("rice", "gzip", "gzip_2", "hcompress", "plio"):
        if method == "plio" and kind in ("i4", "u2"):
            continue
        path = tmp_path / f"{method}.fits"
        cfitsio.write(str(path), data, compress=method, tile_dims=(20, 25), clobber=True)
        np.testing.assert_array_equal(everything(source_of(path)), data, err_msg=method)


@pytest.mark.parametrize("method", ["RICE", "GZIP", "GZIP_2", "HCOMPRESS"])
@pytest.mark.parametrize("dither", [None, "SUBTRACTIVE_DITHER_1", "SUBTRACTIVE_DITHER_2"])
@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_quantized_floats_as_cfitsio_reads_them(
    tmp_path: Path, method: str, dither: str | None, kind: str, cfitsio: Any
) -> None:
    data = sky(kind, (320, 333))
    data[5, 5:9] = np.nan
    data[8:12] = 0.0
    data[100:140, 40:200] = 7.0
    path = tmp_path / "a.fits"
    with cfitsio.FITS(str(path), "rw", clobber=True) as file:
        file.write(data, compress=method, qlevel=4, qmethod=dither, dither_seed=17, tile_dims=(64, 111))
    twin = cfitsio.read(str(path)).astype(np.float32)
    source = source_of(path)
    assert plan_of(source).quantized
    pixels = everything(source)
    np.testing.assert_array_equal(pixels, twin)
    assert np.isnan(pixels[5, 5:9]).all()
    if dither is not None:
        assert len(np.unique(pixels[200:210])) > 1000
    np.testing.assert_array_equal(source.read(slice(60, 130), slice(100, 230)), twin[60:130, 100:230])


@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_floats_as_astropy_dequantizes_them(tmp_path: Path, kind: str) -> None:
    data = sky(kind, (23, 37))
    data[5, 5:9] = np.nan
    path = write(tmp_path / "a.fits", data, "RICE_1", quantize_level=16, dither_seed=7)
    np.testing.assert_array_equal(everything(source_of(path)), fits.getdata(path).astype(np.float32))
    assert np.isnan(everything(source_of(path))[5, 5:9]).all()


def test_tiles_that_do_not_quantize_are_stored_as_they_are(tmp_path: Path, cfitsio: Any) -> None:
    data = sky("f4", (64, 64))
    data[16:32] = np.random.default_rng(1).normal(0, 1e30, (16, 64))
    data[40:44] = 3.25
    path = tmp_path / "a.fits"
    cfitsio.write(str(path), data, compress="rice", qlevel=-1e-7, tile_dims=(16, 64), clobber=True)
    with fits.open(path, disable_image_compression=True) as units:
        assert (np.array([r.size for r in units[1].data["COMPRESSED_DATA"]]) == 0).any()
    np.testing.assert_array_equal(everything(source_of(path)), cfitsio.read(str(path)))


def test_lossy_and_smoothed_hcompress(tmp_path: Path, cfitsio: Any) -> None:
    data = sky("i2", (64, 80))
    for smooth in (False, True):
        path = tmp_path / f"{smooth}.fits"
        fits.CompImageHDU(
            data, compression_type="HCOMPRESS_1", hcomp_scale=4, hcomp_smooth=smooth, tile_shape=(16, 80)
        ).writeto(path)
        np.testing.assert_array_equal(everything(source_of(path)), cfitsio.read(str(path)))
        assert np.abs(everything(source_of(path)) - data).max() > 0


def test_the_table_of_random_numbers_is_the_standards() -> None:
    # Appendix I: after 10,000 steps the seed is 1043618065.
    assert RANDOM.size == RANDOM_COUNT
    assert RANDOM[-1] == np.float32(1043618065 / 2147483647)
    assert RANDOM[0] == np.float32(16807 / 2147483647)


def test_blank_of_integers(tmp_path: Path) -> None:
    data = sky("i2", (20, 30))
    data[3, 4:9] = -99
    hdu = fits.CompImageHDU(data, compression_type="RICE_1")
    hdu.header["BLANK"] = -99
    hdu.writeto(tmp_path / "a.fits")
    pixels = everything(source_of(tmp_path / "a.fits"))
    assert np.isnan(pixels[3, 4:9]).all()
    assert np.isnan(pixels).sum() == 5


def test_a_blank_for_each_tile(tmp_path: Path) -> None:
    data = sky("i2", (4, 30))
    data[2, 7] = data[0, 7] = 5
    path = write(tmp_path / "a.fits", data, "RICE_1")
    with fits.open(path, disable_image_compression=True) as units:
        table, header = units[1].data, units[1].header
        streams = [np.array(row) for row in table["COMPRESSED_DATA"]]
        columns = [
            fits.Column("COMPRESSED_DATA", "1PB()", array=np.array([*streams, None], dtype=object)[:-1]),
            fits.Column("ZBLANK", "1J", array=np.array([-1, -1, 5, -1])),
        ]
        new = fits.BinTableHDU.from_columns(columns)
        for keyword in [k for k in header if k.startswith("Z")]:
            new.header[keyword] = header[keyword]
        fits.HDUList([fits.PrimaryHDU(), new]).writeto(tmp_path / "b.fits")
    pixels = everything(source_of(tmp_path / "b.fits"))
    assert np.isnan(pixels[2, 7])
    assert pixels[0, 7] == 5
    assert np.isnan(pixels).sum() == 1


# --- broken ones ---


def test_odd_cards_do_not_reach_the_decoder(tmp_path: Path) -> None:
    data = sky("i2", (23, 37))
    path = write(tmp_path / "a.fits", data, "HCOMPRESS_1", header=fits.Header({"OBJECT": "M 8"}))
    raw = path.read_bytes()
    at = raw.index(b"OBJECT  = ")
    path.write_bytes(raw[:at] + b"OBJ\x01CT = 2017-11-15T20:08:13".ljust(80) + raw[at + 80 :])
    (file,) = examine(path)
    np.testing.assert_array_equal(everything(source_of(path)), data)
    assert file.notes == ("1 header card(s) violate the FITS standard and were skipped or guessed",)


@pytest.mark.parametrize("method", METHODS)
def test_corrupt_streams_are_an_error_of_the_file(tmp_path: Path, method: str) -> None:
    path = write(tmp_path / "a.fits", sky("i2", (23, 37)), method)
    source = source_of(path)
    raw = bytearray(path.read_bytes())
    begin = source.offset + plan_of(source).heap
    if method == "NOCOMPRESS":
        raw[source.offset + 3] ^= 1  # one number more in the first tile
    else:
        raw[begin : begin + 300] = b"\xa5" * 300
    path.write_bytes(raw)
    with pytest.raises(UnusableFile, match=r"a\.fits: corrupt tile-compressed data: "):
        everything(source_of(path))


@pytest.mark.parametrize("packed", [False, True])
def test_a_wrong_data_sum_is_noticed_whatever_the_window(tmp_path: Path, packed: bool) -> None:
    data = sky("i2", (23, 37))
    path = tmp_path / "a.fits"
    buffer = io.BytesIO()
    fits.CompImageHDU(data, compression_type="RICE_1").writeto(buffer, checksum=True)
    path.write_bytes(gzip.compress(buffer.getvalue()) if packed else buffer.getvalue())
    source = source_of(path)
    np.testing.assert_array_equal(everything(source), data)
    raw = bytearray(buffer.getvalue())
    raw[source.offset + source.stored - 40] ^= 1
    path.write_bytes(gzip.compress(raw) if packed else raw)
    with pytest.raises(UnusableFile, match=r"corrupt data: sum \d+, DATASUM says \d+"):
        source_of(path).read(slice(0, 1), slice(0, 1))


def test_the_data_are_summed_once_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.fits"
    fits.CompImageHDU(sky("i2", (23, 37)), compression_type="RICE_1").writeto(path, checksum=True)
    calls: list[object] = []
    monkeypatch.setattr(fits_pixels, "_check_sum", lambda *arguments: calls.append(arguments))
    for _ in range(3):
        source_of(path).read(slice(0, 9), slice(0, 9))
    assert len(calls) == 1


def _with_card(path: Path, card: str) -> Path:
    """File with one card of its last header replaced (added before END where there is none)."""
    raw = path.read_bytes()
    at = raw.rfind(f"{card[:8]:8}=".encode())
    if at < 0:
        at = raw.rfind(b"END".ljust(80))
        assert raw[at + 80 : at + 160].strip() == b""
        raw = raw[: at + 80] + b"END".ljust(80) + raw[at + 160 :]
    other = path.with_name("changed.fits")
    other.write_bytes(raw[:at] + card.ljust(80).encode() + raw[at + 80 :])
    return other


@pytest.mark.parametrize(
    ("card", "reason"),
    [
        ("ZCMPTYPE= 'JPEG_XL '", "tile compression 'JPEG_XL' in extension 1 'COMPRESSED_IMAGE' is not known"),
        ("ZNAXIS1 = 1000000000", "1 x 23|23 tiles|tiles in"),
        ("ZTILE1  = 0", "ZTILE1 = 0 makes no sense"),
        ("ZTILE2  = 2", "12 tiles in 23 rows"),
        ("THEAP   = 5", "streams from byte 5 of"),
        ("THEAP   = 99999999", "streams from byte 99999999 of"),
        ("TFORM1  = 'what'", "TFORM1 = 'WHAT'"),
        ("TFORM1  = '9PB'", "columns of 72 bytes in rows of 8"),
        ("TTYPE1  = 'OTHER'", "no compressed data"),
        ("ZVAL2   = 3", "Rice streams"),
        ("ZVAL1   = 1000000000", "Rice streams"),
        ("ZQUANTIZ= 'MAGIC'", "quantization 'MAGIC'"),
        ("ZBITPIX = 12", "ZBITPIX = 12"),
        ("ZNAXIS  = 1", "a row of 37 values"),
        ("ZMASKCMP= 'RICE_1'", "a compressed mask"),
    ],
)
def test_headers_that_cannot_be(tmp_path: Path, card: str, reason: str) -> None:
    path = write(tmp_path / "a.fits", sky("i2", (23, 37)), "RICE_1")
    with pytest.raises(UnusableFile, match=reason):
        examine(_with_card(path, card))


@pytest.mark.parametrize("method", METHODS)
def test_no_frame_is_larger_than_its_bytes_can_hold(tmp_path: Path, method: str) -> None:
    path = write(tmp_path / "a.fits", sky("i2", (23, 37)), method, tile_shape=(23, 37))
    for keyword in ("ZNAXIS1", "ZTILE1"):
        path = _with_card(path, f"{keyword:8}= 1000000000")
    with pytest.raises(UnusableFile, match=r"23000000000 pixels do not come out of \d+ compressed bytes"):
        examine(path)


def test_descriptors_out_of_the_heap(tmp_path: Path) -> None:
    path = write(tmp_path / "a.fits", sky("i2", (23, 37)), "RICE_1")
    source = source_of(path)
    for pair in ((-1, 0), (5, -1), (2**31 - 1, 0), (5, 2**31 - 1), (0, 0)):
        raw = bytearray(path.read_bytes())
        raw[source.offset + 8 : source.offset + 16] = np.array(pair, ">i4").tobytes()
        (tmp_path / "b.fits").write_bytes(raw)
        forget_decoded()
        with pytest.raises(UnusableFile, match=r"tile 2 has no stream in the \d+ bytes of the heap"):
            everything(source_of(tmp_path / "b.fits"))
        np.testing.assert_array_equal(
            source_of(tmp_path / "b.fits").read(slice(0, 1), slice(0, 37)), source.read(slice(0, 1), slice(0, 37))
        )
