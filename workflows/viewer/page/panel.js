// The controls: which layer, how it is stretched, what made a pixel.

export const $ = (id) => document.getElementById(id);

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") made.textContent = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

export async function ask(path, query = {}) {
  const response = await fetch(`${path}?${new URLSearchParams(query)}`);
  const answer = await response.json().catch(() => ({ error: `the viewer answered ${response.status}` }));
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

export function figure(value, digits = 7) {
  if (value === null || value === undefined) return "no data";
  if (Number.isInteger(value)) return String(value);
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-4 || size >= 1e7)) return value.toExponential(digits - 2);
  return String(Number(value.toPrecision(digits)));
}

// Chooses a layer: node, variable, plane; or a frame.
export class Picker {
  constructor(root, changed, { none = false } = {}) {
    this.changed = changed;
    this.none = none;
    this.node = element("select", { "aria-label": "Node", onchange: () => this.pickNode() });
    this.variable = element("select", { "aria-label": "Variable", onchange: () => this.pickVariable() });
    this.planes = element("div", { class: "segments", role: "group", "aria-label": "Band" });
    this.plane = element("select", { "aria-label": "Plane", onchange: () => this.pick(this.plane.value) });
    root.append(this.node, this.variable, this.planes, this.plane);
    this.layer = null;
    this.variable.hidden = this.planes.hidden = this.plane.hidden = true;
  }

  offer(project) {
    this.project = project;
    const group = (label, results) =>
      results.length
        ? [element("optgroup", { label }, ...results.map((r) =>
            element("option", { value: r.id, text: r.complete ? r.title : `${r.title} …` })))]
        : [];
    const canvas = project.results.filter((r) => r.canvas).reverse();
    const other = project.results.filter((r) => !r.canvas);
    this.node.replaceChildren(
      ...(this.none ? [element("option", { value: "", text: "nothing" })] : []),
      ...group("on the canvas, latest first", canvas),
      ...(project.frames.length
        ? [element("optgroup", { label: "frames" }, element("option", { value: "@", text: `single frames (${project.frames.length})` }))]
        : []),
      ...group("not on the canvas", other),
    );
    this.show(this.layer);
  }

  result() {
    return this.project.results.find((r) => r.id === this.node.value);
  }

  // Shows a layer that was chosen, without telling of it.
  show(layer) {
    this.layer = layer;
    if (!layer) {
      this.node.value = "";
      this.variable.hidden = this.planes.hidden = this.plane.hidden = true;
      return;
    }
    const [node, variable, plane] = layer.split("/");
    this.node.value = node;
    if (node === "@") {
      this.variable.replaceChildren(...this.project.frames.map((f) =>
        element("option", { value: f.layer, text: `${f.used ? "" : "✕ "}${f.name}  ${f.band}` })));
      this.variable.hidden = false;
      this.variable.value = layer;
      this.planes.hidden = this.plane.hidden = true;
      return;
    }
    const result = this.result();
    if (!result) return;
    this.variable.replaceChildren(...result.variables.map((v) =>
      element("option", { value: v.name, text: v.cell > 1 ? `${v.name} (cells of ${v.cell} px)` : v.name })));
    this.variable.hidden = result.variables.length < 2;
    this.variable.value = variable;
    const found = result.variables.find((v) => v.name === variable);
    const all = [...(found.rgb ? [{ plane: "rgb", label: "RGB" }] : []), ...found.planes];
    const few = all.length <= 8;
    this.planes.hidden = !few || all.length < 2;
    this.plane.hidden = few;
    this.planes.replaceChildren(...(few ? all : []).map((p) => element("button", {
      text: p.label, "aria-pressed": String(p.plane === plane), "data-plane": p.plane, onclick: () => this.pick(p.plane),
    })));
    this.plane.replaceChildren(...(few ? [] : all).map((p) => element("option", { value: p.plane, text: p.label })));
    if (!few) this.plane.value = plane;
  }

  choose(layer) {
    this.show(layer);
    this.changed(layer);
  }

