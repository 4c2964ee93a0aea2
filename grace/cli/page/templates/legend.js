// What both maps share: colours, the text that is pointed at, and which labels are drawn.

/** The colours of the style sheet, which a canvas cannot look up. */
function readPaints() {
  const style = getComputedStyle(document.documentElement);
  const value = name => style.getPropertyValue(name).trim();
  return { ink: value('--ink'), ground: value('--ground'), accent: value('--accent'), font: value('--sans'), labels: [...Array(LABELS + 1).keys()].map(number => value(`--c${number}`)) };
}

/** Mark text i on both maps and in the lists; `where` on the screen its words are shown. */
function light(i, where = null) {
  const tip = $('#tip');
  tip.hidden = !where;
  if (where) {
    tip.replaceChildren(about(i), make('p', { dir: 'auto' }, cut(corpus.texts[i], 260)));
    const box = tip.getBoundingClientRect();
    const room = [document.documentElement.clientWidth - box.width - 8, innerHeight - box.height - 8];
    const below = where[1] + 18 <= room[1] ? where[1] + 18 : Math.max(8, where[1] - box.height - 14);
    tip.style.left = `${Math.max(8, Math.min(where[0] + 14, room[0]))}px`;
    tip.style.top = `${below}px`;
  }
  if (i === state.lit) return;
  state.lit = i;
  for (const row of $$('.hits > li')) row.classList.toggle('lit', row.dataset.text === String(i));
  for (const map of maps) map.draw();
}

function showLegend() {
  const sizes = Array(LABELS + 1).fill(0);
  for (let i = 0; i < corpus.texts.length; i++) sizes[group(i)]++;
  const numbers = [...sizes.keys()].filter(number => sizes[number]);
  const name = number => (number < LABELS ? meta.labels[number] : meta.labels.length === LABELS + 1 ? meta.labels[LABELS] : `${meta.labels.length - LABELS} other labels`);
  const buttons = numbers.length < 2 ? [] : numbers.map(number =>
    make('button', { type: 'button', 'aria-pressed': 'true', 'data-group': number, onclick: () => toggle([number]) }, swatch(number), name(number) || 'no label', make('small', {}, sizes[number].toLocaleString('en'))));
  if (buttons.length) buttons.push(make('button.all', { type: 'button', onclick: () => toggle(numbers) }, 'none'));
  $('#labels').replaceChildren(...buttons);
}

/** One label on or off; all of them on where one is off, else off. */
function toggle(numbers) {
  const on = numbers.length > 1 ? state.hidden.size > 0 : state.hidden.has(numbers[0]);
  for (const number of numbers) on ? state.hidden.delete(number) : state.hidden.add(number);
  for (const button of $$('#labels [data-group]')) button.setAttribute('aria-pressed', String(!state.hidden.has(Number(button.dataset.group))));
  $('#labels .all').textContent = state.hidden.size ? 'all' : 'none';
  showMaps();
}

function showMaps() {
  const form = $('#form').value;
  for (const map of maps) {
    const data = state.data[map.side];
    const model = meta.models[state.models[map.side]];
    const near = form === 'near' && data.near;
    map.show(near || data.main);
    const shown = corpus.texts.reduce((sum, _, i) => sum + (map.points[2 * i] >= 0 && !state.hidden.has(group(i)) ? 1 : 0), 0);
    const drawn = near ? 't-SNE' : `two main components, ${(100 * model.variance).toFixed(1)} % of the variance`;
    const excuse = form === 'near' && !near ? ' (too few texts for t-SNE)' : '';
    const of = shown === corpus.texts.length ? '' : ` of ${corpus.texts.length.toLocaleString('en')}`;
    map.caption.replaceChildren(make('b', {}, model.name), ` · ${drawn}${excuse} · ${shown.toLocaleString('en')}${of} texts`);
    map.box.setAttribute('aria-label', `Map of the embeddings by ${model.name}, ${shown} texts`);
  }
}
