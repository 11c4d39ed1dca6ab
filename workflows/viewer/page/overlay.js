// Lines over the canvas: grid, outlines of frames and panels, the pixel that was clicked. Positions are pixels of the canvas.

const GRID = "rgba(120, 200, 255, 0.55)";
const USED = "rgba(255, 190, 90, 0.45)";
const PANEL = "rgba(150, 255, 170, 0.9)";
const UNUSED = "rgba(255, 110, 100, 0.45)";

export class Overlay {
  // `toScreen` takes a place on the canvas (edges of pixels are whole numbers) to a place on the screen.
  constructor(element, view, toScreen) {
    this.element = element;
    this.view = view;
    this.toScreen = toScreen;
    this.lines = [];
    this.frames = [];
    this.panels = [];
    this.showPanels = false;
    this.showGrid = false;
    this.showFrames = false;
    this.marked = null;
    this.chosen = new Set();
    this.canvas = null;
    new ResizeObserver(() => this.draw()).observe(view);
  }

  draw() {
    const ratio = window.devicePixelRatio || 1;
    const width = this.view.clientWidth, height = this.view.clientHeight;
    if (this.element.width !== Math.round(width * ratio) || this.element.height !== Math.round(height * ratio)) {
      this.element.width = Math.round(width * ratio);
      this.element.height = Math.round(height * ratio);
      this.element.style.width = `${width}px`;
      this.element.style.height = `${height}px`;
    }
    const pen = this.element.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.lineJoin = "round";
    if (this.canvas) this.border(pen);
    if (this.showFrames) this.outlines(pen);
    else if (this.chosen.size) this.outlines(pen, true);
    if (this.showPanels) this.panelOutlines(pen);
    if (this.showGrid) this.grid(pen, width, height);
    if (this.marked) this.mark(pen);
  }

  trace(pen, points, shift) {
    pen.beginPath();
    points.forEach(([x, y], i) => {
      const p = this.toScreen(x + shift, y + shift);
      if (i) pen.lineTo(p.x, p.y);
      else pen.moveTo(p.x, p.y);
    });
  }

  border(pen) {
    const { width, height } = this.canvas;
    pen.strokeStyle = "rgba(255, 255, 255, 0.16)";
    pen.lineWidth = 1;
    this.trace(pen, [[0, 0], [width, 0], [width, height], [0, height], [0, 0]], 0);
    pen.stroke();
  }

  outlines(pen, onlyChosen = false) {
    for (const frame of this.frames) {
      const chosen = this.chosen.has(frame.layer);
      if (onlyChosen && !chosen) continue;
      pen.strokeStyle = chosen ? "#ffffff" : frame.used ? USED : UNUSED;
      pen.lineWidth = chosen ? 2 : 1;
      pen.setLineDash(frame.used ? [] : [5, 4]);
      this.trace(pen, [...frame.points, frame.points[0]], 0.5);
      pen.stroke();
    }
    pen.setLineDash([]);
  }

  panelOutlines(pen) {
    pen.strokeStyle = PANEL;
    pen.lineWidth = 2;
    for (const panel of this.panels) {
      this.trace(pen, [...panel.points, panel.points[0]], 0.5);
      pen.stroke();
    }
  }

  grid(pen, width, height) {
    pen.strokeStyle = GRID;
    pen.lineWidth = 1;
    pen.font = "11.5px system-ui, sans-serif";
    const taken = [];
    const labels = [];
    for (const line of this.lines) {
      for (const part of line.parts) {
        this.trace(pen, part, 0.5);
        pen.stroke();
      }
      const at = this.entry(line, width, height);
      if (at) labels.push([line.label, at]);
    }
    for (const [text, at] of labels) {
      const wide = pen.measureText(text).width + 8;
      const x = Math.min(Math.max(at.x - wide / 2, 2), width - wide - 2);
      const y = Math.min(Math.max(at.y - 8, 2), height - 18);
      const box = [x, y, x + wide, y + 16];
      if (taken.some((b) => box[0] < b[2] && b[0] < box[2] && box[1] < b[3] && b[1] < box[3])) continue;
      taken.push(box);
      pen.fillStyle = "rgba(16, 19, 26, 0.78)";
      pen.fillRect(x, y, wide, 16);
      pen.fillStyle = "#bfe2ff";
      pen.fillText(text, x + 4, y + 12);
    }
  }

  // Where a line is named: near the lower edge those of right ascension, near the right edge those of declination.
  entry(line, width, height) {
    let best = null;
    for (const part of line.parts) {
      for (let i = 1; i < part.length; i++) {
        const a = this.toScreen(part[i - 1][0] + 0.5, part[i - 1][1] + 0.5);
        const b = this.toScreen(part[i][0] + 0.5, part[i][1] + 0.5);
        for (let k = 0; k <= 8; k++) {
          const p = { x: a.x + ((b.x - a.x) * k) / 8, y: a.y + ((b.y - a.y) * k) / 8 };
          if (p.x < 0 || p.x > width || p.y < 0 || p.y > height) continue;
          const far = line.kind === "ra" ? height - p.y : width - p.x;
          if (!best || far < best.far) best = { ...p, far };
        }
      }
    }
    return best;
  }

  mark(pen) {
    const { x, y, size } = this.marked;
    const a = this.toScreen(x, y), b = this.toScreen(x + size, y + size);
    const wide = Math.max(Math.abs(b.x - a.x), 9);
    const left = (a.x + b.x) / 2 - wide / 2, top = (a.y + b.y) / 2 - wide / 2;
    for (const [colour, line] of [["#000000", 3], ["#ffffff", 1.2]]) {
      pen.strokeStyle = colour;
      pen.lineWidth = line;
      pen.strokeRect(left, top, wide, wide);
    }
  }
}
