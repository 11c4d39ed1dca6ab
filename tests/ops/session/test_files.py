"""Finding files."""

from __future__ import annotations

from pathlib import Path

from skyloom.ops.session.files import find, short_names


def test_short_names_differ() -> None:
    paths = [Path(p) for p in ("/p/n1/l.fits", "/p/n2/l.fits", "/q/n1/l.fits", "/q/m.fits")]
    assert set(short_names(paths).values()) == {"p/n1/l.fits", "n2/l.fits", "q/n1/l.fits", "m.fits"}


def test_what_is_found(tmp_path: Path) -> None:
    for name in (
        "b.FIT",
        "a.xisf",
        "x/c.nef",
        "x/d.zip",
        "x/e.txt",
        ".hidden/f.fits",
        "._g.fits",
        "p.zarr/h.fits",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    paths, beside = find(tmp_path)
    assert [Path(str(p)).relative_to(tmp_path).as_posix() for p in paths] == ["a.xisf", "b.FIT", "x/c.nef"]
    assert [name for name, _ in beside] == ["d.zip"]
    # A file that is named is taken whatever its name.
    assert find(tmp_path / "x/e.txt")[0] == [tmp_path / "x/e.txt"]
