"""Addresses, who is let in, what a store says, and files read by ranges or through copies."""

from __future__ import annotations

import gzip
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from skyloom.ops import objects
from skyloom.ops.errors import CapacityError, ConfigError, DataError
from skyloom.ops.formats import byte_file, fetched
from skyloom.ops.formats.examine import examine
from skyloom.ops.formats.frame_file import UnusableFile
from skyloom.ops.formats.write_xisf import write_xisf
from skyloom.ops.frames import open_source
from skyloom.ops.objects import ObjectPath
from skyloom.ops.session.files import find
from skyloom.ops.session.ingest import ingest


def put(address: str, data: bytes) -> ObjectPath:
    import obstore

    where = ObjectPath.of(address)
    obstore.put(where.store, where.key, data)
    return where


def test_an_address_is_like_a_path() -> None:
    one = ObjectPath.of("s3://bucket//night/a.b.fits/")
    assert str(one) == "s3://bucket/night/a.b.fits"
    assert (one.name, one.suffix, str(one.parent)) == ("a.b.fits", ".fits", "s3://bucket/night")
    assert one.parts == ("s3://bucket", "night", "a.b.fits")
    assert str(one.parent / "../x/./y") == "s3://bucket/x/y"
    assert str(ObjectPath.of("gs://bucket")) == "gs://bucket"
    assert ObjectPath.of("az://bucket").name == "bucket"
    assert ObjectPath.of("s3://b/.fits").suffix == ""
    for wrong in ("http://host/x", "s3:///x", "file:///x"):
        with pytest.raises(ConfigError, match="no address that is known"):
            ObjectPath.of(wrong)