  pickNode() {
    if (!this.node.value) this.choose(null);
    else if (this.node.value === "@") this.choose(this.project.frames[0].layer);
    else {
      // The same variable and band, where the other node has them.
      const result = this.result();
      const [, variable, plane] = (this.layer || "").split("/");
      const same = result.variables.find((v) => v.name === variable);
      const label = this.label(plane);
      const one = same && same.planes.find((p) => p.label === label);
      if (same && plane === "rgb" && same.rgb) this.choose(`${result.id}/${variable}/rgb`);
      else if (one) this.choose(`${result.id}/${variable}/${one.plane}`);
      else this.choose(result.first);
    }
  }

  label() {
    return this.planes.querySelector("[aria-pressed=true]")?.textContent;
  }

  pickVariable() {
    if (this.node.value === "@") {
      this.choose(this.variable.value);
      return;
    }
    const found = this.result().variables.find((v) => v.name === this.variable.value);
    const one = found.planes.find((p) => p.label === this.label());
    const colour = (this.layer || "").endsWith("/rgb") && found.rgb;
    this.choose(`${this.node.value}/${found.name}/${colour ? "rgb" : (one || found.planes[0]).plane}`);
  }

  pick(plane) {
    this.choose(`${this.node.value}/${this.variable.value}/${plane}`);
  }

  step(by) {
    const all = [...this.planes.querySelectorAll("button")];
    const at = all.findIndex((b) => b.getAttribute("aria-pressed") === "true");
    if (at >= 0) this.pick(all[(at + by + all.length) % all.length].dataset.plane);
  }
}

const METHODS = { stf: "STF", asinh: "asinh", linear: "linear", none: "as it is" };
// From a slider's place (0…1) to a quantile: most of it close to 1.
const toWhite = (t) => 1 - 10 ** (-0.5 - 5 * t);
const fromWhite = (q) => (-Math.log10(Math.max(1 - q, 1e-9)) - 0.5) / 5;
const SLIDERS = {
  shadows: { text: "black", min: -10, max: 2, step: 0.1, show: (v) => `${v.toFixed(1)} σ`, of: ["stf", "asinh"], title: "Black, σ from the median" },
  background: { text: "background", min: 0.02, max: 0.7, step: 0.01, show: (v) => v.toFixed(2), of: ["stf", "asinh"], title: "Brightness of the median" },
  low: { text: "black", min: 0, max: 0.5, step: 0.0025, show: (v) => `${(100 * v).toFixed(2)} %`, of: ["linear"], title: "Part of the pixels that is black" },
  white: { text: "white", min: 0, max: 1, step: 0.01, to: toWhite, from: fromWhite, show: (v) => `${(100 * v).toFixed(v > 0.999 ? 3 : 1)} %`, of: ["stf", "asinh", "linear"], title: "Part of the pixels below white" },
  saturation: { text: "saturation", min: 0, max: 3, step: 0.05, show: (v) => v.toFixed(2), of: ["stf", "asinh", "linear", "none"], colour: true, title: "Of the colours" },
};
const DEFAULTS = {
  picture: { method: "none", linked: true, shadows: -2.8, background: 0.25, low: 0, white: 0.9999, saturation: 1, colours: "grey" },
  linear: { method: "stf", linked: true, shadows: -2.8, background: 0.25, low: 0.005, white: 0.9999, saturation: 1, colours: "grey" },
  map: { method: "linear", linked: true, shadows: -2.8, background: 0.25, low: 0.005, white: 0.995, saturation: 1, colours: "viridis" },
};

export const kindOf = (info) => (info.map ? "map" : info.linear ? "linear" : "picture");

