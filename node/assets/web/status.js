// The status page: readiness, load, and a small reading of the metrics, while someone looks.

import * as api from './api.js';
import { $, STAGES, bytes, count, duration, el, header, problem, stageWord, whileVisible } from './ui.js';

/** Samples of a Prometheus text, by name: `[{labels, value}]`. */
function samples(text) {
  const found = new Map();
  for (const line of text.split('\n')) {
    const parts = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line);
    if (!parts) continue;
    const [, name, pairs = '', value] = parts;
    const labels = {};
    for (const [, label, raw] of pairs.matchAll(/([\w]+)="((?:[^"\\]|\\.)*)"/g)) labels[label] = raw.replace(/\\(.)/g, '$1');
    if (!found.has(name)) found.set(name, []);
    found.get(name).push({ labels, value: Number(value) });
  }
  const all = (name) => found.get(name) ?? [];
  const sum = (name, wanted = () => true) => all(name).filter((s) => wanted(s.labels)).reduce((n, s) => n + s.value, 0);
  return { all, sum, one: (name) => all(name)[0]?.value };
}

function rows(id, entries) {
  $(id).replaceChildren(...entries.filter(Boolean).map(([name, value, look = '']) => el('tr', {},
    el('th', { scope: 'row' }, name),
    el('td', { class: look }, value === undefined || value === null || value === '' ? '–' : String(value)))));
}

const words = (name) => name.replaceAll('_', ' ').replace(/^./, (letter) => letter.toUpperCase());

/** A mean time as [number, unit]. */
function short(seconds) {
  if (seconds < 0.001) return ['under 1', 'ms'];
  return seconds < 1 ? [(seconds * 1000).toPrecision(3), 'ms'] : [seconds.toFixed(seconds < 100 ? 2 : 0), 's'];
}

function split(list, label) {
  const parts = list.filter((sample) => sample.value > 0).map((sample) => `${count(sample.value)} ${words(sample.labels[label] ?? '').toLowerCase()}`);
  return parts.length > 0 ? parts.join(', ') : 'none';
}

function showReady({ ready, checks }) {
  const overall = $('overall');
  const word = ready ? 'Ready' : 'Not ready';
  if (overall.textContent !== word) overall.textContent = word; // read aloud only when it changes
  overall.className = `pill ${ready ? 'good' : 'bad'}`;
  $('checks').replaceChildren(...Object.entries(checks ?? {}).map(([name, check]) => el('li', {},
    el('span', { class: `pill ${check.ok ? 'good' : 'bad'}` }, check.ok ? 'OK' : 'Not OK'),
    el('div', {}, el('h3', {}, words(name)), el('p', {}, check.detail ?? '')))));
}

function tile(name, value, unit = '') {
  return el('div', { class: 'tile card' }, el('dt', {}, name), el('dd', {}, value, unit && el('small', {}, ` ${unit}`)));
}

function showInfo(info, metrics) {
  const { version, git_sha: sha, profile, limits, jobs, uptime_seconds: uptime } = info;
  const [model, load] = [info.model ?? {}, info.load ?? {}]; // absent while the model loads
  const steps = metrics?.sum('leoma_step_seconds_count') ?? 0;
  const mean = steps > 0 ? metrics.sum('leoma_step_seconds_sum') / steps : null;
  $('tiles').replaceChildren(
    tile('Running', count(load.running ?? 0)),
    tile('Waiting', count(load.queued ?? 0), load.queue_capacity ? `of ${count(load.queue_capacity)}` : ''),
    tile('Clips kept', count(jobs.completed ?? 0)),
    tile('Mean step', ...(mean === null ? ['–'] : short(mean))),
    tile('Up for', duration(uptime ?? 0)));
  rows('model', [
    ['Name', model.name], ['Kind', model.kind], ['Computes in', [model.dtype, model.device].filter(Boolean).join(' on ')],
    ['Defaults', model.preset], ['Profile', profile], ['Revision', model.revision, 'mono'], ['Digest', model.digest, 'mono'],
    ['Version', [version, sha?.slice(0, 12)].filter(Boolean).join(', ')],
  ]);
  rows('limits', [
    ['Request body', bytes(limits.max_body_bytes)], ['Picture', bytes(limits.max_image_bytes)],
    ['Prompt', limits.max_prompt_chars && `${count(limits.max_prompt_chars)} characters`],
    ['Frames', limits.max_frames && count(limits.max_frames)], ['Pixels', limits.max_pixels && count(limits.max_pixels)],
    ['Steps', limits.max_steps && count(limits.max_steps)],
  ]);
}

function showMetrics(metrics) {
  const http = (first) => metrics.sum('leoma_http_requests_total', (labels) => String(labels.status).startsWith(first));
  rows('work', [
    ['Jobs ended', split(metrics.all('leoma_jobs_finished_total'), 'outcome')],
    ['Refused', split(metrics.all('leoma_refusals_total'), 'reason')],
    ['Cancelled while', split(metrics.all('leoma_cancellations_total'), 'stage')],
    ['Steps made', count(metrics.sum('leoma_step_seconds_count'))],
    ['Requests answered', `${count(http('2') + http('3'))} succeeded, ${count(http('4'))} refused, ${count(http('5'))} failed`],
  ]);
  const counts = new Map(metrics.all('leoma_stage_seconds_count').map(({ labels, value }) => [labels.stage, value]));
  const stages = metrics.all('leoma_stage_seconds_sum').filter(({ labels }) => counts.get(labels.stage) > 0);
  const place = ({ labels }) => STAGES.findIndex(([name]) => name === labels.stage);
  stages.sort((one, other) => place(one) - place(other));
  rows('stages', stages.length === 0 ? [['Nothing made yet', '']] : stages.map(({ labels, value }) => [
    labels.stage === 'queue' ? 'Waiting' : stageWord(labels.stage), short(value / counts.get(labels.stage)).join(' '), 'number',
  ]));
  const canary = metrics.one('leoma_canary_age_seconds');
  rows('machine', [
    ['Memory in use', bytes(metrics.one('leoma_memory_resident_bytes'))],
    ['Jobs and clips', bytes(metrics.one('leoma_store_bytes'))],
    ['Free on the disk', bytes(metrics.one('leoma_disk_free_bytes'))],
    ['Last self-test', Number.isFinite(canary) && canary >= 0 ? `${duration(canary)} ago` : null],
  ]);
}

async function refresh() {
  try {
    showReady(await api.readiness());
    const [info, text] = await Promise.all([api.json('/info'), api.request('/metrics').then((answer) => answer.text())]);
    const metrics = samples(text);
    showInfo(info, metrics);
    showMetrics(metrics);
    $('problem').replaceChildren();
    $('updated').textContent = `As of ${new Date().toLocaleTimeString()}`;
  } catch (error) {
    if (error.status === 0) {
      $('overall').textContent = 'No answer';
      $('overall').className = 'pill bad';
    }
    $('problem').replaceChildren(problem(error));
  }
}

header(api);
whileVisible(2000, refresh);
