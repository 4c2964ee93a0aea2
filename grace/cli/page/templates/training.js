// How the rationale of one text changed from training step to training step.

const MOST = 2000; // words of a rationale up to which two are compared

function startTraining() {
  if (!meta.cases) return;
  const texts = meta.cases.cases;
  $('#case').replaceChildren(...texts.map((one, at) => make('option', { value: at }, `${one.kind === 'query' ? 'Query' : 'Document'}: ${cut(one.text, 60)}`)));
  $('#case').addEventListener('change', () => showCase());
  $('#step').addEventListener('input', () => showStep());
  showCase();
}

const chosenCase = () => meta.cases.cases[Number($('#case').value)];
const stepName = one => (one.step === null ? 'end of training' : one.step === 0 ? 'step 0, the backbone' : `step ${one.step.toLocaleString('en')}`);
const size = one => `${count(one.tokens, 'token')}${one.truncated ? ', cut off at the limit' : one.well_formed ? '' : ', not well formed'}`;

function showCase() {
  const one = chosenCase();
  const slider = $('#step');
  slider.max = String(Math.max(0, one.steps.length - 1));
  slider.value = slider.max;
  slider.disabled = one.steps.length < 2;
  $('#ticks').replaceChildren(...one.steps.map((_, at) => make('option', { value: at })));
  $('#case-kind').replaceChildren(one.kind === 'query' ? 'Query' : 'Document', make('small', {}, ` ${one.id}`));
  $('#case-text').textContent = one.text;
  const rows = [...one.steps.map(step => [`${meta.cases.run}, ${stepName(step)}`, step]), ...one.others.map(other => [`${other.run}, end of training`, other])];
  $('#all-steps dl').replaceChildren(...rows.flatMap(([name, step]) => {
    const said = make('dd', { dir: 'auto' });
    writeRationale(said, step.text);
    return [make('dt', {}, name, make('small', {}, ` · ${size(step)}`)), said];
  }));
  showStep();
}

function showStep() {
  const { steps } = chosenCase();
  const at = Number($('#step').value);
  const one = steps[at];
  if (!one) return;
  $('#at').textContent = one.step === null ? 'end of training' : `step ${one.step.toLocaleString('en')}`;
  $('#step').setAttribute('aria-valuetext', stepName(one));
  $('#case-step').replaceChildren(`${meta.cases.run}, ${stepName(one)}`, make('small', {}, ` ${size(one)}`));
  writeRationale($('#case-said'), one.text, at ? fresh(steps[at - 1].text, one.text) : []);
}

/** [start, end] of the words of `now` that are not in the longest common sequence of words with `before`. */
function fresh(before, now) {
  const split = text => [...text.matchAll(/\S+/g)].slice(0, MOST);
  const [old, young] = [split(before), split(now)];
  const length = Array.from({ length: old.length + 1 }, () => new Uint16Array(young.length + 1));
  for (let i = old.length - 1; i >= 0; i--) {
    for (let j = young.length - 1; j >= 0; j--) {
      length[i][j] = old[i][0] === young[j][0] ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
    }
  }
  const found = [];
  for (let i = 0, j = 0; j < young.length; ) {
    if (i < old.length && old[i][0] === young[j][0]) i++, j++;
    else if (i < old.length && length[i + 1][j] >= length[i][j + 1]) i++;
    else found.push([young[j].index, young[j].index + young[j++][0].length]);
  }
  return found.filter(([start, end]) => !/^<\/?think>$/.test(now.slice(start, end)));
}
