// The page: layers A and B on one canvas, what is under the pointer, and what changes while a run goes on.

import { Ahead } from "/ahead.js";
import { Overlay } from "/overlay.js";
import { $, Picker, Stretch, ask, element, figure, kindOf, pixelTables } from "/panel.js";

// As the server cuts (skyloom.workflows.viewer.levels).
const TILE = 512, OVERLAP = 1;
const OpenSeadragon = window.OpenSeadragon;
let project = await ask("/api/project");
// World of the viewer: the canvas is one wide; its upper left corner is the origin.
const canvas = project.canvas || { width: 1024, height: 1024 };
document.title = `${project.name} · skyloom`;
$("project").textContent = project.name;
$("project").title = project.name;

const viewer = OpenSeadragon({
  element: $("view"),
  drawer: "canvas",
  showNavigationControl: false,
  showNavigator: true,
  navigatorPosition: "TOP_RIGHT",
  navigatorSizeRatio: 0.14,
  navigatorAutoFade: false,
  navigatorBackground: "#14161a",
  navigatorBorderColor: "#343a44",
  navigatorDisplayRegionColor: "#58b6ff",
  animationTime: 0.35,
  springStiffness: 9,
  zoomPerScroll: 1.4,
  maxZoomPixelRatio: 40,
  // Pixels stay pixels: no sketch of them is made that is enlarged afterwards.
  smoothTileEdgesMinZoom: Infinity,
  minZoomImageRatio: 0.4,
  visibilityRatio: 0.15,
  imageLoaderLimit: 6,
  // One a frame would be a third of a second for a view.
  maxTilesPerFrame: 8,
  maxImageCacheCount: 300,
  timeout: 120000,
  immediateRender: false,
  imageSmoothingEnabled: true,
  preserveImageSizeOnResize: true,
  subPixelRoundingForTransparency: OpenSeadragon.SUBPIXEL_ROUNDING_OCCURRENCES.ALWAYS,
  gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true, flickEnabled: false },
  keyboardNavEnabled: false,
});

const toScreen = (x, y) => viewer.viewport.pixelFromPoint(
  new OpenSeadragon.Point(x / canvas.width, (canvas.height - y) / canvas.width), true);
function toCanvas(pixel) {
  const p = viewer.viewport.pointFromPixel(pixel, true);
  return { x: p.x * canvas.width, y: canvas.height - p.y * canvas.width };
}

// --- layers ---

const tileAddress = (factor, column, row, address) => `/tile?factor=${factor}&column=${column}&row=${row}&${address}`;

class Slot {
  constructor(name) {
    this.name = name;
    this.layer = null;
    this.info = null;
    this.item = null;
    this.revision = "";
    this.state = null;
    this.turn = 0;
  }

  get shown() {
    return this.info && front === this.name;
  }

  address() {
    const query = { layer: this.layer, ...stretch.query(this.info), r: this.revision };
    if (this.name === "b" && $("like").checked && slots.a.info) query.like = slots.a.layer;
    return new URLSearchParams(query).toString();
  }

  async show(layer) {
    const turn = ++this.turn;
    this.layer = layer;
    if (!layer) {
      this.clear();
      return;
    }
    const info = await ask("/api/layer", { layer });
    if (turn !== this.turn) return;
    this.info = info;
    this.revision = info.revision;
    this.draw();
  }

  clear() {
    this.info = this.state = this.pending = null;
    for (const item of [this.item, ...(this.old || [])]) if (item) viewer.world.removeItem(item);
    this.item = null;
    this.old = [];
  }

