// What every screen needs: texts, the server, the address, the jobs. No markup.
// @ts-check

import { effect, signal } from "./vendor/signals.js";
import * as markup from "./vendor/htm-preact.js";

export { effect, signal };

/** Markup in a template. @type {(strings: TemplateStringsArray, ...values: any[]) => any} */
export const html = /** @type {any} */ (markup).html;

/** A text in every language, as the server sends it. @typedef {Record<string, string>} Texts */
/** What the server's answers are, by name: its schema. @typedef {import("studio").Schemas} Schemas */
/** @typedef {Schemas["JobView"]} Job */

// --- texts ---

/** @type {{value: string}} */
export const language = signal("en");
/** @type {{value: string[]}} */
export const languages = signal(["en"]);
/** @type {{value: Record<string, string | string[]>}} */
const catalogue = signal({});

/** @param {string} text @param {Record<string, unknown>} [params] */
const filled = (text, params) => (params ? text.replace(/\{(\w+)\}/g, (all, name) => String(params[name] ?? all)) : text);

/** A message of the page; English in the code, other languages by the catalogue.
 * @param {string} message @param {Record<string, unknown>} [params] */
export function _(message, params) {
  const found = catalogue.value[message];
  return filled(typeof found === "string" ? found : message, params);
}

/** A message about `count` things. @param {string} singular @param {string} plural @param {number} count
 * @param {Record<string, unknown>} [params] */
export function _n(singular, plural, count, params) {
  const found = catalogue.value[singular];
  const forms = Array.isArray(found) ? found : [singular, plural];
  return filled(forms[count === 1 ? 0 : 1], { count: number(count), ...params });
}

/** A text that the server has sent, in the language in use. A setting to change stands in it as on a command line; here it is
 * found under "All settings". @param {Texts | string | null | undefined} texts */
export function said(texts) {
  const text = !texts ? "" : typeof texts === "string" ? texts : texts[language.value] ?? texts.en ?? "";
  // A command in brackets is for a terminal; here a screen does the same.
  const plain = text.replace(/ ?\(tsuika [\w -]+\)/g, "").replace(/--set ([\w.]+)=([^\s;,]+)/g, "$1 = $2");
  // A whole command line stays as it is.
  if (plain.includes("tsuika ")) return plain;
  return plain.replace(/--([\w-]+) (\w[\w.]*)/g, (all, flag, value) => {
    const key = session.value?.flags[flag.replaceAll("-", "_")];
    return key ? `${key} = ${value}` : all;
  });
}

/** @param {string} chosen */
export async function speak(chosen) {
  catalogue.value = await get(`/texts/${chosen}`);
  language.value = chosen;
  document.documentElement.lang = chosen;
}

/** @param {number} value @param {number} [digits] */
export const number = (value, digits = 0) =>
  value.toLocaleString("en-US", { maximumFractionDigits: digits, minimumFractionDigits: 0 });

/** Seconds for people. @param {number} seconds */
export function duration(seconds) {
  if (seconds < 90) return _("{count} s", { count: Math.max(1, Math.round(seconds)) });
  if (seconds < 5400) return _("{count} min", { count: Math.round(seconds / 60) });
  if (seconds < 129600) return _("{count} h", { count: number(seconds / 3600, seconds < 36000 ? 1 : 0) });
  return _("{count} days", { count: number(seconds / 86400, 1) });
}

/** @param {number} bytes */
export const size = bytes =>
  bytes >= 1e9 ? `${number(bytes / 1e9, 1)} GB` : bytes >= 1e6 ? `${number(bytes / 1e6, 1)} MB` : bytes >= 1e3 ? `${number(bytes / 1e3)} kB` : `${bytes} B`;

// --- the server ---

export const online = signal(true);
/** @type {{value: Schemas["Session"]}} */
export const session = signal(/** @type {any} */ (null));

/** What the server says is wrong. */
export class Failure extends Error {
  /** @param {any} told @param {number} status */
  constructor(told, status) {
    super(said(told?.what) || String(status));
    this.told = told;
    this.status = status;
  }
}

/** @param {string} path @param {RequestInit} [options] */
async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    online.value = false;
    throw error;
  }
  if (answer.status === 401) location.replace("/enter");
  if (!answer.ok) throw new Failure((await answer.json().catch(() => ({}))).error, answer.status);
  return answer;
}

/** An answer of the server; there is none but at the addresses that its schema has. @template {string} Address
 * @param {import("studio").Known<"get", Address>} path @returns {Promise<import("studio").Answer<"get", Address>>} */
export const get = async path => (await ask(`/api${path}`)).json();

/** @param {string} path */
export const getText = async path => (await ask(`/api${path}`)).text();

/** Ask the server to change something. @template {Uppercase<import("studio").Method>} Verb @template {string} Address
 * @param {Verb} method @param {import("studio").Known<Lowercase<Verb>, Address>} path @param {import("studio").Body<Lowercase<Verb>, Address>} [body]
 * @returns {Promise<import("studio").Answer<Lowercase<Verb>, Address>>} */
export async function send(method, path, body) {
  const headers = { "content-type": "application/json", "x-tsuika-token": session.value.token };
  return (await ask(`/api${path}`, { method, headers, body: JSON.stringify(body ?? {}) })).json();
}

