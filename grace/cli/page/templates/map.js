// A map: points on a canvas that can be moved, enlarged, pointed at and walked through.

const SIDE = 4095;
const REACH = 14; // pixels from the pointer within which a point is meant

class PointMap {
  constructor(figure, side) {
    this.side = side;
    this.box = figure.querySelector('.map');
    this.canvas = figure.querySelector('canvas');
    this.caption = figure.querySelector('figcaption');
    this.context = this.canvas.getContext('2d');
    this.pointers = new Map();
    this.reset();
    new ResizeObserver(() => this.draw()).observe(this.box);
    this.listen(figure);
  }

  reset() {
    this.scale = 1;
    this.x = this.y = SIDE / 2; // what stands in the middle
  }

  /** Points as [x, y] pairs of whole numbers, x < 0 where a text has no embedding. */
  show(points) {
    this.points = points;
    this.draw();
  }

  get unit() {
    return (this.scale * (Math.min(this.box.clientWidth, this.box.clientHeight) - 28)) / SIDE;
  }

  at(i) {
    const [x, y] = [this.points[2 * i], this.points[2 * i + 1]];
    return [(x - this.x) * this.unit + this.box.clientWidth / 2, (y - this.y) * this.unit + this.box.clientHeight / 2];
  }

  drawn(i) {
    return this.points[2 * i] >= 0 && (!state.hidden.has(group(i)) || i === state.text || this.ranks.has(i));
  }