  // Lays the layer over what was there and takes that away when the new tiles are all in.
  draw() {
    if (!this.info) return;
    const { info } = this;
    const turn = this.turn;
    const address = this.address();
    if (this.item?.address === address) return;
    const top = Math.log2(info.last);
    const { left, bottom, scale } = info.place;
    this.pending = address;
    viewer.addTiledImage({
      tileSource: {
        width: info.padded.width, height: info.padded.height, tileSize: TILE, tileOverlap: OVERLAP, minLevel: 0, maxLevel: top,
        getTileUrl: (level, x, y) => tileAddress(2 ** (top - level), x, y, address),
      },
      x: left / canvas.width,
      y: (canvas.height - bottom - scale * info.padded.height) / canvas.width,
      width: (scale * info.padded.width) / canvas.width,
      opacity: this.shown ? 1 : 0,
      preload: true,
      success: ({ item }) => {
        if (turn !== this.turn || this.pending !== address) {
          viewer.world.removeItem(item);
          return;
        }
        const old = this.old || [];
        if (this.item) old.push(this.item);
        this.old = old;
        this.item = item;
        item.address = address;
        const settle = () => {
          if (this.item !== item) return;
          for (const o of this.old) viewer.world.removeItem(o);
          this.old = [];
        };
        item.addHandler("fully-loaded-change", (e) => { if (e.fullyLoaded) settle(); });
        setTimeout(settle, 5000);
        reveal();
        if (!this.placed && this.name === "a") home(true);
        this.placed = true;
      },
    });
  }

  get ready() {
    return !this.layer || Boolean(this.item && this.item.address === this.pending && this.item.getFullyLoaded() && !(this.old || []).length);
  }
}

let front = "a";
const slots = { a: new Slot("a"), b: new Slot("b") };
const stretch = new Stretch(() => later("look", 90, () => {
  slots.a.draw();
  slots.b.draw();
  showTones();
}));
const timers = {};
function later(name, wait, work) {
  clearTimeout(timers[name]);
  timers[name] = setTimeout(() => {
    delete timers[name];
    work();
  }, wait);
}

function reveal() {
  for (const slot of Object.values(slots)) {
    for (const item of [slot.item, ...(slot.old || [])]) if (item) item.setOpacity(slot.shown ? 1 : 0);
  }
  ahead.moved();
  badge();
}

function title(slot) {
  const { info } = slot;
  if (!info) return "";
  if (slot.layer.startsWith("@/")) return info.title;
  const [node, variable, plane] = slot.layer.split("/");
  const found = project.results.find((r) => r.id === node)?.variables.find((v) => v.name === variable);
  const label = plane === "rgb" ? "RGB" : found?.planes.find((p) => p.plane === plane)?.label || "";
  return `${info.title} ${label}`.trim();
}

function badge() {
  const slot = slots[front];
  const parts = [];
  if (slots.b.info) parts.push(element("span", { class: front, text: `${front.toUpperCase()}  ${title(slot)}` }));
  const state = slot.state;
  if (state && state.refined < 1) parts.push(element("span", { class: "preview", text: `preview of a sample, ${Math.floor(100 * state.refined)} % refined` }));
  const factor = 2 ** Math.floor(Math.log2(1 / zoomOf()) + 0.01);
  if (state && state.enlarged[0] < factor && factor < state.enlarged[1]) {
    parts.push(element("span", { class: "preview", text: "enlarged: there is no pyramid of this" }));
  }
  if (state && !state.complete) parts.push(element("span", { class: "preview", text: "being made: finished tiles appear" }));
  $("badge").replaceChildren(...parts);
}

async function showA(layer) {
  await guarded(() => slots.a.show(layer));
  if (!slots.a.info) return;
  stretch.of(slots.a.info);
  $("sky-field").hidden = !slots.a.info.sky;
  $("grid").disabled = !slots.a.info.sky;
  overlay.canvas = project.canvas;
  slots.b.draw();
  showTones();
  poll();
}

async function showB(layer) {
  $("compare").hidden = $("clear-b").hidden = !layer;
  if (!layer) {
    blink(false);
    front = "a";
  }
  await guarded(() => slots.b.show(layer));
  reveal();
  poll();
}

let waiting = 0;
async function guarded(work) {
  waiting += 1;
  try {
    const done = await work();
    $("notice").hidden = true;
    return done;
  } catch (problem) {
    $("notice").textContent = problem.message === "Failed to fetch" ? "The viewer has ended: start skyloom view again." : problem.message;
    $("notice").hidden = false;
    return null;
  } finally {
    waiting -= 1;
  }
}

// Whether all that was asked for is there, and nothing moves.
function settled() {
  const [now, then] = [true, false].map((current) => viewer.viewport.getBounds(current));
  const still = Math.abs(now.x - then.x) + Math.abs(now.y - then.y) + Math.abs(now.width - then.width) < 1e-6 * then.width;
  return still && waiting === 0 && Object.keys(timers).length === 0 && slots.a.ready && slots.b.ready;
}

