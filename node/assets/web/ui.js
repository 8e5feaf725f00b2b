// What all pages share: elements, words for numbers, the header, questions.

/** An element; strings among the children become text, never markup. */
export function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (attribute.startsWith('on')) element.addEventListener(attribute.slice(2), value);
    else element.setAttribute(attribute, value === true ? '' : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export const $ = (id) => document.getElementById(id);

const plain = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
export const count = (n) => plain.format(n);

export function bytes(n) {
  if (!Number.isFinite(n)) return '–';
  let unit = 0;
  while (n >= 1024 && unit < 4) {
    n /= 1024;
    unit += 1;
  }
  return `${n.toFixed(n < 10 && unit > 0 ? 1 : 0)} ${['B', 'KiB', 'MiB', 'GiB', 'TiB'][unit]}`;
}

export function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${String(s % 60).padStart(2, '0')} s`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h ${String(Math.floor((s % 3600) / 60)).padStart(2, '0')} min`;
  return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3600)} h`;
}

export function age(unix) {
  const s = Math.max(0, Date.now() / 1000 - unix);
  if (s < 45) return 'just now';
  if (s < 3600) return `${Math.max(1, Math.round(s / 60))} min ago`;
  if (s < 86_400) return `${Math.round(s / 3600)} h ago`;
  const days = Math.round(s / 86_400);
  return days === 1 ? 'yesterday' : `${days} days ago`;
}

export const STATUS = { queued: 'Waiting', in_progress: 'Running', completed: 'Done', failed: 'Failed' };

export function statusOf(video) {
  if (video.error?.code === 'cancelled') return { word: 'Cancelled', look: '' };
  return { word: STATUS[video.status] ?? video.status, look: video.status };
}

export const STAGES = [
  ['queued', 'Waiting'],
  ['load', 'Loading the model'],
  ['text_encode', 'Reading the prompt'],
  ['image_encode', 'Reading the picture'],
  ['denoise', 'Making frames'],
  ['vae_decode', 'Decoding'],
  ['video_encode', 'Writing the clip'],
];
export const stageWord = (stage) => STAGES.find(([name]) => name === stage)?.[1] ?? stage ?? '';

/** Where a waiting job stands, from the number of jobs before it. */
export function placeWord(ahead) {
  if (ahead === null || ahead === undefined) return 'Waiting';
  return ahead === 0 ? 'Next in the queue' : `Waiting behind ${ahead} other${ahead === 1 ? '' : 's'}`;
}

export const active = (video) => video.status === 'queued' || video.status === 'in_progress';

/** A name for the file that says what is in it. */
export function fileName(video) {
  const words = (video.prompt ?? '').normalize('NFKD').toLowerCase().match(/[a-z0-9]+/g) ?? [];
  const slug = words.slice(0, 6).join('-').slice(0, 48);
  const seed = video.parameters?.seed ?? video.id.slice(-8);
  return `leoma-${slug ? `${slug}-` : ''}${seed}.mp4`;
}

/** An argument as a POSIX shell reads it. */
export const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${String(text).replaceAll("'", "'\\''")}'`);

/** Copies text; works on plain http too, where browsers have no clipboard interface. */
export async function copy(text, source) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const range = document.createRange();
    range.selectNodeContents(source);
    const selection = getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
    return document.execCommand('copy');
  }
}

/** A command to copy. */
export function shell(text, label) {
  const pre = el('pre', { tabindex: 0, 'aria-label': label }, el('code', {}, text));
  const button = el('button', { type: 'button', class: 'button quiet', onclick: async () => {
    button.textContent = (await copy(text, pre)) ? 'Copied' : 'Selected: copy it by keyboard';
    setTimeout(() => { button.textContent = 'Copy'; }, 2000);
  } }, 'Copy');
  return el('div', { class: 'shell' }, pre, button);
}

/** Runs at once and then every `ms` while the page is looked at, one run at a time. */
export function whileVisible(ms, run) {
  let busy = false;
  const turn = async () => {
    if (document.hidden || busy) return;
    busy = true;
    try {
      await run();
    } finally {
      busy = false;
    }
  };
  setInterval(turn, ms);
  document.addEventListener('visibilitychange', turn);
  turn();
  return turn;
}

export const calm = () => matchMedia('(prefers-reduced-motion: reduce)').matches;

/** Shows a native dialog; resolves with its return value when it closes, and focus goes back to where it was. */
export function open(dialog) {
  const before = document.activeElement;
  document.body.append(dialog);
  dialog.returnValue = '';
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => {
      dialog.remove();
      if (before?.isConnected) before.focus();
      resolve(dialog.returnValue);
    }, { once: true });
  });
}

/** A question with one dangerous answer; the focus starts on the harmless one. */
export async function confirmed(title, text, action, keep = 'Keep it') {
  const dialog = el('dialog', { 'aria-labelledby': 'ask-title' });
  dialog.append(el('div', { class: 'stack' },
    el('h2', { id: 'ask-title' }, title),
    el('p', { class: 'soft' }, text),
    el('div', { class: 'buttons' },
      el('button', { type: 'button', class: 'button', autofocus: true, onclick: () => dialog.close('') }, keep),
      el('button', { type: 'button', class: 'button danger', onclick: () => dialog.close('yes') }, action))));
  return (await open(dialog)) === 'yes';
}

/** Asks for the key; null when the user leaves. */
export async function askKey({ refused }) {
  const input = el('input', { type: 'password', id: 'key', autocomplete: 'off', spellcheck: 'false', required: true, autofocus: true });
  const dialog = el('dialog', { 'aria-labelledby': 'key-title' });
  const send = (event) => {
    event.preventDefault();
    if (input.value.trim()) dialog.close('given');
  };
  dialog.append(el('form', { onsubmit: send },
    el('h2', { id: 'key-title' }, 'This node asks for a key'),
    refused ? el('p', { class: 'note bad', role: 'alert' }, 'The key was not accepted.') : null,
    el('div', { class: 'field' },
      el('label', { for: 'key' }, 'Key'),
      input,
      el('p', { class: 'hint' }, 'It stays in this tab and is forgotten when the tab closes.')),
    el('div', { class: 'buttons' },
      el('button', { type: 'button', class: 'button', onclick: () => dialog.close('') }, 'Not now'),
      el('button', { class: 'button main' }, 'Continue'))));
  return (await open(dialog)) === 'given' ? input.value.trim() : null;
}

/** What went wrong, as a block to show. */
export function problem(error) {
  const details = [error.code, error.requestId && `request ${error.requestId}`].filter(Boolean).join(' · ');
  return el('div', { class: `note ${error.status === 429 ? 'wait' : 'bad'}` },
    el('span', {}, error.message),
    details ? el('span', { class: 'code mono' }, details) : null);
}

let toastTimer = 0;
export function toast(text) {
  const place = $('toast');
  place.textContent = text;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { place.textContent = ''; }, 6000);
}

/** The header: the model's name, and the way to give a key after the question was left. */
export async function header(api) {
  document.querySelector('.skip').addEventListener('click', (event) => {
    event.preventDefault(); // the address names the job that is shown
    document.querySelector('main').focus();
  });
  const button = $('key-button');
  button.addEventListener('click', async () => {
    if (await api.enterKey()) location.reload();
  });
  try {
    const info = await api.json('/info');
    $('model-name').textContent = info.model?.name ?? '';
    $('model-name').title = info.model?.name ?? '';
    $('version').textContent = `leoma-node ${info.version ?? ''}`;
    button.hidden = !info.auth;
    return info;
  } catch (error) {
    button.hidden = error.status !== 401;
    button.textContent = 'Enter the key';
    return null;
  }
}
