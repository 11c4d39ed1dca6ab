"""Levels of detail beside a result: their pixels, their metadata, and that they go on where they stopped."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from numpy.typing import NDArray

from skyloom.ops import registry
from skyloom.ops.errors import ConfigError
from skyloom.ops.grid import Grid, wcs_header
from skyloom.ops.pyramid import block_mean
from skyloom.workflows import pyramid as pyramid_module
from skyloom.workflows.graph import Workflow
from skyloom.workflows.layout import Layout
from skyloom.workflows.pyramid import level_shapes, open_levels, pyramid
from skyloom.workflows.runner import run_workflow
from skyloom.workflows.store import Store


def image_of(pixels: NDArray[np.float32], *, tile: int, lead: str, linear: bool) -> xr.Dataset:
    from astropy.wcs import WCS

    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cd = np.diag([-2.0, 2.0]) / 3600
    wcs.wcs.set()
    grid = Grid(wcs_header(wcs), (pixels.shape[1], pixels.shape[2]), tile)
    chunks = (1 if lead == "band" else len(pixels), tile, tile)
    names = ["R", "G", "B"][: len(pixels)] if len(pixels) > 1 else ["L"]
    return xr.Dataset(
        {"image": ((lead, "y", "x"), da.from_array(pixels, chunks=chunks))},
        {lead: names},
        {**grid.to_attrs(), "linear": linear},
    )


def stored(project: Path, dataset: xr.Dataset) -> Store:
    store = Store(project)
    store.create()
    lead = str(dataset["image"].dims[0])
    layout = Layout.of(dataset, (lead, "y", "x") if lead == "band" else ("y", "x"), node="picture")
    writer = store.prepare("picture", "k", dataset, layout, {"op": "stretch"})
    pixels = dataset["image"].values
    for unit in layout.units():
        writer.write(unit, {"image": pixels[layout.variables[0].region(unit)]})
    store.complete("picture", "k", {})
    return store


def halved(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean over 2 × 2 pixels, one after the other."""
    planes, height, width = image.shape
    out = np.full((planes, -(-height // 2), -(-width // 2)), np.nan, np.float32)
    for plane in range(planes):
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                part = image[plane, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].astype(np.float64)
                if np.isfinite(part).any():
                    out[plane, y, x] = part[np.isfinite(part)].mean()
    return out


def random_pixels(shape: tuple[int, int, int]) -> NDArray[np.float32]:
    rng = np.random.default_rng(3)
    pixels = rng.uniform(0, 1, shape).astype(np.float32)
    pixels[rng.random(shape) < 0.3] = np.nan
    pixels[:, :40, :90] = np.nan
    return pixels


@pytest.mark.parametrize(
    ("shape", "tile", "lead"),
    [((3, 333, 210), 96, "channel"), ((2, 150, 90), 64, "band"), ((1, 70, 50), 128, "band")],
)
def test_levels_are_means_of_the_level_before(
    tmp_path: Path, shape: tuple[int, int, int], tile: int, lead: str
) -> None:
    pixels = random_pixels(shape)
    store = stored(tmp_path / "p", image_of(pixels, tile=tile, lead=lead, linear=False))
    made = pyramid(store.open("picture"), tmp_path, smallest=32)
    assert [p.name for p in made] == ["zarr.json"]
    assert made[0].exists()
    levels = open_levels(store.open("picture"))
    assert [level.shape[1:] for level in levels] == [shape[1:], *level_shapes((shape[1], shape[2]), 32)]
    assert max(levels[-1].shape[1:]) <= 32 < max(levels[-2].shape[1:])
    expected = pixels
    for level in levels:
        np.testing.assert_array_equal(np.asarray(level[...]), expected)
        expected = halved(expected)


def test_levels_are_cut_like_the_image(tmp_path: Path) -> None:
    pixels = random_pixels((1, 1600, 1100))
    pixels[:, :, :1024] = np.nan
    store = stored(tmp_path / "p", image_of(pixels, tile=512, lead="band", linear=True))
    pyramid(store.open("picture"), tmp_path, smallest=256)
    levels = open_levels(store.open("picture"))
    assert [(level.shards, level.chunks) for level in levels] == [((1, 512, 512), (1, 256, 256))] * 4
    folder = Path(str(store.root), "picture", "k", "pyramid", "1", "c")
    files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert files == {"0/0/1", "0/1/1"}, "tiles without data are not written"
    # The result is as it was, for the next node too.
    again = store.open("picture")
    np.testing.assert_array_equal(again["image"].values, pixels)
    assert set(again.variables) == {"image", "band"}
    assert "ome" not in again.attrs
    assert store.is_complete("picture", "k")


@pytest.mark.parametrize("linear", [True, False])
def test_metadata_is_that_of_ome_zarr(tmp_path: Path, linear: bool) -> None:
    """What the specification 0.5 demands of an image and of its arrays, rule by rule."""
    store = stored(tmp_path / "p", image_of(random_pixels((3, 300, 200)), tile=128, lead="channel", linear=linear))
    pyramid(store.open("picture"), tmp_path, smallest=64)
    group = json.loads((store.root / "picture" / "k" / "zarr.json").read_text())
    assert (group["zarr_format"], group["node_type"]) == (3, "group")
    about = group["attributes"]["ome"]
    assert about["version"] == "0.5"
    (image,) = about["multiscales"]
    axes = image["axes"]
    assert [a["name"] for a in axes] == ["channel", "y", "x"]
    assert [a["type"] for a in axes] == ["channel", "space", "space"]
    before = 0.0
    assert [d["path"] for d in image["datasets"]] == ["image", "pyramid/1", "pyramid/2", "pyramid/3"]
    for dataset in image["datasets"]:
        array = json.loads((store.root / "picture" / "k" / dataset["path"] / "zarr.json").read_text())
        assert (array["zarr_format"], array["node_type"]) == (3, "array")
        assert array["dimension_names"] == [a["name"] for a in axes]
        scale, translation = dataset["coordinateTransformations"]
        assert (scale["type"], translation["type"]) == ("scale", "translation")
        assert len(scale["scale"]) == len(translation["translation"]) == len(axes)
        assert scale["scale"][0] == 1.0
        assert scale["scale"][1] == scale["scale"][2] > before, "largest first"
        before = scale["scale"][1]
        # The first pixel lies in the middle of those it is made of.
        assert translation["translation"] == [0.0, *[np.arange(before).mean()] * 2]
    channels = about["omero"]["channels"]
    assert [c["label"] for c in channels] == ["R", "G", "B"]
    assert [c["color"] for c in channels] == ["FF0000", "00FF00", "0000FF"]
    for channel in channels:
        window = channel["window"]
        assert window["min"] <= window["start"] < window["end"] <= window["max"]
        assert ((window["start"], window["end"]) == (0.0, 1.0)) != linear
    json.dumps(group, allow_nan=False)


def test_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = random_pixels((1, 500, 128))
    store = stored(tmp_path / "p", image_of(pixels, tile=64, lead="band", linear=True))
    calls = 0

    def failing(plane: Any, factor: int) -> Any:
        nonlocal calls
        calls += 1
        if calls == 9:
            raise OSError(5, "the plug is pulled")
        return block_mean(plane, factor)

    monkeypatch.setattr(pyramid_module, "block_mean", failing)
    with pytest.raises(OSError, match="plug"):
        pyramid(store.open("picture"), tmp_path, smallest=64)
    assert "ome" not in zarr.open_group(str(store.root), path="picture/k", mode="r").attrs
    assert len(open_levels(store.open("picture"))) == 1
    # Two rows of a tile in four parts were done; the first level has four, the second two, the third one.
    pyramid(store.open("picture"), tmp_path, smallest=64)
    assert calls - 9 == (2 * 4 + 2 * 4 + 1 * 4)
    before = calls
    pyramid(store.open("picture"), tmp_path, smallest=64)
    assert calls == before
    np.testing.assert_array_equal(np.asarray(open_levels(store.open("picture"))[1][...]), halved(pixels))


def test_memory_does_not_grow_with_the_canvas(tmp_path: Path) -> None:
    peaks = []
    for side in (1024, 3072):
        pixels = np.ones((1, side, side), np.float32)
        store = stored(tmp_path / str(side), image_of(pixels, tile=512, lead="band", linear=False))
        dataset = store.open("picture")
        del pixels
        tracemalloc.start()
        pyramid(dataset, tmp_path, smallest=256)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
    assert peaks[1] < 3072**2


def test_a_node_of_a_workflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.all_ops()
    monkeypatch.setattr(registry, "_OPS", dict(registry._OPS))

    @registry.register(version=1, name="toy_read")
    def toy_read(files: list[Any]) -> xr.Dataset:
        """Read nothing."""
        return xr.Dataset({"number": ("frame", np.arange(len(files)))})

    @registry.register(version=1, name="toy_picture", unit=("y", "x"))
    def toy_picture(numbers: xr.Dataset) -> xr.Dataset:
        """Make a picture."""
        return image_of(random_pixels((3, 200, 300)), tile=64, lead="channel", linear=False)

    path = tmp_path / "w.yaml"
    path.write_text(
        "name: w\nnodes:\n  read: {op: toy_read, inputs: [files]}\n"
        "  picture: {op: toy_picture, inputs: [read]}\n"
        "  pyramid: {inputs: [picture], parameters: {smallest: 100}}\n"
    )
    (tmp_path / "a.txt").write_text("1")
    workflow = Workflow.load(str(path))
    report = run_workflow(workflow, [tmp_path / "a.txt"], project=tmp_path / "p", scheduler="synchronous")
    assert len(report.outputs) == 1
    levels = open_levels(Store(tmp_path / "p").open("picture"))
    assert [level.shape for level in levels] == [(3, 200, 300), (3, 100, 150), (3, 50, 75)]
    # Again: nothing to do.
    changed = report.outputs[0].stat().st_mtime_ns
    run_workflow(workflow, [tmp_path / "a.txt"], project=tmp_path / "p", scheduler="synchronous")
    assert report.outputs[0].stat().st_mtime_ns == changed


def test_only_beside_a_result_of_the_store(tmp_path: Path) -> None:
    dataset = image_of(random_pixels((1, 64, 64)), tile=64, lead="band", linear=True)
    with pytest.raises(ConfigError, match="a pyramid lies beside a result of the store"):
        pyramid(dataset, tmp_path)
