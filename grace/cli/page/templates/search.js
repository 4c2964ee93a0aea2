// The search box: a combobox with a list box, filtered by all words that were typed.

const SHOWN = 50;
let plain = null; // the texts in small letters, made at the first search
let matches = [];
let active = -1;

const input = $('#query');
const list = $('#options');
const kindWanted = () => $('input[name=kind]:checked').value;

function words() {
  return input.value.toLowerCase().split(/\s+/).filter(Boolean);
}

function filter() {
  plain ??= corpus.texts.map((text, i) => `${text} ${labelOf(i)} ${corpus.names[i]}`.toLowerCase());
  const wanted = words();
  const kind = kindWanted();
  matches = [];
  for (let i = 0; i < plain.length; i++) {
    if ((kind === '' || corpus.kinds[i] === Number(kind)) && wanted.every(word => plain[i].includes(word))) matches.push(i);
  }
}

function openList() {
  filter();
  const wanted = words();
  list.replaceChildren(...matches.slice(0, SHOWN).map((i, at) => option(i, at, wanted)));
  list.hidden = !matches.length;
  input.setAttribute('aria-expanded', String(!list.hidden));
  $('#found').textContent = !matches.length
    ? 'No text holds all these words.'
    : matches.length > SHOWN
      ? `${count(matches.length, 'text')}; the first ${SHOWN} are listed.`
      : `${count(matches.length, 'text')}.`;
  activate(-1);
}

function closeList() {
  list.hidden = true;
  list.replaceChildren();
  input.setAttribute('aria-expanded', 'false');
  activate(-1);
}

function option(i, at, wanted) {
  const text = make('p', { dir: 'auto' });
  highlight(text, excerpt(corpus.texts[i], wanted), wanted);
  return make(
    'li',
    { role: 'option', id: `option${at}`, 'aria-selected': 'false', onpointerdown: event => event.preventDefault(), onclick: () => take(at) },
    about(i),
    text,
  );
}

/** The part of a text in which the first word found stands. */
function excerpt(text, wanted) {
  const lower = text.toLowerCase();
  const first = Math.min(...wanted.map(word => lower.indexOf(word)).filter(at => at >= 0), text.length);
  const start = first < 90 || first === text.length ? 0 : first - 40;
  return (start ? '…' : '') + cut(text.slice(start), 240);
}

function highlight(element, text, wanted) {
  const lower = text.toLowerCase();
  let at = 0;
  while (at < text.length) {
    const found = wanted.map(word => [lower.indexOf(word, at), word.length]).filter(([where]) => where >= 0);
    if (!found.length || lower.length !== text.length) break;
    const [where, length] = found.sort((a, b) => a[0] - b[0] || b[1] - a[1])[0];
    element.append(text.slice(at, where), make('mark', {}, text.slice(where, where + length)));
    at = where + length;
  }
  element.append(text.slice(at));
}

function activate(at) {
  list.children[active]?.setAttribute('aria-selected', 'false');
  active = at;
  const chosen = list.children[at];
  if (chosen) {
    chosen.setAttribute('aria-selected', 'true');
    chosen.scrollIntoView({ block: 'nearest' });
    input.setAttribute('aria-activedescendant', chosen.id);
  } else {
    input.removeAttribute('aria-activedescendant');
  }
}

function take(at) {
  const i = matches[at];
  closeList();
  input.value = '';
  $('#found').textContent = '';
  choose(i);
}

function onKey(event) {
  const size = list.children.length;
  const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8 }[event.key];
  if (step && !event.isComposing) {
    event.preventDefault();
    if (list.hidden) return openList();
    const wrap = Math.abs(step) === 1 ? (active + step + (active < 0 && step < 0 ? 1 : 0) + size) % size : Math.min(size - 1, Math.max(0, active + step));
    activate(wrap);
  } else if (event.key === 'Enter' && !event.isComposing && !list.hidden) {
    event.preventDefault();
    take(Math.max(0, active));
  } else if (event.key === 'Escape') {
    if (list.hidden) input.value = '';
    closeList();
    $('#found').textContent = '';
  } else if (event.key === 'Tab' && active >= 0) {
    take(active);
  }
}

function startSearch() {
  input.addEventListener('input', openList);
  input.addEventListener('click', () => list.hidden && openList());
  input.addEventListener('keydown', onKey);
  input.addEventListener('blur', closeList);
  for (const radio of $$('input[name=kind]')) radio.addEventListener('change', () => input.value && (input.focus(), openList()));
}
