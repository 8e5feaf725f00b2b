// The playground: the form on the left, the job it started on the right (`job.js`).

import * as api from './api.js';
import { Job, idInAddress } from './job.js';
import { $, bytes, calm, count, el, header, problem } from './ui.js';

/** Fields that go to the node under their own name. */
const FIELDS = [
  'num_frames', 'fps', 'num_inference_steps', 'guidance_scale', 'guidance_scale_2', 'flow_shift', 'boundary_ratio',
  'scheduler', 'noise_source', 'crf', 'priority',
];

/** Names in errors that are not the name of an input here. */
const ALIASES = {
  input_reference: 'image', images: 'image', image_b64: 'image', frames: 'num_frames', seconds: 'num_frames',
  steps: 'num_inference_steps', resolution: 'size', prompts: 'prompt',
};

/** Pictures that come with the node, of the size that its own small checkpoint was trained for. */
const EXAMPLES = {
  width: 160,
  height: 96,
  list: [
    ['example-1.png', 'The red star moves to the right, the camera stays still'],
    ['example-2.png', 'The camera pans to the right, a yellow heart in front of a brick wall'],
    ['example-3.png', 'A purple ring moves up, and the light gets darker'],
  ],
};

let limits = {};
let tasks = ['text_to_video', 'image_to_video'];
let image = null; // { file, address }
let sizeTouched = false;
let attempt = null; // what was sent without an answer: sent again as the same request, it makes no second job

const form = $('form');
const job = new Job({ again: () => form.requestSubmit(), reuse: fill });

// First frame

