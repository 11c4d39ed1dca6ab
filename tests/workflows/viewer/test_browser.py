"""The page in a browser without a window: pan, zoom, values under the pointer, stretch, blink."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from astropy.wcs import WCS

from skyloom.ops.grid import Grid
from skyloom.workflows.store import Store
from skyloom.workflows.viewer.command import open_server

from .conftest import CUT, Client, Made, canvas, wide_arrays, write_result

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
PATIENCE = 60.0
SIZE = {"width": 1280, "height": 800}


def wait_for(page: Page, what: str, condition: Callable[[], Any]) -> Any:
    """Wait until a condition holds, and return what it gave."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        page.wait_for_timeout(30)
    raise AssertionError(f"{what} did not happen in {PATIENCE:g} s")


def settle(page: Page) -> None:
    """Wait until all tiles of the view are drawn."""
    settled = "() => Boolean(window.skyloom && window.skyloom.settled())"
    quiet = 0

    def long_enough() -> bool:
        nonlocal quiet
        quiet = quiet + 1 if page.evaluate(settled) else 0
        return quiet >= 5

    page.wait_for_timeout(60)
    wait_for(page, "rest", long_enough)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, client: Client) -> Iterator[Page]:
    """The page of the project, `wide` shown; fails if a script does."""
    page = browser.new_page(viewport=SIZE)
    problems: list[str] = []
    outside: list[str] = []
    page.on("pageerror", lambda e: problems.append(str(e)))
    page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    own = f"http://127.0.0.1:{client.server.port}/"
    page.on("request", lambda r: outside.append(r.url) if not r.url.startswith((own, "data:", "blob:")) else None)
    page.goto(client.server.address)
    settle(page)
    yield page
    page.close()
    assert problems == []
    # The page works without a network.
    assert outside == []


def screen(page: Page, x: float, y: float) -> tuple[float, float]:
    """Where a pixel's middle is on the screen."""
    at = page.evaluate("([x, y]) => { const p = skyloom.toScreen(x + 0.5, y + 0.5); return [p.x, p.y]; }", [x, y])
    box = page.locator("#view").bounding_box()
    assert box is not None
    return box["x"] + at[0], box["y"] + at[1]


def hover(page: Page, x: int, y: int) -> dict[str, Any]:
    """What the page says of a pixel."""
    page.mouse.move(*screen(page, x, y))

    def answer() -> dict[str, Any] | None:
        text = page.locator("#status").get_attribute("data-answer")
        found: dict[str, Any] = json.loads(text) if text else {}
        return found if (found.get("x"), found.get("y")) == (x, y) else None

    found: dict[str, Any] = wait_for(page, f"the value of {x}, {y}", answer)
    return found


def shot(page: Page) -> np.ndarray[Any, Any]:
    """Pixels of the canvas' part of the screen."""
    import io

    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(page.locator("#view").screenshot())).convert("RGB")).astype(int)


def differs(page: Page, what: str, other: np.ndarray[Any, Any], least: float) -> None:
    """Wait until the canvas' part of the screen differs from a picture, by so many levels on average."""
    wait_for(page, what, lambda: np.abs(shot(page) - other).mean() > least)


def matches(page: Page, what: str, other: np.ndarray[Any, Any], most: float) -> None:
    """Wait until the canvas' part of the screen is like a picture, to so many levels on average."""
    wait_for(page, what, lambda: np.abs(shot(page) - other).mean() < most)


def wheel(page: Page, steps: float) -> None:
    """Turn the wheel, and wait until the page has begun to zoom: the browser tells it in its own time."""
    wanted = "() => skyloom.viewer.viewport.getZoom(false)"
    before = page.evaluate(wanted)
    page.mouse.wheel(0, steps)
    wait_for(page, "zooming", lambda: page.evaluate(wanted) != before)


def zoom_to(page: Page, x: int, y: int, pixels: float) -> None:
    """Show a place of the canvas, so many pixels of the screen a pixel."""
    page.evaluate(
        """([x, y, zoom, width, height]) => {
            const view = skyloom.viewer.viewport;
            view.zoomTo(zoom * width / view.getContainerSize().x, null, true);
            view.panTo({x: (x + 0.5) / width, y: (height - y - 0.5) / width}, true);
        }""",
        [x, y, pixels, 1300, 1100],
    )
    settle(page)


