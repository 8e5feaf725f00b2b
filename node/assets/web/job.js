// One job beside the form: its progress while it runs, then the clip, its parameters and the command that repeats it.

import * as api from './api.js';
import { $, STAGES, active, bytes, calm, duration, el, fileName, placeWord, problem, quoted, shell, stageWord, statusOf, toast } from './ui.js';

const ID = /^#(video_[0-9a-f]+)$/;
const TITLE = document.title;

/** The job that the page's address names, or null. */
export const idInAddress = () => ID.exec(location.hash)?.[1] ?? null;

/** Request fields among the effective parameters, in the order of the command. */
const REPEATABLE = [
  'num_frames', 'fps', 'num_inference_steps', 'guidance_scale', 'guidance_scale_2', 'flow_shift', 'boundary_ratio',
  'scheduler', 'noise_source', 'crf', 'preset', 'seed',
];

/** What a reader looks for first; the rest follows as the node gives it. */
const FIRST = ['prompt', 'negative_prompt', 'width', 'height', 'num_frames', 'fps', 'num_inference_steps', 'guidance_scale', 'seed'];

/** The `curl` call that makes the same clip again. The key is named, never shown. */
function curl(video, { wantsKey, picture }) {
  const values = video.parameters;
  const parts = [`curl -sS ${quoted(`${location.origin}/v1/videos`)}`];
  if (wantsKey) parts.push('-H "Authorization: Bearer $LEOMA_NODE_API_KEY"');
  // `--form-string` takes the value as it is; `-F` would read a leading @ or < as a file.
  parts.push(`--form-string ${quoted(`prompt=${values.prompt ?? video.prompt}`)}`);
  if (typeof values.negative_prompt === 'string') {
    parts.push(`--form-string ${quoted(`negative_prompt=${values.negative_prompt}`)}`);
  }
  if (picture) {
    const plain = /^[\w.+-]+$/.test(picture);
    const file = plain ? picture : `"${picture.replace(/(["\\])/g, '\\$1')}"`;
    parts.push(`-F ${quoted(`input_reference=@${file}`)}`);
  }
  parts.push(`-F ${quoted(`size=${values.width}x${values.height}`)}`);
  for (const name of REPEATABLE) {
    if (values[name] !== undefined && values[name] !== null) parts.push(`-F ${quoted(`${name}=${values[name]}`)}`);
  }
  return parts.join(' \\\n  ');
}

/** Names of first frames by job, for this tab: the node does not keep them. */
const pictures = {
  get: (id) => sessionStorage.getItem(`leoma-node.picture.${id}`),
  set(id, name) {
    try {
      sessionStorage.setItem(`leoma-node.picture.${id}`, name);
    } catch {
      // only the command after a reload suffers
    }
  },
};

export class Job {
  /** Whether the node asks for a key. */
  wantsKey = false;
  #abort = new AbortController();
  #video = null;
  #picture = null; // address of the first frame, when this page sent it
  #live = {};
  #clip = '';
  #told = '';
  #drawing = 0;
  #clock = 0;