// How each kind of layer is stretched.
export class Stretch {
  constructor(changed) {
    this.looks = structuredClone(DEFAULTS);
    this.changed = changed;
    this.kind = "linear";
    this.planes = 1;
    for (const [id, name] of [["linked", "linked"], ["viridis", "colours"]]) {
      $(id).addEventListener("change", (e) => {
        this.look[name] = name === "linked" ? e.target.checked : e.target.checked ? "viridis" : "grey";
        this.changed();
      });
    }
    $("reset").addEventListener("click", () => {
      this.looks[this.kind] = structuredClone(DEFAULTS[this.kind]);
      this.draw();
      this.changed();
    });
  }

  get look() {
    return this.looks[this.kind];
  }

  query(info) {
    const look = this.looks[kindOf(info)];
    const query = { ...look, linked: look.linked ? "1" : "0" };
    if (info.planes > 1) delete query.colours;
    else delete query.saturation;
    return query;
  }

  of(info) {
    this.kind = kindOf(info);
    this.planes = info.planes;
    this.draw();
  }

  draw() {
    const look = this.look;
    const methods = this.kind === "picture" ? ["none", "linear"] : ["stf", "asinh", "linear"];
    $("method").replaceChildren(...methods.map((m) => element("button", {
      text: METHODS[m], "aria-pressed": String(look.method === m), "data-method": m,
      onclick: () => { look.method = m; this.draw(); this.changed(); },
    })));
    const rows = Object.entries(SLIDERS).filter(([, s]) => s.of.includes(look.method) && (!s.colour || this.planes > 1));
    $("sliders").replaceChildren(...rows.map(([name, s]) => this.slider(name, s)));
    $("linked").checked = look.linked;
    $("linked-label").hidden = this.planes < 2 || look.method === "none";
    $("viridis").checked = look.colours === "viridis";
    $("colours-label").hidden = this.planes > 1;
    $("bar").classList.toggle("viridis", this.planes === 1 && look.colours === "viridis");
  }

  slider(name, s) {
    const output = element("output", { text: s.show(this.look[name]) });
    const input = element("input", {
      type: "range", min: s.min, max: s.max, step: s.step, id: `slider-${name}`, title: s.title,
      oninput: () => {
        this.look[name] = s.to ? s.to(Number(input.value)) : Number(input.value);
        output.textContent = s.show(this.look[name]);
        $("bar").classList.toggle("viridis", this.planes === 1 && this.look.colours === "viridis");
        this.changed();
      },
    });
    input.value = s.from ? s.from(this.look[name]) : this.look[name];
    return element("div", { class: "slider" }, element("label", { for: `slider-${name}`, text: s.text, title: s.title }), input, output);
  }
}

// The frames of a pixel as tables, one a band.
export function pixelTables(answer, { hover, choose }) {
  const parts = [];
  parts.push(element("p", { class: "soft", text: `${answer.node}, x ${answer.x}, y ${answer.y}` }));
  for (const band of answer.bands) {
    const stored = band.stored;
    const used = band.frames.filter((f) => f.weight > 0).length;
    parts.push(element("h3", { text: `${band.band}: ${figure(stored.image, 6)}` }));
    parts.push(element("p", { class: "soft", text: `${used} of ${band.frames.length} frames` + (band.same ? "" : "; made again it is not the same: the frames have changed") }));
    const rows = [...band.frames].sort((a, b) => b.fraction - a.fraction).map((f) => element("tr", {
      class: f.weight > 0 ? null : "out", "data-layer": `@/${f.frame}`, title: `${f.name}: ${f.fate}\nframe pixel ${f.x.toFixed(1)}, ${f.y.toFixed(1)}\nclick: compare with this frame`,
      onmouseenter: () => hover(`@/${f.frame}`), onmouseleave: () => hover(null), onclick: () => choose(`@/${f.frame}`),
    }, element("td", { text: f.name }), element("td", { text: figure(f.value, 6) }),
    element("td", { text: f.weight > 0 ? `${(100 * f.fraction).toFixed(1)} %` : f.fate.replace("rejected ", "") })));
    parts.push(element("table", {}, element("tr", {}, element("th", { text: "frame" }), element("th", { text: "value" }), element("th", { text: "weight" })), ...rows));
  }
  return parts;
}