function showImage(file) {
  clearProblem();
  if (!/^image\//.test(file.type)) return fieldProblem('image', `${file.name || 'This'} is not a picture.`);
  if (limits.max_image_bytes && file.size > limits.max_image_bytes) {
    const limit = bytes(limits.max_image_bytes);
    return fieldProblem('image', `The picture has ${bytes(file.size)}; the node takes up to ${limit}.`);
  }
  removeImage();
  const address = URL.createObjectURL(file);
  const preview = el('img', { src: address, alt: 'First frame' });
  image = { file, address };
  $('drop').classList.add('filled');
  $('drop').append(preview);
  $('image-foot').hidden = false;
  $('image-about').textContent = `${file.name || 'Pasted picture'}, ${bytes(file.size)}`;
  preview.addEventListener('load', () => {
    if (image?.file !== file) return;
    $('image-about').textContent = `${preview.naturalWidth} × ${preview.naturalHeight}, ${bytes(file.size)}`;
    turnSize(preview.naturalHeight > preview.naturalWidth);
  });
  preview.addEventListener('error', () => {
    if (image?.file !== file) return;
    removeImage();
    fieldProblem('image', 'This picture cannot be read; PNG, JPEG and WebP work.');
  });
}

function removeImage() {
  if (!image) return;
  // The running job may still show it, so its address is not given back.
  image = null;
  $('image').value = '';
  $('drop').classList.remove('filled');
  $('drop').querySelector('img')?.remove();
  $('image-foot').hidden = true;
}

/** The size follows the picture's orientation until someone chooses one. */
function turnSize(upright) {
  const [width, height] = $('size').value.split('x').map(Number);
  if (sizeTouched || !width || width === height || upright === height > width) return;
  const turned = `${height}x${width}`;
  if ([...$('size').options].some((option) => option.value === turned)) $('size').value = turned;
}

function watchPictures() {
  const drop = $('drop');
  $('image').addEventListener('change', () => {
    const [file] = $('image').files;
    if (file) showImage(file);
  });
  $('image-remove').addEventListener('click', () => {
    removeImage();
    $('image').focus();
  });
  // The whole page takes the drop: a picture let go beside the zone would otherwise replace the page.
  document.addEventListener('dragover', (event) => {
    event.preventDefault();
    drop.classList.add('over');
  });
  document.addEventListener('dragleave', (event) => {
    if (!event.relatedTarget) drop.classList.remove('over');
  });
  document.addEventListener('drop', (event) => {
    event.preventDefault();
    drop.classList.remove('over');
    const [file] = event.dataTransfer.files;
    if (file) showImage(file);
  });
  document.addEventListener('paste', (event) => {
    const file = [...event.clipboardData.files].find((candidate) => candidate.type.startsWith('image/'));
    if (!file) return;
    event.preventDefault();
    showImage(file);
  });
}

// Examples

/** Offered where the model makes clips of their size unless told otherwise: enlarged, they would show nothing. */
function offerExamples(defaults) {
  const fit = defaults.width === EXAMPLES.width && defaults.height === EXAMPLES.height;
  $('examples').hidden = !fit || !tasks.includes('image_to_video');
  $('examples').replaceChildren(...(fit ? EXAMPLES.list : []).map(([name, prompt]) => {
    const { width, height } = EXAMPLES;
    const picture = el('img', { src: `/assets/${name}`, alt: '', width, height });
    const button = el('button', { type: 'button', class: 'example', title: prompt, 'aria-label': `Example: ${prompt}` }, picture);
    button.addEventListener('click', () => takeExample(name, prompt));
    return button;
  }));
}

async function takeExample(name, prompt) {
  try {
    const answer = await fetch(`/assets/${name}`);
    if (!answer.ok) throw new Error(`The picture cannot be fetched (${answer.status}).`);
    showImage(new File([await answer.blob()], name, { type: 'image/png' }));
    $('prompt').value = prompt;
    refresh();
  } catch (error) {
    fieldProblem('image', error.message);
  }
}

// Form

function sizes(kind, defaults) {
  const [tall, square] = kind === 'ti2v-5b' ? [704, 640] : [720, 624];
  const known = [[832, 480], [480, 832], [1280, tall], [tall, 1280], [square, square], [512, 288], [288, 512]];
  const own = [defaults.width, defaults.height];
  if (own[0] && !known.some(([w, h]) => w === own[0] && h === own[1])) known.unshift(own);
  return known.filter(([w, h]) => !limits.max_pixels || w * h <= limits.max_pixels);
}

function sizeOption([width, height], defaults) {
  const shape = width === height ? 'square' : width > height ? 'landscape' : 'portrait';
  const own = width === defaults.width && height === defaults.height;
  return el('option', { value: `${width}x${height}`, selected: own }, `${width} × ${height}, ${shape}${own ? ' (default)' : ''}`);
}

function build(model) {
  const defaults = model?.defaults ?? {};
  tasks = model?.tasks ?? tasks;
  $('size').replaceChildren(
    ...sizes(model?.kind, defaults).map((size) => sizeOption(size, defaults)),
    el('option', { value: 'custom' }, 'Another size'));
  $('scheduler').replaceChildren(
    el('option', { value: '' }, `Node's own${defaults.scheduler ? ` (${defaults.scheduler})` : ''}`),
    ...['unipc', 'euler', 'dpmpp'].map((name) => el('option', { value: name }, name)));
  for (const name of ['num_frames', 'fps', 'num_inference_steps', 'guidance_scale', 'negative_prompt']) {
    if ($(name).value === '' && defaults[name] !== undefined && defaults[name] !== null) $(name).value = defaults[name];
  }
  for (const name of ['flow_shift', 'guidance_scale_2', 'boundary_ratio', 'crf', 'noise_source']) {
    $(name).placeholder = defaults[name] ?? '';
  }
  for (const field of document.querySelectorAll('[data-two-experts]')) field.hidden = !/a14b/.test(model?.kind ?? '');
  $('image-field').hidden = !tasks.includes('image_to_video');
  $('image-optional').textContent = tasks.includes('text_to_video') ? '(optional)' : '';
  if (limits.max_image_bytes) $('image-limits').textContent = `PNG, JPEG or WebP, up to ${bytes(limits.max_image_bytes)}`;
  if (limits.max_frames) $('num_frames').max = limits.max_frames;
  if (limits.max_steps) $('num_inference_steps').max = limits.max_steps;
  offerExamples(defaults);
  refresh();
}

function refresh() {
  const length = [...$('prompt').value].length;
  const limit = limits.max_prompt_chars;
  $('prompt-count').textContent = limit ? `${count(length)} / ${count(limit)}` : count(length);
  $('custom-size').hidden = $('size').value !== 'custom';
  const [frames, fps] = [Number($('num_frames').value), Number($('fps').value)];
  $('length').textContent = frames > 0 && fps > 0
    ? `${(frames / fps).toFixed(2)} seconds long. Counts other than 4n + 1 are rounded.`
    : 'Counts other than 4n + 1 are rounded.';
  const random = $('seed-random').checked;
  $('seed').disabled = random;
  $('seed').placeholder = random ? 'A new one each time' : '42';
}

/** Puts a job's parameters into the form. */
function fill(parameters) {
  for (const name of ['prompt', 'negative_prompt', ...FIELDS]) {
    if (parameters[name] !== undefined && parameters[name] !== null) $(name).value = parameters[name];
  }
  const size = `${parameters.width}x${parameters.height}`;
  const listed = [...$('size').options].some((option) => option.value === size);
  $('size').value = listed ? size : 'custom';
  $('width').value = parameters.width;
  $('height').value = parameters.height;
  sizeTouched = true;
  $('seed').value = parameters.seed ?? '';
  $('seed-random').checked = parameters.seed === undefined;
  refresh();
  $('prompt').focus();
  form.scrollIntoView({ behavior: calm() ? 'auto' : 'smooth', block: 'start' });
}

/** What the form says, by field name; the seed is missing where it is left to chance. */
function read() {
  const fields = new Map([['prompt', $('prompt').value]]);
  if (tasks.includes('image_to_video') && image) fields.set('input_reference', image.file);
  const custom = $('size').value === 'custom';
  const size = custom ? `${$('width').value}x${$('height').value}` : $('size').value;
  if (size) fields.set('size', size);
  fields.set('negative_prompt', $('negative_prompt').value);
  for (const name of FIELDS) {
    const value = $(name).value.trim();
    if (value !== '' && !$(name).closest('[hidden]')) fields.set(name, value);
  }
  if (!$('seed-random').checked && $('seed').value.trim()) fields.set('seed', $('seed').value.trim());
  return fields;
}

/** What can be said without asking the node: `[field, message]`, or null. */
function mistake(fields) {
  if (fields.get('prompt').trim() === '') return ['prompt', 'Say in a sentence what happens in the clip.'];
  const limit = limits.max_prompt_chars;
  if (limit && [...fields.get('prompt')].length > limit) {
    return ['prompt', `The prompt is longer than ${count(limit)} characters.`];
  }
  if (!tasks.includes('text_to_video') && !image) return ['image', 'This model starts from a picture: choose one.'];
  if ($('size').value === 'custom' && !/^\d+x\d+$/.test(fields.get('size'))) {
    return [$('width').value ? 'height' : 'width', 'Give width and height in pixels.'];
  }
  if (fields.has('seed') && !/^\d+$/.test(fields.get('seed'))) return ['seed', 'The seed is a whole number from 0.'];
  return null;
}

const random = (bytesWanted) => crypto.getRandomValues(new Uint8Array(bytesWanted));
const hex = (values) => [...values].map((value) => value.toString(16).padStart(2, '0')).join('');

function asAttempt(fields) {
  const signature = JSON.stringify([...fields].map(([name, value]) => (
    value instanceof Blob ? [name, value.name, value.size, value.lastModified] : [name, value])));
  if (attempt?.signature === signature) return attempt;
  const seed = fields.get('seed') ?? String(new DataView(random(4).buffer).getUint32(0));
  return { signature, seed, key: hex(random(16)) };
}

async function submit(event) {
  event.preventDefault();
  if ($('submit').disabled) return;
  clearProblem();
  const fields = read();
  const wrong = mistake(fields);
  if (wrong) return fieldProblem(...wrong);

  attempt = asAttempt(fields);
  fields.set('seed', attempt.seed);
  const body = new FormData();
  for (const [name, value] of fields) {
    if (value instanceof Blob) body.append(name, value, value.name || 'first-frame.png');
    else body.append(name, value);
  }
  const sent = image;
  $('submit').disabled = true;
  $('submit').textContent = 'Sending';
  try {
    const headers = { 'Idempotency-Key': attempt.key };
    const video = await api.json('/v1/videos', { method: 'POST', body, headers });
    attempt = null;
    job.begin(video, sent);
    $('result-title').scrollIntoView({ behavior: calm() ? 'auto' : 'smooth', block: 'nearest' });
  } catch (error) {
    if (error.status) attempt = null; // answered: nothing is left in doubt
    showProblem(error);
  } finally {
    $('submit').disabled = false;
    $('submit').textContent = 'Make the clip';
  }
}

// Problems

let countdown = 0;

function clearProblem() {
  clearInterval(countdown);
  $('form-problem').replaceChildren();
  $('field-problem')?.remove();
  for (const field of form.querySelectorAll('[aria-invalid]')) {
    field.removeAttribute('aria-invalid');
    field.removeAttribute('aria-errormessage');
  }
}

function fieldProblem(field, message) {
  showProblem(new api.ApiError(message, { field }));
}

/** Beside the field it names, so that it is seen where it is put right; else above the button. */
function showProblem(error) {
  const block = problem(error);
  const name = ALIASES[error.field] ?? error.field;
  let field = name ? form.querySelector(`[id="${CSS.escape(name)}"]`) : null;
  if (field?.closest('#custom-size[hidden]')) field = $('size');
  if (field && !field.closest('[hidden]')) {
    const about = el('p', { class: 'field-problem', id: 'field-problem', role: 'alert' }, error.message.replace(`${error.field}: `, ''));
    field.closest('.field').append(about);
    if (field.closest('details')) $('advanced').open = true;
    field.setAttribute('aria-invalid', 'true');
    field.setAttribute('aria-errormessage', about.id);
    field.focus();
    return;
  }
  $('form-problem').replaceChildren(block);
  $('form-problem').scrollIntoView({ block: 'nearest' });
  if (error.status === 429 && error.retryAfter) {
    const until = Date.now() + error.retryAfter * 1000;
    const wait = el('span', { 'aria-live': 'off' });
    block.firstElementChild.append(wait);
    const tick = () => {
      const left = Math.ceil((until - Date.now()) / 1000);
      wait.textContent = left > 0 ? ` (again in ${left} s)` : ' (try again now)';
      if (left <= 0) clearInterval(countdown);
    };
    countdown = setInterval(tick, 500);
    tick();
  }
}

// Start

form.addEventListener('submit', submit);
form.addEventListener('input', refresh);
$('size').addEventListener('change', () => { sizeTouched = true; });
$('seed-random').addEventListener('change', () => { if (!$('seed-random').checked) $('seed').focus(); });
$('prompt').addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});
watchPictures();
build(null);
addEventListener('popstate', () => job.follow(idInAddress()));
job.follow(idInAddress());

const info = await header(api);
limits = info?.limits ?? {};
job.wantsKey = info?.auth ?? false;
try {
  const models = await api.json('/v1/models');
  build(models.data[0]);
} catch (error) {
  showProblem(error);
}