  constructor({ again, reuse }) {
    $('again').addEventListener('click', again);
    $('reuse').addEventListener('click', () => reuse(this.#video.parameters));
    $('cancel').addEventListener('click', () => this.#cancel());
  }

  /** Shows a job that was just made here, with the picture it was made from. */
  begin(video, image) {
    if (image) pictures.set(video.id, image.file.name || 'first-frame.png');
    history.pushState(null, '', `#${video.id}`);
    this.follow(video.id, image?.address ?? null);
  }

  /** Shows a job and stays with it until its end; null shows none. */
  async follow(id, picture = null) {
    if (id && id === this.#video?.id) return;
    this.#abort.abort();
    this.#abort = new AbortController();
    const { signal } = this.#abort;
    this.#reset(picture);
    if (!id) return;
    try {
      const path = `/v1/videos/${id}`;
      const video = await api.json(path, { signal });
      this.#present(video);
      if (!active(video)) return await this.#finish(video, signal);
      for await (const event of api.events(`${path}/events`, signal)) {
        if (event.type === 'completed' || event.type === 'failed') return await this.#finish(event.data.video, signal);
        if (event.type === 'interrupted') {
          const now = await api.json(path, { signal }).catch(() => null);
          if (now && !active(now)) return await this.#finish(now, signal);
        }
        this.#take(event);
      }
    } catch (error) {
      if (signal.aborted) return;
      this.#fail(error.status === 404 ? new api.ApiError('This job is no longer on the node.', error) : error);
    }
  }

  #reset(picture) {
    clearInterval(this.#clock);
    api.release(this.#clip);
    this.#clip = '';
    this.#video = null;
    this.#picture = picture;
    this.#live = { stage: 'queued', progress: 0 };
    this.#told = '';
    document.title = TITLE;
    for (const part of ['running', 'failed', 'done', 'facts']) $(part).hidden = true;
    $('result-title').textContent = 'Result';
    this.#stage('', el('p', { class: 'quiet-text' }, 'Your clip appears here.'));
    $('stage').style.removeProperty('--ratio');
  }

  #stage(look, ...content) {
    $('stage').className = `stage ${look}`;
    $('stage').replaceChildren(...content.filter(Boolean));
  }

  #present(video) {
    this.#video = video;
    this.#facts(video);
    const { width, height } = video.parameters ?? {};
    if (width && height) $('stage').style.setProperty('--ratio', `${width} / ${height}`);
    if (!active(video)) return;
    this.#live = {
      stage: video.stage ?? 'queued', progress: video.progress ?? 0, position: video.queue_position,
      done: video.step, total: video.steps, eta: video.eta_seconds, seen: Date.now(),
    };
    $('running').hidden = false;
    $('cancel').disabled = false;
    $('cancel').textContent = 'Cancel';
    const picture = this.#picture && el('img', { src: this.#picture, alt: '' });
    this.#stage('running', picture, el('p', { class: 'percent', 'aria-hidden': 'true' }));
    $('stages').replaceChildren(...STAGES.slice(1).map(([name, word]) => el('li', { 'data-stage': name }, word)));
    let seconds = 0;
    this.#clock = setInterval(() => {
      seconds += 1;
      if (this.#live.stage === 'queued' && seconds % 4 === 0) this.#askPlace(video.id);
      this.#draw();
    }, 1000);
    this.#draw();
  }

  /** The queue moves without an event of this job. */
  async #askPlace(id) {
    const video = await api.json(`/v1/videos/${id}`).catch(() => null);
    if (video?.status === 'queued' && this.#video?.id === id) this.#live.position = video.queue_position;
  }

  #take({ type, data }) {
    const live = this.#live;
    live.interrupted = type === 'interrupted';
    if (type === 'queued') Object.assign(live, { stage: 'queued', position: data.position });
    if (type === 'requeued') Object.assign(live, { stage: 'queued', position: null, progress: 0, eta: null, started: null });
    if (type === 'started') Object.assign(live, { stage: 'load', started: data.at });
    if (type === 'progress') {
      Object.assign(live, { stage: data.stage, done: data.done, total: data.total, progress: data.progress, eta: data.eta_seconds });
    }
    if (data.at) Object.assign(live, { at: data.at, seen: Date.now() });
    // A late follower gets the whole history at once: it is drawn when it has been read.
    clearTimeout(this.#drawing);
    this.#drawing = setTimeout(() => this.#draw(), 30);
  }

  #draw() {
    const live = this.#live;
    if ($('running').hidden) return;
    const since = (Date.now() - (live.seen ?? Date.now())) / 1000;
    const percent = Math.floor(live.progress ?? 0);
    const counted = live.stage === 'denoise' && live.total ? `, step ${live.done} of ${live.total}` : '';
    let now = `${stageWord(live.stage)}${counted}`;
    if (live.stage === 'queued') now = placeWord(live.position);
    if (live.interrupted) now = 'Connection lost, trying again';
    const times = [];
    if (live.started) times.push(`${duration(live.at - live.started + since)} so far`);
    if (live.eta !== null && live.eta !== undefined) times.push(`about ${duration(Math.max(1, live.eta - since))} left`);
    $('now-stage').textContent = now;
    $('now-left').textContent = times.join(', ');
    const bar = $('bar');
    bar.firstElementChild.style.setProperty('--value', percent);
    bar.setAttribute('aria-valuenow', percent);
    bar.setAttribute('aria-valuetext', `${percent} %, ${now}`);
    this.#pill({ status: live.stage === 'queued' ? 'queued' : 'in_progress' });
    $('stage').querySelector('.percent')?.replaceChildren(String(percent), el('small', {}, '%'));
    document.title = `${percent} % · ${TITLE}`;
    const at = STAGES.findIndex(([name]) => name === live.stage);
    for (const [index, item] of [...$('stages').children].entries()) {
      item.className = index + 1 < at ? 'done' : index + 1 === at ? 'current' : '';
      if (index + 1 === at) item.setAttribute('aria-current', 'step');
      else item.removeAttribute('aria-current');
    }
    // Said aloud: each stage once and each quarter, not each step.
    this.#tell(`${stageWord(live.stage)}${percent >= 25 ? `, ${Math.floor(percent / 25) * 25} %` : ''}`);
  }