async function showTones() {
  const { info } = slots.a;
  if (!info) return;
  const tones = await guarded(() => ask("/api/tones", { layer: slots.a.layer, ...stretch.query(info) }));
  if (!tones) return;
  const text = (v) => (Math.max(...v) - Math.min(...v) <= 1e-9 * Math.abs(v[0]) ? figure(v[0], 4) : v.map((x) => figure(x, 3)).join(" · "));
  $("bar-black").textContent = text(tones.black);
  $("bar-white").textContent = text(tones.white);
  $("bar-units").textContent = info.units;
}

const pickers = { a: new Picker($("picker-a"), showA), b: new Picker($("picker-b"), showB, { none: true }) };
const overlay = new Overlay($("overlay"), $("view"), toScreen);

// --- view ---

function home(now = false) {
  const { info } = slots.a;
  const { left, bottom, scale } = info.place;
  const width = (info.width * scale) / canvas.width, height = (info.height * scale) / canvas.width;
  const rect = new OpenSeadragon.Rect(left / canvas.width - 0.02 * width, (canvas.height - bottom) / canvas.width - 1.02 * height, 1.04 * width, 1.04 * height);
  viewer.viewport.fitBounds(rect, now);
}

const zoomOf = () => viewer.viewport.getZoom(true) * viewer.viewport.getContainerSize().x / canvas.width;
function zoomTo(pixels) {
  viewer.viewport.zoomTo((pixels * canvas.width) / viewer.viewport.getContainerSize().x);
}

function onView() {
  overlay.draw();
  const zoom = zoomOf();
  $("zoom").textContent = zoom >= 1 ? `${Number(zoom.toPrecision(3))} : 1` : `1 : ${Number((1 / zoom).toPrecision(3))}`;
  if (slots[front].state?.enlarged[1] > 1) later("badge", 150, badge);
  const smooth = zoom < 1.5;
  if (viewer.drawer && onView.smooth !== smooth) {
    onView.smooth = smooth;
    viewer.drawer.setImageSmoothingEnabled(smooth);
  }
  if (overlay.showGrid) later("grid", 120, fetchGrid);
  ahead.moved();
}

// --- the next step of zoom ---

let pointer = null;
function lookedAt() {
  const { info, item, state, layer } = slots[front];
  // Views that will be made anew are not worth it; those of frames take long.
  if (!info || !item || layer.startsWith("@/") || !state?.complete || state.refined < 1) return null;
  const { left, bottom, scale } = info.place;
  const onLayer = (pixel) => {
    const p = toCanvas(pixel);
    return { x: (p.x - left) / scale, y: info.padded.height - (p.y - bottom) / scale };
  };
  const size = viewer.viewport.getContainerSize();
  const a = onLayer(new OpenSeadragon.Point(0, 0)), b = onLayer(size);
  const zoom = zoomOf() * scale;
  // As the viewer chooses: pixels of a tile are at least half of the screen's.
  const factor = Math.min(info.last, 2 ** Math.ceil(Math.log2(0.5 / zoom)));
  return {
    key: item.address, factor, zoom, tile: TILE, size: info.padded, pointer: onLayer(pointer || size.divide(2)),
    box: { left: a.x, right: b.x, top: a.y, bottom: b.y },
    address: (f, column, row) => tileAddress(f, column, row, item.address),
  };
}
const ahead = new Ahead(lookedAt, () => !settled());
viewer.addHandler("update-viewport", onView);
viewer.addHandler("animation-finish", onView);

async function fetchGrid() {
  const size = viewer.viewport.getContainerSize();
  const a = toCanvas(new OpenSeadragon.Point(0, size.y)), b = toCanvas(new OpenSeadragon.Point(size.x, 0));
  const edges = { left: a.x - 0.5, right: b.x - 0.5, bottom: a.y - 0.5, top: b.y - 0.5 };
  const key = JSON.stringify(edges);
  if (key === fetchGrid.key) return;
  const answer = await guarded(() => ask("/api/grid", edges));
  if (!answer) return;
  fetchGrid.key = key;
  overlay.lines = answer.lines;
  overlay.draw();
}

function setGrid(on) {
  $("grid").checked = overlay.showGrid = on && !$("grid").disabled;
  overlay.draw();
  if (on) fetchGrid();
}

