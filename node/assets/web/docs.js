// The API page: the node's own OpenAPI document, readable and searchable, without anything from elsewhere.

import * as api from './api.js';
import { $, el, header, problem, quoted, shell } from './ui.js';

const METHODS = ['get', 'post', 'put', 'patch', 'delete', 'head', 'options'];
const DEEPEST = 8; // of nested schemas shown; deeper ones are named only

let spec = {};
const entries = []; // { element, link, words }

/** What a `$ref` points to, with its name. */
function resolve(node) {
  let name = '';
  for (let hops = 0; node?.$ref && hops < 16; hops += 1) {
    name = node.$ref.split('/').at(-1);
    const path = node.$ref.replace(/^#\//, '').split('/').map((part) => part.replaceAll('~1', '/').replaceAll('~0', '~'));
    const target = path.reduce((at, part) => at?.[part], spec);
    const { $ref, ...beside } = node;
    node = { ...target, ...beside };
  }
  return { schema: node ?? {}, name };
}

/** A schema without `$ref`, `allOf`, and the `null` that says "may be absent". */
function flat(node) {
  let { schema, name } = resolve(node);
  if (schema.allOf) {
    const { allOf, ...rest } = schema;
    const parts = allOf.map(flat);
    name ||= parts.length === 1 ? parts[0].name : '';
    schema = parts.reduce((sum, part) => ({
      ...part.schema, ...sum,
      properties: { ...part.schema.properties, ...sum.properties },
      required: [...(part.schema.required ?? []), ...(sum.required ?? [])],
    }), rest);
    if (Object.keys(schema.properties).length === 0) delete schema.properties;
  }
  const kind = schema.oneOf ? 'oneOf' : schema.anyOf ? 'anyOf' : null;
  if (kind) {
    const choices = schema[kind].filter((choice) => choice.type !== 'null');
    if (choices.length === 1) {
      const { [kind]: dropped, ...rest } = schema;
      const only = flat(choices[0]);
      return { schema: { ...only.schema, ...rest }, name: only.name || name, nullable: choices.length < dropped.length };
    }
    return { schema, name, choices, nullable: choices.length < schema[kind].length };
  }
  const nullable = schema.nullable || (Array.isArray(schema.type) && schema.type.includes('null'));
  return { schema, name, nullable };
}

function typeName(node) {
  const { schema, name, choices } = flat(node);
  if (choices) return choices.map(typeName).join(' or ');
  const types = [schema.type ?? (schema.properties ? 'object' : 'any')].flat().filter((type) => type !== 'null');
  if (types[0] === 'array') return `list of ${typeName(schema.items ?? {})}`;
  const base = schema.format === 'binary' ? 'file' : types.join(' or ');
  return name && schema.properties ? name : base;
}

const shown = (value) => (typeof value === 'string' ? value : JSON.stringify(value));

/** The limits of a value, in words. */
function limits(schema) {
  const parts = [];
  const allowed = schema.enum ?? (schema.const !== undefined ? [schema.const] : null);
  if (allowed) parts.push(`one of ${allowed.filter((value) => value !== null).map(shown).join(', ')}`);
  if (schema.minimum !== undefined && schema.maximum !== undefined) parts.push(`${schema.minimum} to ${schema.maximum}`);
  else if (schema.minimum !== undefined) parts.push(`from ${schema.minimum}`);
  else if (schema.maximum !== undefined) parts.push(`up to ${schema.maximum}`);
  if (schema.exclusiveMinimum !== undefined) parts.push(`more than ${schema.exclusiveMinimum}`);
  if (schema.exclusiveMaximum !== undefined) parts.push(`less than ${schema.exclusiveMaximum}`);
  if (schema.minLength !== undefined) parts.push(`at least ${schema.minLength} characters`);
  if (schema.maxLength !== undefined) parts.push(`up to ${schema.maxLength} characters`);
  if (schema.minItems !== undefined) parts.push(`at least ${schema.minItems} items`);
  if (schema.maxItems !== undefined) parts.push(`up to ${schema.maxItems} items`);
  if (schema.pattern) parts.push(`matches ${schema.pattern}`);
  if (schema.default !== undefined && schema.default !== null) parts.push(`default ${shown(schema.default)}`);
  return parts.join('; ');
}

/** Text with `code` in backticks, the one piece of Markdown that the document uses within a line. */
function inline(text) {
  return text.split('`').map((part, index) => (index % 2 === 1 ? el('code', {}, part) : part));
}

function paragraphs(text) {
  if (!text) return null;
  return el('div', { class: 'paragraphs' }, text.trim().split(/\n\s*\n/).map((part) => {
    const items = part.split(/^\s*[-*] /m);
    if (items.length === 1) return el('p', {}, inline(part.replaceAll('\n', ' ')));
    const [before, ...rest] = items;
    const points = el('ul', {}, rest.map((item) => el('li', {}, inline(item.trim().replaceAll('\n', ' ')))));
    return el('div', {}, before.trim() ? el('p', {}, inline(before.trim())) : null, points);
  }));
}

function field(name, node, required, depth, trail) {
  const { schema, nullable } = flat(node);
  const about = [limits(schema), nullable && !required ? '' : nullable ? 'may be null' : ''].filter(Boolean).join('; ');
  return el('div', {},
    el('dt', {},
      el('code', {}, name),
      el('span', { class: 'type' }, typeName(node)),
      required ? el('span', { class: 'required' }, 'required') : null),
    el('dd', {},
      paragraphs(schema.description),
      about ? el('p', { class: 'small' }, about) : null,
      inside(node, depth, trail)));
}

/** The fields of an object, of the items of a list, or of each choice; null for a plain value. */
function inside(node, depth, trail, unfolded = false) {
  const { schema, name, choices } = flat(node);
  if (depth > DEEPEST || (name && trail.includes(name))) return null;
  const next = name ? [...trail, name] : trail;
  if (choices) {
    const parts = choices.map((choice) => [typeName(choice), inside(choice, depth + 1, next, true)]).filter(([, part]) => part);
    return parts.length === 0 ? null : el('div', {}, parts.map(([title, part]) => el('details', {}, el('summary', {}, title), part)));
  }
  if (schema.items) return inside(schema.items, depth, next, unfolded);
  const needed = (key) => (schema.required?.includes(key) ? 0 : 1);
  const properties = Object.entries(schema.properties ?? {}).sort(([one], [other]) => needed(one) - needed(other));
  if (properties.length === 0) return null;
  const fields = el('dl', { class: 'fields' },
    properties.map(([key, value]) => field(key, value, schema.required?.includes(key), depth + 1, next)));
  if (unfolded) return fields;
  return el('details', {}, el('summary', {}, `${properties.length} field${properties.length === 1 ? '' : 's'}`), fields);
}

/** A value to show in an example. */
function example(node, depth = 0) {
  const { schema, choices } = flat(node);
  if (schema.example !== undefined) return schema.example;
  if (schema.examples?.length) return schema.examples[0];
  if (schema.default !== undefined && schema.default !== null) return schema.default;
  if (schema.enum) return schema.enum[0];
  if (schema.const !== undefined) return schema.const;
  if (choices) return example(choices[0], depth);
  const type = [schema.type].flat().find((name) => name !== 'null');
  if (type === 'integer' || type === 'number') return schema.minimum ?? 1;
  if (type === 'boolean') return true;
  if (type === 'array') return depth < 3 && schema.items ? [example(schema.items, depth + 1)] : [];
  if (schema.properties && depth < 3) {
    const wanted = Object.entries(schema.properties).filter(([name, value]) => (
      schema.required?.includes(name) || flat(value).schema.example !== undefined));
    return Object.fromEntries(wanted.map(([name, value]) => [name, example(value, depth + 1)]));
  }
  return type === 'object' ? {} : 'text';
}

const needsKey = (operation) => (operation.security ?? spec.security ?? []).some((choice) => Object.keys(choice).length > 0);

function parametersOf(item, operation) {
  return [...(item.parameters ?? []), ...(operation.parameters ?? [])].map((parameter) => resolve(parameter).schema);
}

function body(operation) {
  const { schema } = resolve(operation.requestBody);
  return Object.entries(schema.content ?? {});
}

/** The form fields of a multipart example: what is required, and a file where one may be sent. */
function formArguments(node) {
  const { schema } = flat(node);
  return Object.entries(schema.properties ?? {}).flatMap(([name, value]) => {
    const file = flat(value).schema.format === 'binary';
    if (file) return [`-F ${quoted(`${name}=@first-frame.png`)}`];
    if (!schema.required?.includes(name) && flat(value).schema.example === undefined) return [];
    return [`-F ${quoted(`${name}=${shown(example(value))}`)}`];
  });
}

function command(method, path, item, operation) {
  const parameters = parametersOf(item, operation);
  const parts = [];
  let address = path;
  const query = [];
  for (const parameter of parameters) {
    const value = parameter.example ?? example(parameter.schema ?? {});
    if (parameter.in === 'path') address = address.replace(`{${parameter.name}}`, value === 'text' ? parameter.name.toUpperCase() : encodeURIComponent(value));
    if (parameter.in === 'query' && parameter.required) query.push(`${parameter.name}=${encodeURIComponent(value)}`);
    if (parameter.in === 'header' && parameter.required) parts.push(`-H ${quoted(`${parameter.name}: ${value}`)}`);
  }
  if (needsKey(operation)) parts.push('-H "Authorization: Bearer $LEOMA_NODE_API_KEY"');
  const contents = body(operation);
  const form = contents.find(([type]) => type === 'multipart/form-data');
  const object = contents.find(([type]) => type === 'application/json');
  if (form) {
    parts.push(...formArguments(form[1].schema ?? {}));
  } else if (object) {
    const value = object[1].example ?? example(object[1].schema ?? {});
    parts.push("-H 'Content-Type: application/json'", `-d ${quoted(JSON.stringify(value))}`);
  }
  const answers = Object.keys(resolve(operation.responses?.['200']).schema.content ?? {});
  const flags = answers.includes('text/event-stream') && answers.length === 1 ? '-sSN' : '-sS';
  if (answers.some((type) => type.startsWith('video/'))) parts.push('-o clip.mp4');
  else if (answers.some((type) => type.startsWith('image/'))) parts.push('-o picture');
  const verb = method === 'head' ? ' -I' : method === 'get' || (method === 'post' && contents.length > 0) ? '' : ` -X ${method.toUpperCase()}`;
  const url = `${location.origin}${address}${query.length > 0 ? `?${query.join('&')}` : ''}`;
  return [`curl ${flags}${verb} ${quoted(url)}`, ...parts].join(' \\\n  ');
}

function section(title, ...content) {
  return el('div', {}, el('h3', {}, title), content);
}

function parameterSection(parameters) {
  if (parameters.length === 0) return null;
  return section('Parameters', el('dl', { class: 'fields' }, parameters.map((parameter) => {
    const schema = { ...parameter.schema, description: parameter.description ?? parameter.schema?.description };
    const shape = field(parameter.name, schema, parameter.required, 1, []);
    shape.querySelector('dt').append(el('span', { class: 'type' }, `in the ${parameter.in}`));
    return shape;
  })));
}

function bodySections(operation) {
  return body(operation).map(([type, content]) => section(`Request body, ${type}`,
    paragraphs(flat(content.schema ?? {}).schema.description),
    inside(content.schema ?? {}, 0, [], true) ?? el('p', { class: 'soft' }, typeName(content.schema ?? {}))));
}

function responseSection(operation) {
  const rows = Object.entries(operation.responses ?? {}).map(([status, given]) => {
    const { schema: response } = resolve(given);
    const contents = Object.entries(response.content ?? {});
    const headers = Object.entries(response.headers ?? {});
    const good = /^[23]/.test(status);
    return el('div', {},
      el('p', {}, el('strong', { class: `pill ${good ? 'good' : 'bad'}` }, status), el('span', {}, inline(response.description ?? ''))),
      contents.map(([type, content]) => {
        const fields = inside(content.schema ?? {}, 1, [], true);
        const title = `${type}${content.schema ? `, ${typeName(content.schema)}` : ''}`;
        return fields ? el('details', {}, el('summary', {}, title), fields) : el('p', { class: 'small soft' }, title);
      }),
      headers.length > 0 ? el('p', { class: 'small soft' }, `Headers: ${headers.map(([name]) => name).join(', ')}`) : null);
  });
  return rows.length > 0 ? section('Responses', el('div', { class: 'responses' }, rows)) : null;
}

const anchor = (method, path) => `${method}${path.replace(/[^a-z0-9]+/gi, '-')}`.replace(/-$/, '').toLowerCase();

function render(method, path, item, operation) {
  const id = anchor(method, path);
  const parameters = parametersOf(item, operation);
  const locked = needsKey(operation);
  const content = el('div', { class: 'operation-body' });
  const details = el('details', {},
    el('summary', {},
      el('span', { class: `method ${method}` }, method.toUpperCase()),
      el('span', { class: 'path' }, path),
      el('span', { class: 'lock small soft' }, locked ? 'needs the key' : 'open to all'),
      el('span', { class: 'what' }, operation.summary ?? operation.description?.split('\n')[0] ?? '')),
    content);
  // Most are never opened: what is inside is made when one is.
  const build = () => {
    if (content.childElementCount > 0) return;
    content.append(...[
      operation.description && operation.description !== operation.summary ? paragraphs(operation.description) : null,
      operation.deprecated ? el('p', { class: 'note wait' }, 'Deprecated.') : null,
      parameterSection(parameters),
      ...bodySections(operation),
      responseSection(operation),
      section('Example', shell(command(method, path, item, operation), `Example of ${method.toUpperCase()} ${path}`)),
      el('p', { class: 'small' }, el('a', { href: `#${id}` }, 'Link to this operation')),
    ].filter(Boolean));
  };
  details.addEventListener('toggle', build);
  const element = el('article', { class: 'operation card', id }, details);
  const fields = body(operation).flatMap(([, part]) => Object.keys(flat(part.schema ?? {}).schema.properties ?? {}));
  const words = [method, path, operation.summary, operation.description, operation.operationId, ...parameters.map((p) => p.name), ...fields];
  const link = el('li', {}, el('a', { href: `#${id}` }, el('span', { class: `method ${method}` }, method.toUpperCase()), el('span', {}, path)));
  entries.push({ element, link, words: words.filter(Boolean).join(' ').toLowerCase(), unfold: () => { build(); details.open = true; } });
  return { element, link };
}

function groups() {
  const known = new Map((spec.tags ?? []).map((tag) => [tag.name, { about: tag.description, operations: [] }]));
  for (const [path, item] of Object.entries(spec.paths ?? {})) {
    for (const method of METHODS.filter((name) => item[name])) {
      const tag = item[method].tags?.[0] ?? 'Other';
      if (!known.has(tag)) known.set(tag, { about: '', operations: [] });
      known.get(tag).operations.push(render(method, path, item, item[method]));
    }
  }
  return [...known].filter(([, group]) => group.operations.length > 0);
}

function search() {
  const wanted = $('search').value.toLowerCase().split(/\s+/).filter(Boolean);
  let hits = 0;
  for (const { element, link, words } of entries) {
    const hit = wanted.every((word) => words.includes(word));
    element.hidden = !hit;
    link.hidden = !hit;
    hits += hit ? 1 : 0;
  }
  for (const group of document.querySelectorAll('.group, .docs-side nav > div')) {
    group.hidden = ![...group.querySelectorAll('.operation, li')].some((element) => !element.hidden);
  }
  const noun = entries.length === 1 ? 'operation' : 'operations';
  $('found').textContent = wanted.length > 0 ? `${hits} of ${entries.length} ${noun}` : `${entries.length} ${noun}`;
}

function unfoldAddressed() {
  const entry = entries.find(({ element }) => `#${element.id}` === location.hash);
  if (!entry) return;
  entry.unfold();
  entry.element.scrollIntoView({ block: 'start' });
}

const title = (tag) => tag.replace(/^./, (letter) => letter.toUpperCase());

header(api).then((info) => {
  if (info && !info.auth) $('about').textContent += ' No key is set here: leave the Authorization line out.';
});
try {
  spec = await api.json('/openapi.json');
  const found = groups();
  $('operations').append(...found.map(([tag, { about, operations }]) => el('section', { class: 'group', 'aria-label': title(tag) },
    el('h2', {}, title(tag)), about ? el('p', {}, about) : null, operations.map(({ element }) => element))));
  $('contents').append(...found.map(([tag, { operations }]) => el('div', {},
    el('h2', {}, title(tag)), el('ul', {}, operations.map(({ link }) => link)))));
  $('search').addEventListener('input', search);
  search();
  unfoldAddressed();
  addEventListener('hashchange', unfoldAddressed);
} catch (error) {
  $('problem').replaceChildren(problem(error));
}
