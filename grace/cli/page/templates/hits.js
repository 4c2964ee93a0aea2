// The chosen text and its nearest documents under two models.

const LONG = 700; // characters of a text that are laid out before it is opened
const FIRST = 5; // hits that are shown before the others are asked for

function showChosen() {
  const i = state.text;
  const true_ = corpus.true[i] ?? [];
  const parts = [about(i), make('p.whole', { dir: 'auto', tabindex: corpus.texts[i].length > LONG ? 0 : null }, corpus.texts[i])];
  if (true_.length) {
    const words = kindOf(i) === 'query' ? 'Its true document' : 'The query that it answers';
    const links = true_.slice(0, 5).map(j => make('button.link', { type: 'button', dir: 'auto', onclick: () => choose(j) }, cut(corpus.texts[j], 90)));
    parts.push(make('p.meta', {}, make('span', {}, `${words}${true_.length > 1 ? 's' : ''}:`), ...links));
  }
  $('#chosen').replaceChildren(...parts);
}

/** Everything of one half: what the model writes about the chosen text, and the hits. */
function showHits(side) {
  const model = meta.models[state.models[side]];
  const data = state.data[side];
  const half = $(`#nearest .half[data-side="${side}"]`);
  half.querySelector('h3').textContent = model.name;
  half.querySelector('.about').textContent = model.about;
  half.querySelector('.own').replaceChildren(...own(model, data));
  const numbers = data.hits[state.text];
  const other = new Set(ranked(1 - side));
  const rows = numbers.map((j, at) => hit(data, side, j, at, other.has(j)));
  const last = ranked(side).length;
  const end = state.all ? last : Math.min(FIRST, last);
  const far = data.rank[state.text] > end ? rows[Math.min(data.rank[state.text] - 1, rows.length - 1)] : null;
  const gap = far && data.rank[state.text] > end + 1 ? make('li.gap', { 'aria-hidden': 'true' }, '⋮') : null;
  half.querySelector('.hits').replaceChildren(...[...rows.slice(0, end), gap, far].filter(Boolean));
}

/** The hits without a true document that stands below them. */
const ranked = side => state.data[side].hits[state.text].slice(0, meta.hits);

function own(model, data) {
  const i = state.text;
  if (data.missing.includes(i)) return [make('p.none', {}, 'The store holds no embedding of this text by this model.')];
  const parts = [];
  if (data.rationales) {
    const said = make('p.said', { dir: 'auto' });
    writeRationale(said, data.rationales[i]);
    parts.push(make('p.meta', {}, `writes about the chosen text${cutNote(data, i)}`), said);
  } else {
    parts.push(make('p.none', {}, model.writes ? model.no_rationales : 'Embeds the text as it is and writes nothing about it.'));
  }
  if (data.rank[i]) parts.push(make('p.outcome', {}, `True document at rank ${data.rank[i].toLocaleString('en')}`));
  return parts;
}

const cutNote = (data, i) => (data.cut.includes(i) ? ', cut off at the token limit' : '');

function hit(data, side, j, at, both) {
  const i = state.text;
  const rank = at < meta.hits ? at + 1 : data.rank[i];
  const effects = (data.effects[i] ?? []).find(([where]) => where === at);
  const body = make('p.text.clamp', { dir: 'auto' }, cut(corpus.texts[j], LONG));
  const said = data.rationales ? make('p.said.clamp', { dir: 'auto' }) : null;
  if (said) writeRationale(said, cut(data.rationales[j], LONG), strongest(data, j, effects));
  const why = make('details', {}, make('summary', {}, effects ? 'Why it is near' : 'Whole text'), make('div.why'));
  why.addEventListener('toggle', () => opened(why, body, said, data, j, effects));
  const badges = [(corpus.true[i] ?? []).includes(j) && kindOf(i) === 'query' ? make('span.badge', {}, 'true document') : null, both ? make('span.badge.both', {}, 'in both') : null];
  const look = make('button.link', { type: 'button', onclick: () => choose(j, true) }, 'Look it up');
  const lit = on => light(on ? j : -1);
  return make(
    'li',
    { 'data-text': j, onpointerenter: () => lit(true), onpointerleave: () => lit(false), onfocusin: () => lit(true), onfocusout: () => lit(false) },
    make('span.rank', { title: `rank ${rank}` }, String(rank)),
    make('div', {}, make('p.meta', {}, make('span.score', { title: 'cosine' }, score(data.scores[i][at])), labelled(j), ...badges), body, said, make('div.acts', {}, why, look)),
  );
}

