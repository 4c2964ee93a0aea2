// The page's data, unpacked when it is asked for, and how text becomes elements: always as text, never as HTML.

const QUERY = 0;
const $ = selector => document.querySelector(selector);
const $$ = selector => [...document.querySelectorAll(selector)];
const unpacked = new Map();

function block(name) {
  if (!unpacked.has(name)) unpacked.set(name, unpack(document.getElementById(name)));
  return unpacked.get(name);
}

async function unpack(element) {
  const bytes = Uint8Array.from(atob(element.textContent), character => character.charCodeAt(0));
  element.textContent = '';
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
  return new Response(stream).json();
}

/** An element: name.class, its attributes, its children (elements or text). */
function make(kind, attributes = {}, ...children) {
  const [name, ...classes] = kind.split('.');
  const element = document.createElement(name);
  if (classes.length) element.className = classes.join(' ');
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith('on')) element.addEventListener(key.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(key, value === true ? '' : value);
  }
  element.append(...children.filter(child => child !== null));
  return element;
}

const LABELS = 9; // labels with a colour of their own; the others share one
const group = i => Math.min(corpus.labels[i], LABELS);
const colour = number => `var(--c${number})`;
const labelOf = i => meta.labels[corpus.labels[i]];
const kindOf = i => (corpus.kinds[i] === QUERY ? 'query' : 'document');
const count = (number, word) => `${number.toLocaleString('en')} ${word}${number === 1 ? '' : 's'}`;
const cut = (text, length) => (text.length <= length ? text : `${[...text.slice(0, length)].slice(0, -1).join('')}…`);
const score = number => (number / 1e4).toFixed(3);
const signed = number => (number > 0 ? '+' : number < 0 ? '−' : '±') + (Math.abs(number) / 1e4).toFixed(3);

function swatch(number) {
  const dot = make('i.swatch');
  dot.style.background = colour(number);
  return dot;
}

function labelled(i) {
  return labelOf(i) ? make('span', {}, swatch(group(i)), labelOf(i)) : null;
}

/** Kind, label and name of a text, in one line. */
function about(i) {
  const name = corpus.names[i];
  return make('p.meta', {}, make('span', {}, kindOf(i) === 'query' ? 'Query' : 'Document'), labelled(i), name ? make('span', {}, name) : null);
}

/** A rationale into `element`, its marks of thought set back; `ranges` ([start, end] pairs) are marked. */
function writeRationale(element, text, ranges = []) {
  element.textContent = '';
  const borders = [...text.matchAll(/<\/?think>/g)].map(found => [found.index, found.index + found[0].length, 'span.tag']);
  const all = [...borders, ...ranges.map(([start, end]) => [start, end, 'mark'])].sort((a, b) => a[0] - b[0]);
  let at = 0;
  for (const [start, end, kind] of all) {
    if (start < at) continue;
    element.append(text.slice(at, start), make(kind, {}, text.slice(start, end)));
    at = end;
  }
  element.append(text.slice(at));
}