  draw() {
    if (!this.points || this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = 0;
      this.paint();
    });
  }

  paint() {
    const ratio = devicePixelRatio || 1;
    const [width, height] = [this.box.clientWidth, this.box.clientHeight];
    if (this.canvas.width !== Math.round(width * ratio) || this.canvas.height !== Math.round(height * ratio)) {
      [this.canvas.width, this.canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
    }
    const context = this.context;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    this.ranks = new Map(state.data[this.side].hits[state.text].map((j, at) => [j, at < meta.hits ? at + 1 : state.data[this.side].rank[state.text]]));
    const size = Math.min(5, (corpus.texts.length > 3000 ? 1.7 : 2.1) * Math.sqrt(this.scale));
    const quiet = state.text >= 0 ? 0.62 : 0.85;
    context.lineWidth = 1.2;
    context.globalAlpha = quiet;
    for (let i = 0; i < corpus.texts.length; i++) {
      if (!this.drawn(i) || this.ranks.has(i) || i === state.text) continue;
      const [x, y] = this.at(i);
      if (x < -9 || y < -9 || x > width + 9 || y > height + 9) continue;
      this.dot(x, y, size, i);
    }
    context.globalAlpha = 1;
    this.paintChosen(size);
  }

  dot(x, y, size, i) {
    const context = this.context;
    context.beginPath();
    context.arc(x, y, size, 0, 7);
    if (corpus.kinds[i] === QUERY) {
      context.strokeStyle = paints.labels[group(i)];
      context.stroke();
    } else {
      context.fillStyle = paints.labels[group(i)];
      context.fill();
    }
  }

  paintChosen(size) {
    const context = this.context;
    if (this.points[2 * state.text] >= 0) {
      const from = this.at(state.text);
      context.strokeStyle = paints.ink;
      context.globalAlpha = 0.35;
      context.lineWidth = 1;
      for (const j of this.ranks.keys()) {
        context.beginPath();
        context.moveTo(...from);
        context.lineTo(...this.at(j));
        context.stroke();
      }
      context.globalAlpha = 1;
    }
    context.font = `600 11px ${paints.font}`;
    for (const j of this.ranks.keys()) this.ringed(j, size + 2.5, corpus.true[state.text]?.includes(j));
    if (this.points[2 * state.text] >= 0) this.ringed(state.text, size + 4.5, false);
    for (const [j, rank] of this.ranks) this.numbered(j, size + 5.5, String(rank));
    if (state.lit >= 0 && this.points[2 * state.lit] >= 0) {
      const [x, y] = this.at(state.lit);
      context.strokeStyle = paints.accent;
      context.lineWidth = 2.5;
      context.beginPath();
      context.arc(x, y, size + 8, 0, 7);
      context.stroke();
    }
  }

  ringed(i, size, square) {
    const context = this.context;
    const [x, y] = this.at(i);
    context.beginPath();
    if (square) context.rect(x - size, y - size, 2 * size, 2 * size);
    else context.arc(x, y, size, 0, 7);
    context.fillStyle = paints.labels[group(i)];
    context.fill();
    context.lineWidth = i === state.text ? 3 : 1.6;
    context.strokeStyle = paints.ink;
    context.stroke();
  }

  numbered(i, aside, words) {
    const context = this.context;
    const [x, y] = this.at(i);
    context.lineWidth = 3;
    context.lineJoin = 'round';
    context.strokeStyle = paints.ground;
    context.strokeText(words, x + aside, y + 4);
    context.fillStyle = paints.ink;
    context.fillText(words, x + aside, y + 4);
  }

  nearest(x, y) {
    let [best, least] = [-1, REACH * REACH];
    for (let i = 0; i < corpus.texts.length; i++) {
      if (!this.drawn(i)) continue;
      const [px, py] = this.at(i);
      const distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance < least) [best, least] = [i, distance];
    }
    return best;
  }

  /** The next text in a direction: the nearest within 45 degrees of it. */
  beyond(from, dx, dy) {
    const [x, y] = this.at(from);
    let [best, least] = [-1, Infinity];
    for (let i = 0; i < corpus.texts.length; i++) {
      if (i === from || !this.drawn(i)) continue;
      const [px, py] = this.at(i);
      const [along, aside] = [(px - x) * dx + (py - y) * dy, Math.abs((px - x) * dy) + Math.abs((py - y) * dx)];
      if (along > 0 && along >= aside && along + aside < least) [best, least] = [i, along + aside];
    }
    return best;
  }

  zoom(factor, x = this.box.clientWidth / 2, y = this.box.clientHeight / 2) {
    const [dx, dy] = [x - this.box.clientWidth / 2, y - this.box.clientHeight / 2];
    const before = this.unit;
    this.scale = Math.min(40, Math.max(0.7, this.scale * factor));
    this.x += dx / before - dx / this.unit;
    this.y += dy / before - dy / this.unit;
    this.draw();
  }

  move(dx, dy) {
    this.x -= dx / this.unit;
    this.y -= dy / this.unit;
    this.draw();
  }

  listen(figure) {
    const where = event => [event.clientX - this.box.getBoundingClientRect().left, event.clientY - this.box.getBoundingClientRect().top];
    const acts = { in: () => this.zoom(1.5), out: () => this.zoom(1 / 1.5), all: () => (this.reset(), this.draw()) };
    for (const button of figure.querySelectorAll('[data-zoom]')) button.addEventListener('click', acts[button.dataset.zoom]);
    const { canvas } = this;
    canvas.addEventListener('pointerdown', event => {
      canvas.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, where(event));
      this.moved = this.pointers.size > 1 ? Infinity : 0;
    });
    canvas.addEventListener('pointermove', event => (this.pointers.has(event.pointerId) ? this.drag(event, where(event)) : this.hover(event, where(event))));
    canvas.addEventListener('pointerup', event => {
      const tapped = this.pointers.delete(event.pointerId) && this.moved < 5;
      canvas.classList.remove('moving');
      const i = tapped ? this.nearest(...where(event)) : -1;
      if (i >= 0) choose(i);
    });
    canvas.addEventListener('pointercancel', event => this.pointers.delete(event.pointerId));
    canvas.addEventListener('pointerleave', () => light(-1));
    canvas.addEventListener('wheel', event => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY / 300), ...where(event));
    }, { passive: false });
    this.box.addEventListener('keydown', event => event.target === this.box && this.key(event));
    this.box.addEventListener('blur', () => light(-1));
  }

  drag(event, to) {
    const from = this.pointers.get(event.pointerId);
    const others = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, point]) => point);
    this.pointers.set(event.pointerId, to);
    if (others.length) {
      const [pinned] = others;
      this.zoom(Math.hypot(to[0] - pinned[0], to[1] - pinned[1]) / Math.max(1, Math.hypot(from[0] - pinned[0], from[1] - pinned[1])), ...pinned);
      return;
    }
    this.moved += Math.hypot(to[0] - from[0], to[1] - from[1]);
    if (this.moved >= 5) this.canvas.classList.add('moving');
    this.move(to[0] - from[0], to[1] - from[1]);
  }

  hover(event, [x, y]) {
    const i = this.nearest(x, y);
    this.canvas.classList.toggle('on', i >= 0);
    light(i, i >= 0 ? [event.clientX, event.clientY] : null);
  }

  key(event) {
    const direction = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
    if (direction && event.shiftKey) this.move(...direction.map(part => -60 * part));
    else if (direction) this.step(direction);
    else if (event.key === 'Enter' && state.lit >= 0) choose(state.lit);
    else if (event.key === '+' || event.key === '=') this.zoom(1.5);
    else if (event.key === '-') this.zoom(1 / 1.5);
    else if (event.key === '0') this.reset(), this.draw();
    else if (event.key === 'Escape') light(-1);
    else return;
    event.preventDefault();
  }

  step(direction) {
    const from = state.lit >= 0 && this.points[2 * state.lit] >= 0 ? state.lit : state.text;
    const i = this.points[2 * from] >= 0 ? this.beyond(from, ...direction) : this.points.findIndex((x, at) => at % 2 === 0 && x >= 0) / 2;
    if (i < 0) return;
    const [x, y] = this.at(i);
    const edge = this.box.getBoundingClientRect();
    if (x < 0 || y < 0 || x > edge.width || y > edge.height) [this.x, this.y] = [this.points[2 * i], this.points[2 * i + 1]];
    const [nx, ny] = this.at(i);
    light(i, [edge.left + nx, edge.top + ny]);
    $('#pointed').textContent = `${kindOf(i)}, ${labelOf(i)}: ${cut(corpus.texts[i], 200)}`;
    this.draw();
  }
}
