// What is chosen, and everything that follows from it.

const [meta, corpus] = await Promise.all([block('meta'), block('corpus')]).catch(error => {
  $('#chosen').append(make('p.missing', {}, 'This page needs a newer browser: it cannot unpack its data.'));
  throw error;
});
const state = { text: 0, models: [...meta.shown], data: [], hidden: new Set(), lit: -1, all: false };
let paints = readPaints();
let maps = [];

/** Choose a text; `back` leads the focus to it, for a choice further down the page. */
function choose(i, back = false) {
  state.text = i;
  light(-1);
  showChosen();
  for (const side of [0, 1]) showHits(side);
  showShared();
  showMaps();
  remember();
  if (!back) return;
  $('#chosen').setAttribute('tabindex', '-1');
  $('#chosen').focus({ preventScroll: true });
  $('#find').scrollIntoView({ block: 'start' });
}

async function chooseModel(side, number) {
  state.models[side] = number;
  const data = await block(`model${number}`);
  if (state.models[side] !== number) return; // another choice was faster
  state.data[side] = data;
  for (const each of [0, 1]) showHits(each);
  showShared();
  showMaps();
  remember();
}

/** The address says what is shown, so that it can be kept and sent. */
function remember() {
  const names = state.models.map(number => encodeURIComponent(meta.models[number].name));
  history.replaceState(null, '', `#text=${state.text}&left=${names[0]}&right=${names[1]}`);
}

function recall() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const text = Number(asked.get('text') ?? -1);
  if (Number.isInteger(text) && text >= 0 && text < corpus.texts.length) state.text = text;
  ['left', 'right'].forEach((name, side) => {
    const number = meta.models.findIndex(model => model.name === asked.get(name));
    if (number >= 0) state.models[side] = number;
  });
}

recall();
state.data = await Promise.all(state.models.map(number => block(`model${number}`)));
maps = $$('#maps figure').map((figure, side) => new PointMap(figure, side));
for (const select of $$('.models select')) {
  const side = Number(select.dataset.side);
  select.value = String(state.models[side]);
  select.addEventListener('change', () => chooseModel(side, Number(select.value)));
}
$('#more').addEventListener('click', () => {
  state.all = !state.all;
  for (const side of [0, 1]) showHits(side);
  showShared();
});
$('#form').addEventListener('change', showMaps);
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
  paints = readPaints();
  for (const map of maps) map.draw();
});
startSearch();
showLegend();
choose(state.text);
startTraining();
document.documentElement.dataset.ready = String(Math.round(performance.now()));