def test_tiles_of_the_next_zoom_are_there_before_it(page: Page) -> None:
    sent = """(ahead) => performance.getEntriesByType("resource")
        .filter((r) => r.name.includes("factor=1&") && r.name.includes("image%2F1"))
        .filter((r) => (r.initiatorType === "fetch") === ahead).map((r) => r.name)"""
    zoom_to(page, 640, 600, 0.4)
    page.mouse.move(*screen(page, 640, 600))
    page.evaluate("skyloom.pickers.a.choose('wide/image/1')")
    settle(page)
    wait_for(page, "looking ahead", lambda: len(page.evaluate(sent, True)) >= 4)
    assert page.evaluate(sent, False) == []
    for _ in range(2):
        wheel(page, -300)
        settle(page)
    seen = set(page.evaluate(sent, False))
    assert seen
    assert seen <= set(page.evaluate(sent, True))
    # The browser had them already.
    size = """performance.getEntriesByType("resource").filter((r) => r.initiatorType === "img" &&
        r.name.includes("factor=1&") && r.name.includes("image%2F1")).map((r) => r.transferSize)"""
    assert set(page.evaluate(size)) == {0}


def test_values_under_the_pointer_are_those_of_the_store(page: Page, made: Made) -> None:
    zoom_to(page, 640, 600, 8.0)
    for x, y in ((640, 600), (650, 610), (601, 577)):
        answer = hover(page, x, y)
        assert answer["values"]["image"] == [float(made.wide["image"][0, y, x])]
        assert answer["values"]["count"] == [5]
        sky = canvas().wcs.all_pix2world([x], [y], 0)
        assert answer["ra"] == pytest.approx(float(sky[0][0]), abs=1e-10)
    assert page.locator("#place").inner_text() == "601, 577"
    shown = float(page.locator("#value").inner_text())
    assert shown == pytest.approx(float(made.wide["image"][0, 577, 601]), rel=1e-6)
    assert page.locator("#counts").inner_text() == "5, 0"
    assert "+30°" in page.locator("#sky").inner_text()


def test_where_there_is_no_data(page: Page) -> None:
    answer = hover(page, 50, 40)
    assert answer["values"]["image"] == [None]
    assert page.locator("#value").inner_text() == "no data"
    # The ground, which is no shade of the picture: all alike but for its squares.
    x, y = screen(page, 60, 45)
    box = page.locator("#view").bounding_box()
    assert box is not None
    around = shot(page)[
        int(y - box["y"]) - 8 : int(y - box["y"]) + 8, int(x - box["x"]) - 8 : int(x - box["x"]) + 8
    ]
    assert len(np.unique(around.reshape(-1, 3), axis=0)) <= 2
    assert around.min() > 20