/** Ask for a job, and take it in before the stream tells of it. @template {string} Address @param {import("studio").Known<"post", Address>} path
 * @param {import("studio").Body<"post", Address>} [body] @returns {Promise<Job>} */
export async function begin(path, body) {
  const { job } = /** @type {{job: string}} */ (await send("POST", path, body));
  return noteJob((await get(`/jobs/${job}`)).job);
}

/** What a job has printed. @param {string} id @returns {Promise<any>} */
export const resultOf = async id => (await get(`/jobs/${id}`)).result;

/** @param {string} path @param {string} name @param {Blob} file @returns {Promise<any>} */
export async function sendFile(path, name, file) {
  const headers = {
    "content-type": "application/octet-stream",
    "x-tsuika-token": session.value.token,
    "x-file-name": encodeURIComponent(name),
  };
  return (await ask(`/api${path}`, { method: "POST", headers, body: file })).json();
}

/** An image of a project, or what `id` names beside it, made small. @param {string} project @param {{id: string, version: string}} image @param {number} side @param {string} [id] */
export const imageOf = (project, image, side, id) => `/api/projects/${project}/images/${id ?? image.id}?side=${side}&v=${image.version}`;

// --- the address: `#/projects/ID/images?show=left-out` ---

const read = () => {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  return { parts: path.split("/").filter(Boolean), query: new URLSearchParams(query ?? "") };
};
export const route = signal(read());
addEventListener("hashchange", () => (route.value = read()));

/** @param {...string} parts */
export const link = (...parts) => `#/${parts.join("/")}`;

/** @param {...string} parts */
export const go = (...parts) => (location.hash = link(...parts).slice(1));

/** Put something into the address, without a step back. @param {Record<string, string | null>} values */
export function remember(values) {
  const { parts, query } = read();
  for (const [key, value] of Object.entries(values)) value === null ? query.delete(key) : query.set(key, value);
  const text = query.toString();
  history.replaceState(null, "", link(...parts) + (text ? `?${text}` : ""));
  route.value = read();
}

// --- jobs, as the stream tells of them ---

/** @type {{value: Record<string, Job>}} */
export const jobs = signal({});
/** Told by the stream, for whoever is concerned. @type {{value: any}} */
export const imported = signal(null);

/** The latest job of a project and a kind. @param {string} project @param {string} kind */
export const jobOf = (project, kind) =>
  Object.values(jobs.value)
    .filter(one => one.project === project && one.kind === kind)
    .sort((a, b) => a.created - b.created)
    .at(-1);

export const isOpen = (/** @type {Job | undefined} */ job) => job?.state === "running" || job?.state === "waiting";

/** Called with a job that has just ended. @type {Set<(job: Job) => void>} */
export const ended = new Set();

export function listen() {
  const stream = new EventSource("/api/events");
  stream.onopen = () => (online.value = true);
  stream.onerror = () => (online.value = false);
  stream.onmessage = event => {
    const told = JSON.parse(event.data);
    if (told.jobs) jobs.value = { ...jobs.value, ...Object.fromEntries(told.jobs.map((/** @type {any} */ one) => [one.id, one])) };
    if (told.import) imported.value = told.import;
    if (told.job) {
      const before = jobs.value[told.job.id];
      jobs.value = { ...jobs.value, [told.job.id]: told.job };
      if (told.job.ended && !before?.ended) for (const tell of ended) tell(told.job);
    }
  };
}

/** Take in a job that an answer has brought, before the stream does. @param {Job} job */
export function noteJob(job) {
  jobs.value = { ...jobs.value, [job.id]: job };
  return job;
}

/** Jobs that were asked to stop and have not yet: what they do is saved first. @type {{value: Record<string, true>}} */
export const stopping = signal({});

/** Take a job out of its queue, or ask it to save and stop. @param {Job} job */
export const stop = job =>
  tried(async () => {
    stopping.value = { ...stopping.value, [job.id]: true };
    noteJob((await send("POST", `/jobs/${job.id}`, { action: "stop" })).job);
  });

// --- small things ---

/** Something that went wrong, shown until it is put away. @type {{value: any}} */
export const problem = signal(null);

/** Do something, and show what goes wrong. @template T @param {() => Promise<T>} work @returns {Promise<T | undefined>} */
export async function tried(work) {
  try {
    return await work();
  } catch (error) {
    problem.value = error instanceof Failure && error.told ? error.told : { what: String(error) };
    return undefined;
  }
}

/** Call after it was quiet for a while. @param {number} ms @param {(...given: any[]) => void} work */
export function later(ms, work) {
  /** @type {number | undefined} */
  let timer;
  return (/** @type {any[]} */ ...given) => {
    clearTimeout(timer);
    timer = setTimeout(work, ms, ...given);
  };
}

/** Whether a key was pressed for us: not while an input method composes, not in a field. @param {KeyboardEvent} event */
export const isCommand = event =>
  !event.isComposing && !(event.target instanceof HTMLElement && event.target.closest("input, textarea, select, [contenteditable]"));

export const theme = signal(localStorage.getItem("tsuika-theme") ?? "auto");
effect(() => {
  document.documentElement.dataset.theme = theme.value;
  localStorage.setItem("tsuika-theme", theme.value);
});