async function setFrames(on) {
  $("outlines").checked = overlay.showFrames = on;
  if (on) await fetchFrames();
  overlay.draw();
}

async function setPanels(on) {
  $("panels").checked = overlay.showPanels = on;
  if (on) await fetchFrames();
  overlay.draw();
}

async function fetchFrames() {
  const answer = await guarded(() => ask("/api/outlines"));
  if (answer) [overlay.frames, overlay.panels] = [answer.frames, answer.panels];
}

// --- under the pointer ---

let asked = null, asking = false, last = null;
function under(pixel, slot = slots[front]) {
  if (!slot.info) return null;
  const p = toCanvas(pixel);
  const { left, bottom, scale } = slot.info.place;
  return { layer: slot.layer, x: Math.floor((p.x - left) / scale), y: Math.floor((p.y - bottom) / scale) };
}

async function hover() {
  if (asking || !asked) return;
  asking = true;
  const query = last = asked;
  asked = null;
  const answer = await guarded(() => ask("/api/value", query));
  asking = false;
  if (answer) tell(answer, query.layer);
  hover();
}

function tell(answer, layer) {
  const names = Object.keys(answer.values || {});
  const list = (values) => values.map((v) => figure(v)).join("  ");
  $("place").textContent = `${answer.x}, ${answer.y}`;
  $("sky").textContent = answer.sky || "–";
  $("status").dataset.answer = JSON.stringify({ layer, ...answer });
  if (!answer.inside || !names.length) {
    $("value").textContent = "–";
    $("counts").textContent = "–";
    return;
  }
  const main = answer.values[names[0]];
  $("value").textContent = main.length > 1 ? answer.labels.map((l, i) => `${l} ${figure(main[i], 5)}`).join("  ") : list(main);
  const from = "count" in answer.values ? answer : answer.counts;
  const counts = from?.values || {};
  const told = ["count", "rejected_low", "rejected_high"].filter((n) => n in counts);
  $("counts-name").textContent = (told.map((n) => n.replace("_", " ")).join(", ") || "count") + (from && from !== answer ? ` (${from.node})` : "");
  const bands = from?.labels || [];
  $("counts").textContent = told.length
    ? (bands.length > 1 ? bands.map((b, i) => `${b} ${told.map((n) => counts[n][i]).join("/")}`).join("  ") : told.map((n) => list(counts[n])).join(", "))
    : "–";
  if (answer.frame) {
    $("counts-name").textContent = "frame pixel";
    $("counts").textContent = `${figure(answer.frame.x, 6)}, ${figure(answer.frame.y, 6)}`;
  }
}

$("view").addEventListener("pointermove", (event) => {
  const box = $("view").getBoundingClientRect();
  pointer = new OpenSeadragon.Point(event.clientX - box.left, event.clientY - box.top);
  ahead.moved();
  asked = under(pointer);
  hover();
}, true);

viewer.addHandler("canvas-click", async (event) => {
  if (!event.quick) return;
  const at = under(event.position);
  if (!at || at.x < 0 || at.y < 0 || at.x >= slots[front].info.width || at.y >= slots[front].info.height) return;
  const { left, bottom, scale } = slots[front].info.place;
  overlay.marked = { x: left + scale * at.x, y: bottom + scale * at.y, size: scale };
  overlay.draw();
  const body = $("pixel-body");
  $("close-pixel").hidden = false;
  body.replaceChildren(element("p", { class: "soft", text: "Looking into the frames …" }));
  try {
    const answer = await ask("/api/frames", at);
    if (!overlay.frames.length) await fetchFrames();
    body.replaceChildren(...pixelTables(answer, {
      hover: (layer) => { overlay.chosen = new Set(layer ? [layer] : []); overlay.draw(); },
      choose: (layer) => { pickers.b.choose(layer); front = "b"; reveal(); },
    }));
  } catch (problem) {
    body.replaceChildren(element("p", { class: "bad", text: problem.message }));
  }
});

$("close-pixel").addEventListener("click", () => {
  overlay.marked = null;
  overlay.chosen = new Set();
  overlay.draw();
  $("close-pixel").hidden = true;
  $("pixel-body").replaceChildren(element("p", { class: "soft", text: "Click a pixel to see which frames made it, and with what weight." }));
});

// --- compare ---