  #pill(video) {
    const { word, look } = statusOf(video);
    if ($('result-status')?.textContent === word) return;
    $('result-title').replaceChildren('Result', el('span', { class: `pill ${look}`, id: 'result-status' }, word));
  }

  #tell(text) {
    if (text === this.#told) return;
    this.#told = text;
    $('announce').textContent = text;
  }

  async #cancel() {
    const button = $('cancel');
    button.disabled = true;
    button.textContent = 'Cancelling';
    try {
      const answer = await api.json(`/v1/videos/${this.#video.id}`, { method: 'DELETE' });
      if (answer.deleted) toast('The clip was finished in that moment; it is removed.');
      else if (!active(answer)) await this.#finish(answer, this.#abort.signal);
    } catch (error) {
      button.disabled = false;
      button.textContent = 'Cancel';
      toast(error.message);
    }
  }

  async #finish(video, signal) {
    if (this.#finished(video)) return;
    clearInterval(this.#clock);
    clearTimeout(this.#drawing);
    this.#present(video);
    $('running').hidden = true;
    if (video.status === 'failed') return this.#fail(video.error ?? { message: 'The job failed.' });
    document.title = `Done · ${TITLE}`;
    this.#tell('The clip is ready');
    this.#stage('ready', el('p', { class: 'quiet-text' }, 'Fetching the clip'));
    this.#clip = await api.media(`/v1/videos/${video.id}/content`, signal);
    if (signal.aborted) return api.release(this.#clip);
    const player = el('video', {
      src: this.#clip, controls: true, loop: true, muted: true, playsinline: true, autoplay: !calm(),
      'aria-label': `Clip: ${video.prompt}`,
    });
    player.muted = true; // the attribute counts only while a document is read; sound would forbid the start
    player.addEventListener('error', () => toast('This browser cannot play the clip; download it.'));
    this.#stage('ready', player);
    $('download').href = this.#clip;
    $('download').download = fileName(video);
    $('download').textContent = video.bytes ? `Download (${bytes(video.bytes)})` : 'Download';
    $('done').hidden = false;
  }

  /** The end of a job comes as an event and as the answer to a cancellation; it is shown once. */
  #finished(video) {
    return this.#video?.id === video.id && !active(this.#video) && (!$('done').hidden || !$('failed').hidden);
  }

  #fail(error) {
    clearInterval(this.#clock);
    clearTimeout(this.#drawing);
    const cancelled = error.code === 'cancelled';
    document.title = TITLE;
    $('running').hidden = true;
    $('done').hidden = true;
    $('failed').hidden = false;
    $('again').hidden = !this.#video;
    $('again').textContent = cancelled ? 'Make it after all' : 'Try again';
    $('failed-problem').replaceChildren(cancelled ? el('p', { class: 'note' }, 'Cancelled.') : problem(error));
    this.#stage('', el('p', { class: 'quiet-text' }, cancelled ? 'Cancelled' : 'No clip'));
    this.#tell(cancelled ? 'Cancelled' : `Failed: ${error.message}`);
  }

  #facts(video) {
    this.#pill(video);
    const values = video.parameters ?? {};
    const rows = Object.entries({ ...Object.fromEntries(FIRST.map((name) => [name, values[name]])), ...values })
      .filter(([, value]) => value !== null && value !== undefined);
    $('parameters').replaceChildren(...rows.map(([name, value]) => el('tr', {},
      el('th', { scope: 'row' }, el('code', {}, name)),
      el('td', {}, typeof value === 'object' ? JSON.stringify(value) : String(value)))));
    const picture = pictures.get(video.id);
    $('curl').replaceChildren(shell(curl(video, { wantsKey: this.wantsKey || api.key() !== '', picture }), 'Command'));
    $('curl-hint').textContent = picture
      ? `Run it in the folder of ${picture}.`
      : 'If the clip started from a picture, add -F input_reference=@FILE.';
    $('facts').hidden = rows.length === 0;
    for (const part of $('facts').children) part.open = !active(video); // while it runs, progress is what matters
  }
}
