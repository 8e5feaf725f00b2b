// The gallery: jobs with their posters, followed while they run.

import * as api from './api.js';
import { $, active, age, bytes, calm, confirmed, el, fileName, header, open, placeWord, problem, stageWord, statusOf, toast, whileVisible } from './ui.js';

const PAGE = 24;
const REFRESH_MS = 2000;
/** Followed one by one beyond the first page; more than this would be a load of its own. */
const MAX_FOLLOWED = 12;

const cards = new Map(); // id -> Card
let last = null; // id behind which the next page begins
let turn = () => {};

class Card {
  constructor(video) {
    this.element = el('li', { class: 'job card', id: video.id });
    this.update(video);
  }

  update(video) {
    const changed = this.video?.status !== video.status || this.video?.error?.code !== video.error?.code;
    this.video = video;
    if (changed) this.build();
    this.refresh();
  }

  build() {
    const { video } = this;
    const held = this.element.contains(document.activeElement);
    this.close();
    this.pill = el('span', {});
    this.when = el('time', { datetime: new Date(video.created_at * 1000).toISOString() });
    this.when.title = new Date(video.created_at * 1000).toLocaleString();
    const meta = [video.size?.replace('x', ' × '), video.seconds && `${video.seconds} s`, video.bytes && bytes(video.bytes)];
    this.element.replaceChildren(
      this.top(),
      el('div', { class: 'job-body' },
        el('div', { class: 'job-line' }, this.pill, this.when),
        el('p', { class: 'job-prompt', title: video.prompt }, video.prompt),
        el('p', { class: 'job-line' }, meta.filter(Boolean).join(', ')),
        this.error(),
        this.buttons()));
    if (held) this.element.querySelector('button, a')?.focus();
  }

  top() {
    const { video } = this;
    if (video.status === 'completed') {
      const button = el('button', { type: 'button', class: 'poster', 'aria-label': `Play: ${video.prompt}`, onclick: () => play(video) },
        el('span', { class: 'go', 'aria-hidden': 'true' }));
      this.poster(button);
      return button;
    }
    if (active(video)) {
      this.fill = el('i');
      this.bar = el('div', { class: 'bar thin', role: 'progressbar', 'aria-label': 'Progress', 'aria-valuemin': 0, 'aria-valuemax': 100 }, this.fill);
      this.now = el('span', {});
      return el('div', { class: 'poster working' }, el('div', { class: 'working-text' }, this.now, this.bar));
    }
    return el('div', { class: 'poster' }, el('span', { class: 'missing' }, statusOf(video).word === 'Cancelled' ? 'Cancelled' : 'No clip'));
  }

  async poster(button) {
    try {
      this.address = await api.media(`/v1/videos/${this.video.id}/content?variant=thumbnail`);
      const image = el('img', { src: this.address, alt: '', loading: 'lazy', decoding: 'async' });
      image.addEventListener('error', () => image.remove());
      button.prepend(image);
    } catch {
      // the card works without its poster
    }
  }

  error() {
    const { error } = this.video;
    return error && error.code !== 'cancelled' ? el('p', { class: 'note bad small' }, error.message) : null;
  }

  buttons() {
    const { video } = this;
    const button = (text, run, look = '') => el('button', { type: 'button', class: `button quiet ${look}`, onclick: run }, text);
    const link = el('a', { class: 'button quiet', href: `/#${video.id}` }, active(video) ? 'Follow' : 'Details');
    if (active(video)) return el('div', { class: 'buttons' }, link, button('Cancel', () => this.cancel(), 'danger'));
    return el('div', { class: 'buttons' },
      video.status === 'completed' ? button('Download', () => download(video)) : null,
      link,
      button('Delete', () => this.remove(), 'danger'));
  }

  refresh() {
    const { video } = this;
    const { word, look } = statusOf(video);
    this.pill.className = `pill ${look}`;
    this.pill.textContent = word;
    this.when.textContent = age(video.created_at);
    if (!active(video)) return;
    const percent = Math.floor(video.progress ?? 0);
    this.fill.style.setProperty('--value', percent);
    this.bar.setAttribute('aria-valuenow', percent);
    const step = video.stage === 'denoise' && video.steps ? `, step ${video.step} of ${video.steps}` : '';
    this.now.textContent = video.status === 'queued' ? placeWord(video.queue_position) : `${percent} %, ${stageWord(video.stage).toLowerCase()}${step}`;
  }

  async cancel() {
    if (!await confirmed('Cancel this job?', this.video.prompt, 'Cancel the job', 'Let it run')) return;
    await this.drop();
  }

  async remove() {
    if (!await confirmed('Delete this job?', 'The job and its clip are removed from the node for good.', 'Delete')) return;
    await this.drop();
  }

  async drop() {
    try {
      const answer = await api.json(`/v1/videos/${this.video.id}`, { method: 'DELETE' });
      if (!answer.deleted) return this.update(answer);
    } catch (error) {
      if (error.status !== 404) return toast(error.message);
    }
    toast('Deleted.');
    const next = this.element.nextElementSibling ?? this.element.previousElementSibling;
    forget(this);
    next?.querySelector('button, a')?.focus();
  }