def test_keys_come_from_the_usual_files(s3: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    (tmp_path / "credentials").write_text(
        "[default]\naws_access_key_id = A\naws_secret_access_key = B\n"
        f"[deep]\naws_access_key_id = {s3.key}\naws_secret_access_key = {s3.secret}\naws_session_token = T\n"
    )
    (tmp_path / "config").write_text(f"[profile deep]\nregion = eu-west-1\nendpoint_url = {s3.address}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert objects._s3_settings("s3://b") == {
        "region": "us-east-1",
        "access_key_id": "A",
        "secret_access_key": "B",
    }
    monkeypatch.setenv("AWS_PROFILE", "deep")
    assert objects._s3_settings("s3://b") == {
        "region": "eu-west-1",
        "endpoint": s3.address,
        "access_key_id": s3.key,
        "secret_access_key": s3.secret,
        "session_token": "T",
    }
    assert put("s3://nights/profile", b"1").exists()
    # What the environment has goes before.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "C")
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    assert objects._s3_settings("s3://b") == {"region": "us-west-2", "endpoint": s3.address}
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://who:word@host")
    with pytest.raises(ConfigError, match=r"^s3://b: leave user and password out of AWS_ENDPOINT_URL$"):
        objects._s3_settings("s3://b")
    (tmp_path / "credentials").write_text("not a file of keys: word\n")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(ConfigError, match="no credentials"):
        objects._s3_settings("s3://b")


@pytest.mark.parametrize(
    ("kind", "text", "says", "error"),
    [
        (
            "GenericError",
            "Server returned non-2xx status code: 503: <Code>SlowDown</Code>",
            "HTTP 503 SlowDown",
            0,
        ),
        ("GenericError", "HTTP error: error sending request", "no connection", 0),
        ("GenericError", "status code: 404 <Code>NoSuchBucket</Code>", "there is no such bucket", 1),
        ("GenericError", "status code: 301 <Code>PermanentRedirect</Code>", "another region", 1),
        (
            "PermissionDeniedError",
            "status code: 403 <Code>SignatureDoesNotMatch</Code> hidden",
            "does not allow",
            0,
        ),
        ("GenericError", "status code: 418 <Code>Teapot</Code> hidden", "refuses (HTTP 418 Teapot)", 0),
    ],
)
def test_what_a_store_says_is_told_without_its_words(kind: str, text: str, says: str, error: int) -> None:
    failure = type(kind, (Exception,), {})(f"{text} AKIAHIDDEN")
    told = objects.in_words(failure, "s3://bucket/x")
    assert isinstance(told, (CapacityError, ConfigError)[error])
    assert says in str(told)
    assert "hidden" not in str(told).lower()


def fits_bytes(tmp_path: Path, shape: tuple[int, int] = (700, 800), cards: int = 0) -> bytes:
    pixels = np.random.default_rng(1).normal(100.0, 5.0, shape).astype(np.float32)
    header = fits.Header({"EXPTIME": 30.0, "FILTER": "L"})
    for i in range(cards):
        header[f"CARD{i}"] = "x" * 60
    fits.PrimaryHDU(pixels, header).writeto(tmp_path / "made.fits", overwrite=True)
    return (tmp_path / "made.fits").read_bytes()


def test_reading_by_ranges_is_reading(s3: Any, tmp_path: Path) -> None:
    data = np.random.default_rng(2).integers(0, 255, 300_000, dtype=np.uint8).tobytes()
    put("s3://nights/bytes", data)
    (tmp_path / "bytes").write_bytes(data)
    with byte_file.open_file("s3://nights/bytes") as far, byte_file.open_file(str(tmp_path / "bytes")) as near:
        for file in (far, near):
            assert byte_file.facts_of(file).st_size == len(data)
            assert byte_file.pread(file, 10, 250_000) == data[250_000:250_010]
            assert byte_file.pread(file, 100, 299_990) == data[-10:]
            assert byte_file.pread(file, 100, 400_000) == b""
            assert file.read(70_000) == data[:70_000]
            assert file.read(3) == data[70_000:70_003]
            file.seek(-5, os.SEEK_END)
            assert file.read() == data[-5:]
        places = [(299_000, 5_000), (10, 20), (300_000, 5), (100_000, 200_000)]
        assert far.parts(places) == [data[a : a + n] for a, n in places]
    put("s3://nights/empty", b"")
    with byte_file.open_file("s3://nights/empty") as far:
        assert far.read() == b""


def test_a_frame_that_was_fetched_is_known_by_its_copy(s3: Any, tmp_path: Path) -> None:
    put("s3://nights/known/a.fits", fits_bytes(tmp_path))
    (first,) = examine("s3://nights/known/a.fits")
    open_source(first.source.spec()).read(slice(0, 5), slice(0, 5))
    s3.asked.clear()
    (again,) = examine("s3://nights/known/a.fits")
    assert again == first
    assert len([a for a in s3.asked if a[0] == "GET"]) == 1
    # Another frame of the same name.
    put("s3://nights/known/a.fits", fits_bytes(tmp_path, shape=(700, 801)))
    (changed,) = examine("s3://nights/known/a.fits")
    assert changed.content != first.content
    for copy in fetched.scratch_folder().iterdir():
        copy.unlink()
    s3.asked.clear()
    (anew,) = examine("s3://nights/known/a.fits")
    assert anew.content == changed.content
    assert len([a for a in s3.asked if a[0] == "GET"]) > 1


@pytest.mark.parametrize("form", ["fits", "long header", "gz", "fz", "xisf", "tiff"])
def test_frames_are_those_of_the_file(form: str, s3: Any, tmp_path: Path) -> None:
    data = fits_bytes(tmp_path, cards=1500 if form == "long header" else 0)
    path = tmp_path / {"gz": "a.fits.gz", "fz": "a.fits.fz", "xisf": "a.xisf", "tiff": "a.tif"}.get(form, "a.fits")
    if form == "xisf":
        pixels = np.random.default_rng(3).random((60, 70)).astype(np.float32)
        write_xisf(path, pixels, shape=pixels.shape)
    elif form == "tiff":
        import tifffile

        tifffile.imwrite(path, np.random.default_rng(4).integers(0, 9999, (60, 70)).astype(np.uint16))
    elif form == "fz":
        noise = np.random.default_rng(5).integers(0, 999, (300, 400)).astype(np.int16)
        fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(noise, compression_type="RICE_1")]).writeto(path)
    else:
        path.write_bytes(gzip.compress(data) if form == "gz" else data)
    put(f"s3://nights/forms/{form}/{path.name}", path.read_bytes())
    s3.asked.clear()
    (far,) = examine(f"s3://nights/forms/{form}/{path.name}")
    read = sum(n for method, _, n in s3.asked if method == "GET")
    if form in ("fits", "gz"):
        assert len([a for a in s3.asked if a[0] == "GET"]) <= 18
        assert read <= 2**16 + 16 * 2**14 + 2**16
        assert read < len(data) / 4
    (near,) = examine(path)
    assert far.content == near.content
    assert far.header_digest == near.header_digest
    assert far.source.windowed == near.source.windowed
    window = np.s_[10:50], np.s_[5:60]
    source = open_source(far.source.spec())
    assert source.shape == near.source.shape
    np.testing.assert_array_equal(source.read(*window), near.source.read(*window))
    s3.asked.clear()
    source.read(*window)
    open_source(far.source.spec()).read(*(slice(0, n) for n in source.shape))
    assert s3.asked == [], "a frame is fetched once"


