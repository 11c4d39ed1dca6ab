// Tiles that the next step of zoom will show, asked for while nothing else is: the browser keeps them.

const REST = 150, AT_A_TIME = 2, STEP = 1.4;

export class Ahead {
  // `where` says what is looked at, or null: { key, factor, zoom, box, pointer, tile, address }, in tiles' pixels of
  // factor 1 from the top left; `busy` whether tiles that are to be seen are still on their way.
  constructor(where, busy) {
    this.where = where;
    this.busy = busy;
    this.done = new Set();
    this.key = "";
    this.turn = 0;
  }

  // The view or the pointer has moved: what was begun for the view before may end.
  moved() {
    this.turn += 1;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.begin(this.turn), REST);
  }

  begin(turn) {
    if (turn !== this.turn) return;
    if (this.busy()) {
      this.timer = setTimeout(() => this.begin(turn), REST);
      return;
    }
    const at = this.where();
    if (!at || at.factor < 2) return;
    if (at.key !== this.key) {
      this.key = at.key;
      this.done.clear();
    }
    const wanted = ahead(at).filter((address) => !this.done.has(address));
    for (let i = 0; i < AT_A_TIME; i += 1) this.fetch(wanted, turn);
  }

  async fetch(wanted, turn) {
    while (wanted.length && turn === this.turn && !this.busy()) {
      const address = wanted.shift();
      try {
        const answer = await fetch(address, { priority: "low" });
        await answer.blob();
        if (answer.ok) this.done.add(address);
      } catch {
        return;
      }
    }
  }
}

// Addresses of the tiles of the next finer view, those at the pointer first.
function ahead({ factor, zoom, box, pointer, tile, size, address }) {
  const times = Math.max(STEP, 1.001 / (factor * zoom)), finer = factor / 2, side = tile * finer;
  const near = (edge, p) => p + (edge - p) / times;
  const range = (low, high, p, n) => [
    Math.max(0, Math.floor(near(low, p) / side)), Math.min(Math.ceil(n / side), Math.ceil(near(high, p) / side))];
  const [left, right] = range(box.left, box.right, pointer.x, size.width);
  const [top, bottom] = range(box.top, box.bottom, pointer.y, size.height);
  const found = [];
  for (let row = top; row < bottom; row += 1) {
    for (let column = left; column < right; column += 1) {
      found.push([Math.hypot((column + 0.5) * side - pointer.x, (row + 0.5) * side - pointer.y), address(finer, column, row)]);
    }
  }
  return found.sort((a, b) => a[0] - b[0]).map(([, a]) => a);
}