  close() {
    api.release(this.address);
    this.address = null;
  }
}

function forget(card) {
  card.close();
  card.element.remove();
  cards.delete(card.video.id);
  if (last === card.video.id) last = $('grid').lastElementChild?.id ?? null;
  $('empty').hidden = cards.size > 0;
}

async function play(video) {
  const abort = new AbortController();
  const title = el('h2', { id: 'play-title', class: 'job-prompt' }, video.prompt);
  const player = el('video', { controls: true, loop: true, playsinline: true, muted: true, 'aria-labelledby': 'play-title' });
  player.muted = true; // the attribute counts only while a document is read; sound would forbid the start
  const dialog = el('dialog', { class: 'wide', 'aria-labelledby': 'play-title' });
  const note = el('div', { role: 'alert' });
  dialog.append(el('div', { class: 'stack' }, player, note, title,
    el('div', { class: 'buttons' },
      el('button', { type: 'button', class: 'button', onclick: () => download(video) }, 'Download'),
      el('button', { type: 'button', class: 'button main', autofocus: true, onclick: () => dialog.close() }, 'Close'))));
  dialog.addEventListener('click', (event) => { if (event.target === dialog) dialog.close(); });
  const closed = open(dialog);
  let address = null;
  try {
    address = await api.media(`/v1/videos/${video.id}/content`, abort.signal);
    player.addEventListener('error', () => note.replaceChildren(problem(new api.ApiError('This browser cannot play the clip; download it.'))));
    player.autoplay = !calm();
    player.src = address;
  } catch (error) {
    note.replaceChildren(problem(error));
  }
  await closed;
  abort.abort();
  player.removeAttribute('src');
  player.load(); // ends the download behind it
  api.release(address);
}

async function download(video) {
  try {
    const address = await api.media(`/v1/videos/${video.id}/content`);
    el('a', { href: address, download: fileName(video) }).click();
    setTimeout(() => api.release(address), 60_000); // the browser may still be reading it
  } catch (error) {
    toast(error.message);
  }
}

function list(after, limit = PAGE) {
  const query = new URLSearchParams({ limit, order: 'desc' });
  const status = $('filter').value;
  if (status) query.set('status', status);
  if (after) query.set('after', after);
  return api.json(`/v1/videos?${query}`);
}

/** Puts jobs in their place: known ones are updated, new ones go to the front or, from a later page, to the end. */
function place(videos, front) {
  let before = front ? $('grid').firstElementChild : null;
  for (const video of videos) {
    const known = cards.get(video.id);
    if (known) {
      known.update(video);
      if (front) before = known.element.nextElementSibling;
      continue;
    }
    const card = new Card(video);
    cards.set(video.id, card);
    $('grid').insertBefore(card.element, before);
  }
  $('empty').hidden = cards.size > 0;
}

async function more() {
  $('more').disabled = true;
  try {
    let page = null;
    while (!page) {
      try {
        page = await list(last);
      } catch (error) {
        const gone = cards.get(last);
        if (!gone || ![400, 404].includes(error.status)) throw error;
        forget(gone); // deleted by someone else: the card before it is the place to go on from
      }
    }
    place(page.data, false);
    last = page.last_id ?? last;
    $('more').hidden = !page.has_more;
  } catch (error) {
    $('problem').replaceChildren(problem(error));
  } finally {
    $('more').disabled = false;
  }
}

/** Jobs on the first page come as one list; running ones behind it are asked for one by one. */
async function refresh() {
  const filter = $('filter').value;
  try {
    const page = await list(null);
    if (filter !== $('filter').value) return;
    $('problem').replaceChildren();
    const first = last === null;
    place(page.data, true);
    if (first) {
      last = page.last_id ?? null;
      $('more').hidden = !page.has_more;
    }
    const seen = new Set(page.data.map((video) => video.id));
    // What the first page no longer has is gone, or has left the filter.
    const oldest = page.has_more ? page.data.at(-1)?.created_at ?? 0 : -Infinity;
    const behind = [...cards.values()].filter((card) => !seen.has(card.video.id));
    for (const card of behind) if (card.video.created_at > oldest) forget(card);
    const running = behind.filter((card) => cards.has(card.video.id) && active(card.video)).slice(0, MAX_FOLLOWED);
    for (const card of running) {
      const video = await api.json(`/v1/videos/${card.video.id}`).catch((error) => error);
      if (video.status === 404) forget(card);
      else if (video.id) card.update(video);
    }
  } catch (error) {
    $('problem').replaceChildren(problem(error));
  }
  for (const card of cards.values()) card.refresh();
}

$('more').addEventListener('click', more);
$('filter').addEventListener('change', () => {
  for (const card of [...cards.values()]) forget(card);
  last = null;
  $('more').hidden = true;
  $('empty').hidden = true;
  turn();
});

header(api);
turn = whileVisible(REFRESH_MS, refresh);