def test_a_frame_is_fetched_once_by_many_threads(s3: Any, tmp_path: Path) -> None:
    put("s3://nights/threads/a.fits", fits_bytes(tmp_path))
    (frame,) = examine("s3://nights/threads/a.fits")
    s3.asked.clear()
    found: list[float] = []

    def read() -> None:
        found.append(float(frame.source.read(slice(0, 9), slice(0, 9)).sum()))

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found) == 6
    assert len(s3.asked) == 1


def test_copies_keep_within_their_bound(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = fits_bytes(tmp_path)
    monkeypatch.setenv("SKYLOOM_SCRATCH_GIB", str(2.5 * len(data) / 2**30))
    sources = []
    for i in range(4):
        put(f"s3://nights/bound/{i}.fits", data)
        (frame,) = examine(f"s3://nights/bound/{i}.fits")
        sources.append(frame.source)

    def read(i: int) -> int:
        s3.asked.clear()
        sources[i].read(slice(0, 4), slice(0, 4))
        return len(s3.asked)

    assert [read(i) for i in (0, 1, 0, 2, 0, 1)] == [1, 1, 0, 1, 0, 1], "that of the longest ago goes first"
    kept = [p for p in fetched.scratch_folder().iterdir() if not p.name.startswith(".")]
    assert len(kept) == 2


def test_an_object_that_changed_or_went_is_refused(s3: Any, tmp_path: Path) -> None:
    import obstore

    where = put("s3://nights/changed/a.fits", fits_bytes(tmp_path))
    (frame,) = examine(str(where))
    put(str(where), fits_bytes(tmp_path, (701, 800)))
    with pytest.raises(UnusableFile, match=r"^s3://nights/changed/a.fits: changed since it was ingested"):
        frame.source.read(slice(0, 4), slice(0, 4))
    obstore.delete(where.store, where.key)
    with pytest.raises(UnusableFile, match=r"^s3://nights/changed/a.fits: cannot be read: no such object"):
        frame.source.read(slice(0, 4), slice(0, 4))
    with pytest.raises(UnusableFile, match="no such object"):
        examine(str(where))


def test_a_store_that_does_not_answer_leaves_no_frame_out(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "RETRY_SECONDS", 0.2)
    objects._opened.cache_clear()
    for i in range(3):
        put(f"s3://nights/silent/{i}.fits", fits_bytes(tmp_path, (20 + i, 30)))
    s3.fails = lambda method, path: "500 Internal Server Error" if path.endswith("1.fits") else ""
    with pytest.raises(CapacityError, match="does not answer"):
        ingest(["s3://nights/silent/"])
    s3.fails = lambda method, path: ""
    assert ingest(["s3://nights/silent/"]).sizes["frame"] == 3


def test_what_a_prefix_holds(s3: Any) -> None:
    for name in ("b.fits", "x/a.FIT", "x/d.zip", "x/e.txt", ".hidden/f.fits", "._g.fits", "p.zarr/h.fits"):
        put(f"s3://nights/prefix/{name}", b"1")
    paths, beside = find("s3://nights/prefix/")
    assert [str(p) for p in paths] == ["s3://nights/prefix/b.fits", "s3://nights/prefix/x/a.FIT"]
    assert [name for name, _ in beside] == ["d.zip"]
    assert [str(p) for p in find("s3://nights/prefix/x/e.txt")[0]] == ["s3://nights/prefix/x/e.txt"]
    with pytest.raises(DataError, match="no such object, and none below it"):
        find("s3://nights/prefix/none/")