def test_a_star_is_where_the_store_has_it(page: Page, made: Made) -> None:
    """The brightest pixel of the screen is the brightest of the canvas' part: orientation and tiles are right."""
    y, x = (int(i[0]) for i in np.nonzero(made.wide["image"][0] > 4500))
    zoom_to(page, x, y, 16.0)
    picture = shot(page)[..., 0]
    part = picture[picture.shape[0] // 2 - 100 : picture.shape[0] // 2 + 100]
    bright = np.argwhere(part > 0.97 * part.max())
    middle = screen(page, x, y)
    box = page.locator("#view").bounding_box()
    assert box is not None
    assert bright[:, 1].mean() + box["x"] == pytest.approx(middle[0], abs=3)
    assert bright[:, 0].mean() + picture.shape[0] // 2 - 100 + box["y"] == pytest.approx(middle[1], abs=3)


def test_wheel_zooms_and_drag_pans(page: Page, made: Made) -> None:
    def view() -> list[float]:
        found: list[float] = page.evaluate(
            "() => { const b = skyloom.viewer.viewport.getBounds(); return [b.x, b.y, b.width]; }"
        )
        return found

    before = view()
    page.mouse.move(*screen(page, 640, 600))
    for _ in range(6):
        page.mouse.wheel(0, -240)
        page.wait_for_timeout(60)
    wait_for(page, "zooming", lambda: view()[2] < 0.3 * before[2])
    settle(page)
    zoomed = view()
    # What was under the pointer still is.
    answer = hover(page, 640, 600)
    assert answer["values"]["image"] == [float(made.wide["image"][0, 600, 640])]
    page.mouse.down()
    at = screen(page, 640, 600)
    page.mouse.move(at[0] - 150, at[1] - 90, steps=6)
    page.mouse.up()
    settle(page)
    panned = view()
    assert panned[2] == pytest.approx(zoomed[2], rel=1e-6)
    assert panned[0] > zoomed[0]
    assert panned[1] > zoomed[1]
    page.locator("#home").click()
    settle(page)
    assert view() == pytest.approx(before, abs=1e-3)
    page.keyboard.press("1")
    settle(page)
    wait_for(page, "a pixel a pixel", lambda: page.locator("#zoom").inner_text() == "1 : 1")


def test_the_stretch_changes_the_pixels(page: Page) -> None:
    first = shot(page)
    page.locator("[data-method=asinh]").click()
    settle(page)
    differs(page, "another stretch", first, 0.5)
    page.locator("[data-method=stf]").click()
    settle(page)
    matches(page, "the stretch of before", first, 0.1)
    again = shot(page)
    slider = page.locator("#slider-background")
    slider.focus()
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    settle(page)
    middle = np.s_[300:500, 400:600]
    wait_for(page, "a brighter picture", lambda: shot(page)[middle].mean() > again[middle].mean() + 25)
    page.locator("#reset").click()
    settle(page)
    matches(page, "the first picture", first, 0.1)
    assert float(page.locator("#bar-black").inner_text()) < 1000 < float(page.locator("#bar-white").inner_text())


def test_linked_and_unlinked_colours(page: Page) -> None:
    page.locator("#picker-a [aria-label=Node]").select_option("integrate")
    settle(page)
    assert page.locator("#linked-label").is_hidden()
    page.locator("#picker-a [aria-label=Node]").select_option("shown")
    settle(page)
    page.locator("#picker-a [data-plane=rgb]").click()
    page.locator("[data-method=linear]").click()
    settle(page)
    linked = shot(page)
    page.keyboard.press("l")
    settle(page)
    assert not page.locator("#linked").is_checked()
    differs(page, "unlinked colours", linked, 0.01)


def test_variables_and_bands(page: Page, made: Made) -> None:
    page.locator("#picker-a [aria-label=Variable]").select_option("weight")
    page.locator("#picker-a [data-plane='1']").click()
    settle(page)
    answer = hover(page, 640, 600)
    assert answer["layer"] == "wide/weight/1"
    assert next(iter(answer["values"])) == "weight"
    assert answer["values"]["weight"] == [float(made.wide["weight"][1, 600, 640])]
    page.keyboard.press("[")
    settle(page)
    assert hover(page, 641, 600)["layer"] == "wide/weight/0"


def test_blinking_shows_one_and_then_the_other(page: Page, made: Made) -> None:
    zoom_to(page, 640, 600, 2.0)
    alone = shot(page)
    page.locator("#picker-b [aria-label=Node]").select_option("cut")
    settle(page)
    page.keyboard.press("Space")
    settle(page)
    assert page.evaluate("() => skyloom.front()") == "b"
    # The other canvas begins elsewhere, and yet lies on the first pixel by pixel.
    page.mouse.move(*screen(page, 641, 601))
    there = {"layer": "cut/image/0", "x": 641 - CUT[1], "y": 601 - CUT[0]}

    def answer() -> dict[str, Any] | None:
        found: dict[str, Any] = json.loads(page.locator("#status").get_attribute("data-answer") or "{}")
        return found if {n: found.get(n) for n in there} == there else None

    found = wait_for(page, "the value of B", answer)
    assert found["values"]["image"] == [float(made.wide["image"][0, 601, 641])]
    page.locator("#like").check()
    settle(page)
    matches(page, "B as bright as A", alone, 0.5)
    page.locator("#picker-b [data-plane='1']").click()
    settle(page)
    differs(page, "the other band", alone, 10)
    page.locator("#interval").fill("0.2")
    page.locator("#blink").click()
    seen = []
    for _ in range(40):
        seen.append(page.evaluate("() => skyloom.front()"))
        page.wait_for_timeout(50)
    assert sum(a != b for a, b in pairwise(seen)) >= 3
    page.keyboard.press("b")
    wait_for(page, "the end", lambda: page.locator("#blink").get_attribute("aria-pressed") == "false")
    page.locator("#clear-b").click()
    settle(page)
    assert page.evaluate("() => skyloom.front()") == "a"


def test_grid_and_outlines_are_drawn(page: Page) -> None:
    drawn = """() => { const c = document.getElementById("overlay");
        const data = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
        return data.filter((v, i) => i % 4 === 3 && v > 60).length; }"""
    before = page.evaluate(drawn)
    page.keyboard.press("g")
    wait_for(page, "the grid", lambda: page.evaluate(drawn) > before + 1000)
    with_grid = page.evaluate(drawn)
    page.keyboard.press("f")
    wait_for(page, "the outlines", lambda: page.evaluate("() => skyloom.overlay.frames.length") == 8)
    wait_for(page, "their lines", lambda: page.evaluate(drawn) != with_grid)
    with_frames = page.evaluate(drawn)
    page.keyboard.press("p")
    wait_for(page, "the panels", lambda: page.evaluate("() => skyloom.overlay.panels.length") > 0)
    wait_for(page, "their lines", lambda: page.evaluate(drawn) != with_frames)
    assert page.locator("#panels").is_checked()
    # A line drawn on the screen is where astropy has it.
    wcs: WCS = canvas().wcs
    lines = page.evaluate("() => skyloom.overlay.lines")
    line = next(item for item in lines if item["kind"] == "dec")
    points = np.array(line["parts"][0])
    dec = wcs.all_pix2world(points[:, 0], points[:, 1], 0)[1]
    assert np.ptp(dec) * 3600 < 0.01


def test_a_click_tells_the_frames_of_a_pixel(page: Page, made: Made) -> None:
    mosaic = Store(made.folder).open("integrate")
    grid = Grid.from_attrs(mosaic.attrs)
    y, x = grid.shape[0] // 2, grid.shape[1] // 2
    page.locator("#picker-a [aria-label=Node]").select_option("integrate")
    settle(page)
    ra, dec = grid.wcs.all_pix2world([x], [y], 0)
    at = canvas().wcs.all_world2pix(ra, dec, 0)
    place = screen(page, float(at[0][0]), float(at[1][0]))
    page.mouse.click(*place)
    page.locator("#pixel-body table").wait_for(timeout=1000 * PATIENCE)
    rows = page.locator("#pixel-body tr[data-layer]")
    count = int(mosaic["count"].sel(band="L")[y, x])
    assert page.locator("#pixel-body tr[data-layer]:not(.out)").count() == count >= 2
    name = rows.first.locator("td").first.inner_text()
    assert (made.frames / name).exists()
    # A frame of it beside the mosaic.
    rows.first.click()
    wait_for(page, "the frame", lambda: (page.evaluate("() => skyloom.slots.b.layer") or "").startswith("@/"))
    settle(page)
    assert page.evaluate("() => skyloom.front()") == "b"


def test_finished_tiles_appear_while_a_run_goes_on(browser: Any, tmp_path: Path) -> None:
    store = Store(tmp_path / "p")
    store.create()
    arrays = {"image": wide_arrays()["image"]}
    write_result(store, "node", arrays, canvas(), units=3)
    server = open_server(store.project)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    page = browser.new_page(viewport=SIZE)
    page.goto(server.address)
    settle(page)
    assert "being made" in page.locator("#badge").inner_text()
    x, y = screen(page, 1000, 800)
    box = page.locator("#view").bounding_box()

    def shade() -> float:
        # Squares of the ground are no brighter than this.
        at = np.s_[
            int(y - box["y"]) - 20 : int(y - box["y"]) + 20, int(x - box["x"]) - 20 : int(x - box["x"]) + 20
        ]
        return float(shot(page)[at].mean())

    assert shade() < 45
    assert hover(page, 1000, 800)["values"]["image"] == [None]
    write_result(store, "node", arrays, canvas(), units=6)
    journal = store.journal("node", "k1").path
    journal.parent.mkdir()
    journal.write_text("{}\n")
    wait_for(page, "the new tile", lambda: shade() > 50)
    # Another first: what is told of the pixel is from before.
    hover(page, 900, 810)
    assert hover(page, 1000, 800)["values"]["image"] == [float(arrays["image"][0, 800, 1000])]
    write_result(store, "node", arrays, canvas())
    wait_for(page, "the end", lambda: "being made" not in page.locator("#badge").inner_text())
    page.close()
    server.shutdown()
    server.server_close()
    thread.join()


def test_without_the_token_there_is_no_page(browser: Any, client: Client) -> None:
    page = browser.new_context().new_page()
    answer = page.goto(f"http://127.0.0.1:{client.server.port}/")
    assert answer.status == 403
    page.close()