/** Where the sentence of the hit's rationale stands that carries most, if one carries. */
function strongest(data, j, effects) {
  const spans = data.spans[j];
  if (!effects || !spans) return [];
  const first = spans[0].length / 2;
  const amounts = effects[2].slice(first);
  const best = amounts.indexOf(Math.max(...amounts));
  return amounts.length && amounts[best] > 0 ? [[spans[1][2 * best], spans[1][2 * best + 1]]] : [];
}

function opened(why, body, said, data, j, effects) {
  body.classList.toggle('clamp', !why.open);
  said?.classList.toggle('clamp', !why.open);
  body.textContent = why.open ? corpus.texts[j] : cut(corpus.texts[j], LONG);
  if (said) writeRationale(said, why.open ? data.rationales[j] : cut(data.rationales[j], LONG), strongest(data, j, effects));
  const inside = why.querySelector('.why');
  if (!why.open || inside.childElementCount) return;
  if (!effects) {
    const reason = data.without_effects || 'the pair is not among those that were explained.';
    inside.append(make('p.none', {}, `No sentence's effect was computed: ${reason}`));
    return;
  }
  inside.append(make('h4', {}, 'Sentences of this document'), effectList(data, j, effects[2]));
  inside.append(make('h4', {}, 'Sentences of the chosen text'), effectList(data, state.text, effects[1]));
}

function effectList(data, i, amounts) {
  const [text, rationale] = data.spans[i];
  const parts = [...pieces(corpus.texts[i], text, 'text'), ...pieces(data.rationales?.[i] ?? '', rationale, 'rationale')];
  const most = Math.max(...amounts.map(Math.abs), 1);
  if (!parts.length) return make('p.none', {}, 'It has no sentence.');
  return make('ul.effects', {}, ...parts.map(([part, kind], at) => effect(part, kind, amounts[at], most)));
}

function pieces(whole, spans, kind) {
  const found = [];
  for (let at = 0; at < spans.length; at += 2) found.push([whole.slice(spans[at], spans[at + 1]), kind]);
  return found;
}

function effect(part, kind, amount, most) {
  const sign = amount > 4 ? 'for' : amount < -4 ? 'against' : 'nil';
  return make(
    `li.${sign}`,
    {},
    make('span.amount', {}, signed(Math.abs(amount) > 4 ? amount : 0)),
    bar(amount / most),
    make(`span.of-${kind}${part.length > LONG ? '.scrolled' : ''}`, { dir: 'auto', title: kind === 'rationale' ? 'from the rationale' : 'from the text' }, part),
  );
}

function bar(share) {
  const space = 'http://www.w3.org/2000/svg';
  const drawing = document.createElementNS(space, 'svg');
  const add = (name, attributes) => {
    const shape = document.createElementNS(space, name);
    for (const [key, value] of Object.entries(attributes)) shape.setAttribute(key, value);
    drawing.append(shape);
  };
  for (const [key, value] of Object.entries({ viewBox: '-25 0 50 10', preserveAspectRatio: 'none', 'aria-hidden': 'true' })) drawing.setAttribute(key, value);
  add('rect', { x: Math.min(0, 25 * share), y: 1, width: Math.abs(25 * share), height: 8 });
  add('line', { x1: 0, x2: 0, y1: 0, y2: 10 });
  return drawing;
}

function showShared() {
  $('#more').hidden = Math.max(ranked(0).length, ranked(1).length) <= FIRST;
  $('#more').textContent = state.all ? `Show the first ${FIRST} only` : `Show all ${meta.hits}`;
  const [one, two] = [0, 1].map(ranked);
  const names = state.models.map(number => meta.models[number].name);
  const both = one.filter(j => two.includes(j)).length;
  $('#shared').textContent =
    state.models[0] === state.models[1]
      ? 'Both halves show the same model.'
      : `${both} of the ${Math.max(one.length, two.length)} nearest documents are the same for ${names[0]} and ${names[1]}.`;
}