let blinking = null;
function swap() {
  if (!slots.b.info) return;
  front = front === "a" ? "b" : "a";
  reveal();
}
function blink(on) {
  clearInterval(blinking);
  blinking = on && slots.b.info ? setInterval(swap, 1000 * Number($("interval").value)) : null;
  $("blink").setAttribute("aria-pressed", String(Boolean(blinking)));
}
$("swap").addEventListener("click", () => { blink(false); swap(); });
$("blink").addEventListener("click", () => blink(!blinking));
$("interval").addEventListener("input", () => {
  $("interval-text").textContent = `${Number($("interval").value).toFixed(1)} s`;
  if (blinking) blink(true);
});
$("like").addEventListener("change", () => slots.b.draw());
$("clear-b").addEventListener("click", () => pickers.b.choose(null));

// --- a run that goes on ---

let results = null;
async function poll() {
  clearTimeout(poll.timer);
  const layers = [slots.a.layer, slots.b.layer].filter(Boolean).join(",");
  const answer = await guarded(() => ask("/api/state", { layers }));
  let wait = 3000;
  if (answer) {
    const now = JSON.stringify(answer.results);
    if (results !== null && now !== results) await reload();
    results = now;
    for (const slot of Object.values(slots)) {
      const state = slot.layer ? answer.layers[slot.layer] : undefined;
      if (state === undefined) continue;
      if (state === null) {
        // The layer is gone: made anew, or under another name.
        if (slot.name === "a" && project.first) pickers.a.choose(project.first);
        if (slot.name === "b") pickers.b.choose(null);
        continue;
      }
      slot.state = state;
      if (state.refined < 1) wait = 700;
      else if (!state.complete) wait = Math.min(wait, 1500);
      if (state.revision !== slot.revision && slot.info) {
        const [before, after] = [slot.revision, state.revision].map((r) => r.split(/[-.p]/)[0]);
        slot.revision = state.revision;
        if (before !== after) await guarded(() => slot.show(slot.layer));
        else slot.draw();
        if (slot.name === "a") showTones();
        if (slot.shown && last?.layer === slot.layer) {
          asked ||= last;
          hover();
        }
      }
    }
    badge();
  }
  poll.timer = setTimeout(poll, wait);
}

async function reload() {
  const answer = await guarded(() => ask("/api/project"));
  if (!answer) return;
  project = answer;
  pickers.a.offer(project);
  pickers.b.offer(project);
}

// --- buttons and keys ---

$("grid").addEventListener("change", (e) => setGrid(e.target.checked));
$("outlines").addEventListener("change", (e) => setFrames(e.target.checked));
$("panels").addEventListener("change", (e) => setPanels(e.target.checked));
$("zoom-in").addEventListener("click", () => viewer.viewport.zoomBy(2));
$("zoom-out").addEventListener("click", () => viewer.viewport.zoomBy(0.5));
$("home").addEventListener("click", () => home());
$("one").addEventListener("click", () => zoomTo(1));
$("help-button").addEventListener("click", () => $("help").showModal());

const KEYS = {
  "+": () => viewer.viewport.zoomBy(2), "=": () => viewer.viewport.zoomBy(2), "-": () => viewer.viewport.zoomBy(0.5),
  0: () => home(), 1: () => zoomTo(1), " ": () => { blink(false); swap(); }, b: () => blink(!blinking),
  g: () => setGrid(!overlay.showGrid), f: () => setFrames(!overlay.showFrames), p: () => setPanels(!overlay.showPanels), "?": () => $("help").showModal(),
  l: () => { if (!$("linked-label").hidden) $("linked").click(); }, "[": () => pickers.a.step(-1), "]": () => pickers.a.step(1),
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  if (["SELECT", "TEXTAREA"].includes(event.target.tagName) || (event.target.tagName === "INPUT" && event.target.type !== "checkbox")) return;
  const work = KEYS[event.key.toLowerCase()];
  if (!work) return;
  event.preventDefault();
  work();
});

window.skyloom = {
  viewer, slots, overlay, stretch, pickers, kindOf, toScreen, poll,
  ready: () => slots.a.ready && slots.b.ready,
  settled,
  front: () => front,
};
pickers.a.offer(project);
pickers.b.offer(project);
if (project.first) pickers.a.choose(project.first);
else {
  $("notice").textContent = "Nothing is on a canvas yet.";
  $("notice").hidden = false;
}
