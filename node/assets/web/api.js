// The node's HTTP interface as the pages use it: the key, errors in words, server-sent events that resume.

import { askKey } from './ui.js';

const KEY = 'leoma-node.key';

/** The key of this tab; it is never written anywhere that outlives the tab. */
export function key() {
  try {
    return sessionStorage.getItem(KEY) ?? '';
  } catch {
    return memory;
  }
}

let memory = ''; // where storage is forbidden, the key lives as long as the page

export function setKey(value) {
  memory = value;
  try {
    if (value) sessionStorage.setItem(KEY, value);
    else sessionStorage.removeItem(KEY);
  } catch {
    // `memory` has it
  }
}

/** An answer that is not a success, or no answer at all (`status` 0). */
export class ApiError extends Error {
  constructor(message, { status = 0, code = '', field = '', retryAfter = null, requestId = '' } = {}) {
    super(message);
    this.name = 'ApiError';
    Object.assign(this, { status, code, field, retryAfter, requestId });
  }
}

// A seed may be beyond what a JavaScript number holds exactly; then its digits are kept as text.
function exact(name, value, context) {
  if (typeof value === 'number' && Number.isInteger(value) && !Number.isSafeInteger(value)) {
    return context?.source ?? value;
  }
  return value;
}

/** JSON as the node writes it. */
export const parse = (text) => JSON.parse(text, exact);

async function errorOf(response) {
  let given = {};
  try {
    const body = parse(await response.text());
    given = body.error ?? body;
  } catch {
    // not from the node (a proxy's page, say): the status has to do
  }
  const message = given.message ?? given.detail ?? `The server answered ${response.status} ${response.statusText}.`;
  const field = given.field ?? given.param ?? /^([a-z][a-z0-9_]*): /.exec(message)?.[1] ?? '';
  const seconds = Number.parseFloat(response.headers.get('retry-after'));
  return new ApiError(message, {
    status: response.status,
    code: given.code ?? '',
    field,
    retryAfter: Number.isFinite(seconds) ? seconds : null,
    requestId: given.request_id ?? response.headers.get('x-request-id') ?? '',
  });
}

let asking = null; // one question, however many requests were refused
let declined = false;

async function obtainKey(refused) {
  if (key() !== refused) return true; // given while this request was under way
  asking ??= askKey({ refused: refused !== '' }).finally(() => { asking = null; });
  const given = await asking;
  declined = given === null;
  if (given !== null) setKey(given);
  return given !== null;
}

/** Opens the question for the key; true when one was given. */
export async function enterKey() {
  declined = false;
  return obtainKey(key());
}

/** One request. Asks for the key when the server wants one; throws `ApiError` for anything but success. */
export async function request(path, { method = 'GET', body, headers = {}, signal } = {}) {
  for (;;) {
    const used = key();
    const sent = used ? { ...headers, Authorization: `Bearer ${used}` } : headers;
    let response;
    try {
      response = await fetch(path, { method, body, headers: sent, signal, cache: 'no-store' });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new ApiError('The server does not answer. Check that it runs and that you are connected.', { code: 'offline' });
    }
    if (response.ok) return response;
    if (response.status === 401 && !(declined && key() === used) && (await obtainKey(used))) continue;
    throw await errorOf(response);
  }
}

export async function json(path, options) {
  return parse(await (await request(path, options)).text());
}

/** `/ready` answers 503 with the same body when it is not. */
export async function readiness() {
  const response = await fetch('/ready', { cache: 'no-store' }).catch(() => null);
  if (!response) throw new ApiError('The server does not answer.', { code: 'offline' });
  return parse(await response.text());
}

/** An address for `<img>`, `<video>` and downloads: they cannot send a key, so with one the bytes are fetched. */
export async function media(path, signal) {
  if (!key()) return path;
  const blob = await (await request(path, { signal })).blob();
  return URL.createObjectURL(blob);
}

/** Gives back what `media` holds. */
export function release(address) {
  if (address?.startsWith('blob:')) URL.revokeObjectURL(address);
}

const SILENCE_MS = 60_000; // the server speaks more often than this, if only to say that it is there

async function* lines(body, abort) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  try {
    for (;;) {
      const timer = setTimeout(() => abort.abort(), SILENCE_MS);
      const { value, done } = await reader.read().finally(() => clearTimeout(timer));
      if (done) return;
      const parts = (rest + value).split(/\r\n|\n|\r(?!$)/);
      rest = parts.pop();
      yield* parts;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function* frames(body, abort) {
  let frame = { type: 'message', data: [] };
  for await (const line of lines(body, abort)) {
    if (line === '') {
      if (frame.data.length > 0) yield { ...frame, data: parse(frame.data.join('\n')) };
      frame = { type: 'message', data: [] };
      continue;
    }
    const colon = line.indexOf(':');
    if (colon === 0) continue;
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
    if (name === 'data') frame.data.push(value);
    else if (name === 'event') frame.type = value;
    else if (name === 'id') frame.id = value;
  }
}

const pause = (ms, signal) => new Promise((resolve) => {
  const timer = setTimeout(resolve, ms);
  signal?.addEventListener('abort', () => { clearTimeout(timer); resolve(); }, { once: true });
});

/**
 * Events of a job as `{id, type, data}`, until its last one. A broken connection is taken up again behind the
 * last event seen; meanwhile `{type: 'interrupted'}` says so. Throws when the server refuses.
 */
export async function* events(path, signal) {
  let last = '';
  let failures = 0;
  while (!signal.aborted) {
    const abort = new AbortController();
    const stop = () => abort.abort();
    signal.addEventListener('abort', stop, { once: true });
    try {
      const headers = { Accept: 'text/event-stream', ...(last && { 'Last-Event-ID': last }) };
      const response = await request(path, { headers, signal: abort.signal });
      for await (const frame of frames(response.body, abort)) {
        failures = 0;
        last = frame.id ?? last;
        yield frame;
        if (frame.type === 'completed' || frame.type === 'failed') return;
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof ApiError && error.status >= 400 && error.status < 500 && error.status !== 429) throw error;
    } finally {
      signal.removeEventListener('abort', stop);
      abort.abort();
    }
    if (failures > 0) yield { type: 'interrupted', data: {} };
    failures += 1;
    await pause(Math.min(250 * 2 ** failures, 8000), signal);
  }
}
