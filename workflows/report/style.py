"""Style sheet and script of the page."""

STYLE = """
:root { color-scheme: light dark;
  --page: #f6f7f9; --card: #fff; --text: #1d2430; --soft: #5a6675; --line: #d5dae1; --axis: #8a94a3;
  --good: #1d7a3a; --bad: #c62828; --warn: #9a5b00; --bar: #7b9cc9;
  --c0: #6b7480; --c1: #c62828; --c2: #2c8a2c; --c3: #2f5fc4; --c4: #a01c6c; --c5: #15807f; --c6: #b06f00;
  --c7: #77489c; --c8: #4f5d2f; }
@media (prefers-color-scheme: dark) { :root {
  --page: #14171c; --card: #1c2027; --text: #e3e7ed; --soft: #9aa4b1; --line: #323944; --axis: #6b7685;
  --good: #6fcf8a; --bad: #ff7b72; --warn: #e3a951; --bar: #4a6d9e;
  --c0: #b4bcc7; --c1: #ff6b63; --c2: #5fc45f; --c3: #7aa2ff; --c4: #ef6bbd; --c5: #4cc4c2; --c6: #f0ad3e;
  --c7: #c39be8; --c8: #b3c27a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; }
header, main, footer { max-width: 1220px; margin: 0 auto; padding: 0 16px; }
header { padding-top: 18px; }
h1 { font-size: 1.5rem; margin: 0 0 .2em; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 0 0 .5em; }
p { margin: .35em 0; }
ul { margin: .3em 0; padding-left: 1.2em; }
li { overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: .2em .9em; margin: .7em 0; font-size: .92rem; }
a { color: var(--c3); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px;
  margin: 14px 0; }
.soft { color: var(--soft); } .good { color: var(--good); } .bad { color: var(--bad); }
.outcome p { margin: .15em 0; overflow-wrap: anywhere; }
figure { margin: 0; min-width: 0; }
figcaption { font-size: .88rem; margin: .2em 0; overflow-wrap: anywhere; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(330px, 100%), 1fr)); gap: 14px; }
.maps { grid-template-columns: repeat(auto-fit, minmax(min(240px, 100%), 1fr)); margin-bottom: 14px; }
.low { align-items: end; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); gap: 14px; }
.picture { margin-bottom: 12px; }
.picture img, .map img { display: block; max-width: 100%; height: auto; }
.map img { width: 100%; } img.pixels { image-rendering: pixelated; }
.stack { position: relative; }
.outlines { position: absolute; inset: 0; width: 100%; height: 100%; }
.outlines polygon { fill: none; stroke: #fff; stroke-opacity: .75; vector-effect: non-scaling-stroke;
  stroke-width: 1; pointer-events: stroke; }
.outlined:has(.show:not(:checked)) .outlines { display: none; }
.scale { display: flex; align-items: center; gap: .5em; font-size: .8rem; color: var(--soft); margin-top: 3px; }
.scale i { flex: 1; height: 8px; border-radius: 2px;
  background: linear-gradient(to right, #440154, #3b528b, #21918c, #5ec962, #fde725);
  print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.chart svg { display: block; width: 100%; height: auto; }
svg text { font-size: 11px; fill: var(--text); } svg .soft { fill: var(--soft); }
svg .end { text-anchor: end; } svg .mid { text-anchor: middle; }
svg .grid { stroke: var(--line); fill: none; stroke-width: .7; } svg .axis { stroke: var(--axis); fill: none; }
svg .night { stroke: var(--axis); stroke-dasharray: 2 3; fill: none; }
.dot, .many { stroke-linecap: round; fill: none; } .dot { stroke-width: 7; } .many { stroke-width: 3; }
.out { stroke-width: 1.8; fill: none; } .dot:hover, .dot.lit { stroke-width: 12; }
.out:hover, .out.lit { stroke-width: 4; }
.s0 { stroke: var(--c0); } .s1 { stroke: var(--c1); } .s2 { stroke: var(--c2); } .s3 { stroke: var(--c3); }
.s4 { stroke: var(--c4); } .s5 { stroke: var(--c5); } .s6 { stroke: var(--c6); } .s7 { stroke: var(--c7); }
.s8 { stroke: var(--c8); }
.b0 { background: var(--c0); } .b1 { background: var(--c1); } .b2 { background: var(--c2); }
.b3 { background: var(--c3); } .b4 { background: var(--c4); } .b5 { background: var(--c5); }
.b6 { background: var(--c6); } .b7 { background: var(--c7); } .b8 { background: var(--c8); }
.legend span { margin-right: 1em; font-size: .9rem; } .legend i { display: inline-block; width: 10px; height: 10px;
  border-radius: 5px; margin-right: .35em; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.graph .row { fill: transparent; } .graph g:hover .row { fill: var(--line); fill-opacity: .4; }
.graph .edge { fill: none; stroke: var(--axis); stroke-opacity: .65; }
.graph .name { font-weight: 600; font-size: 12px; }
.graph .node { fill: var(--good); } .graph .bar { fill: var(--bar); }
.graph .node.earlier { fill: var(--card); stroke: var(--good); stroke-width: 2; }
.graph .bar.earlier { fill-opacity: .45; } .graph .node.waiting { fill: var(--line); }
.graph .node.unfinished { fill: var(--warn); } .graph .node.failed { fill: var(--bad); }
.graph .state { fill: var(--soft); } .graph .state.failed { fill: var(--bad); font-weight: 600; }
.graph .state.unfinished { fill: var(--warn); }
.wide { overflow-x: auto; max-width: 100%; } .wide > svg, .wide > img { max-width: none; }
.paper { background: #fff; border-radius: 6px; margin: 8px 0; } .paper text { fill: revert-layer; }
table { border-collapse: collapse; font-size: .86rem; margin: .4em 0; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 3px 10px 3px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; } td.n, th.n { text-align: right; } td { max-width: 32em;
  overflow-wrap: anywhere; } td.n { white-space: nowrap; }
details { margin: .6em 0; } summary { cursor: pointer; color: var(--soft); }
.thumbs { display: flex; flex-wrap: wrap; gap: 12px; margin-top: 8px; } .thumb { width: 160px; }
.thumb img { display: block; max-width: 100%; height: auto; border-radius: 4px; }
#tip { position: fixed; z-index: 9; max-width: 320px; padding: 4px 8px; border-radius: 5px; font-size: .84rem;
  background: var(--text); color: var(--card); pointer-events: none; overflow-wrap: anywhere; }
footer { color: var(--soft); font-size: .85rem; padding-bottom: 20px; }
@media print { :root { --page: #fff; --card: #fff; } section { border: 0; padding: 0; }
  figure, tr { break-inside: avoid; } h2 { break-after: avoid; } nav, label { display: none; }
  .wide { overflow: visible; } .wide > svg, .wide > img { max-width: 100%; height: auto; } }
"""

SCRIPT = """
(function () {
  "use strict";
  var tip = document.createElement("div"), lit = [];
  tip.id = "tip"; tip.hidden = true; document.body.appendChild(tip);
  function off() { tip.hidden = true; lit.forEach(function (e) { e.classList.remove("lit"); }); lit = []; }
  function show(event) {
    var at = event.target.closest ? event.target.closest("[data-t]") : null;
    off();
    if (!at) { return; }
    tip.textContent = at.dataset.t; tip.hidden = false;
    var box = tip.getBoundingClientRect(), x = event.clientX + 14, y = event.clientY + 14;
    tip.style.left = Math.max(4, Math.min(x, window.innerWidth - box.width - 8)) + "px";
    tip.style.top = (y + box.height > window.innerHeight ? event.clientY - box.height - 8 : y) + "px";
    if (at.dataset.f !== undefined) {
      lit = Array.prototype.slice.call(document.querySelectorAll('[data-f="' + Number(at.dataset.f) + '"]'));
      lit.forEach(function (e) { e.classList.add("lit"); });
    }
  }
  document.addEventListener("pointerover", show);
  document.addEventListener("pointerdown", show);
  document.addEventListener("scroll", off, { passive: true });
})();
"""
