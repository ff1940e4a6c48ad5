// The shell: what is at the top of every screen, and which screen is shown.
// @ts-check

import { _, ended, get, html, isOpen, jobs, language, languages, link, listen, number, online, route, said, send, session, signal, speak, theme, tried, isCommand } from "./core.js";
import { Home } from "./home.js";
import { Drawer, Icon, Languages, Problem, helpOpen, jobLink, stateName, useEffect, useState } from "./ui.js";
import { render } from "./vendor/preact.js";
import "./vendor/signals.js";

// Screens are fetched when they are first opened.
const SCREENS = {
  images: () => import("./images.js"),
  plan: () => import("./plan.js"),
  train: () => import("./train.js"),
  compare: () => import("./compare.js"),
  search: () => import("./search.js"),
  playground: () => import("./playground.js"),
  tools: () => import("./tools.js"),
  runs: () => import("./train.js"),
};
const THEMES = ["auto", "light", "dark"];
/** @type {{value: Record<string, any>}} */
const loaded = signal({});

/** @param {keyof typeof SCREENS} name */
function screen(name) {
  if (!loaded.value[name])
    SCREENS[name]().then(module => (loaded.value = { ...loaded.value, [name]: module.default }));
  return loaded.value[name];
}

/** @type {{value: import("./core.js").Schemas["ProjectView"] | null}} */
export const project = signal(null);

function App() {
  const { parts } = route.value;
  const [first, id, step = "images"] = parts;
  useEffect(() => {
    if (first !== "projects" || project.value?.id === id) return;
    project.value = null;
    tried(async () => (project.value = await get(`/projects/${id}`)));
  }, [first, id]);
  useEffect(() => scrollTo(0, 0), [parts.join("/")]);
  let shown = html`<${Home} />`;
  if (first === "projects" && id) shown = show(step in SCREENS ? step : "images", project.value?.id === id ? { project: project.value, reload } : null);
  else if (first === "runs" && id) shown = show(step === "compare" ? "compare" : "runs", { run: id });
  else if (first === "playground" || first === "tools") shown = show(first, {});
  // A run outside of projects has two of a project's screens.
  const name = first === "projects" || (first === "runs" && step === "compare") ? step : first;
  const title = titleOf(name);
  useEffect(() => {
    document.title = [title, first === "projects" ? project.value?.name : "", "tsuika"].filter(Boolean).join(" – ");
  });
  // Home and the training have a heading of their own.
  return html`<${Top} /><${Offline} />${title && !["train", "runs"].includes(name) && html`<h1 class="unseen">${title}</h1>`}${shown}<${Problem} />${helpOpen.value && html`<${Help} />`}`;
}

/** @param {string} name */
function titleOf(name) {
  const titles = { images: _("Images"), plan: _("Plan"), train: _("Train"), compare: _("Compare"), search: _("Find settings"), runs: _("Train"), playground: _("Playground"), tools: _("Tools") };
  return titles[/** @type {keyof typeof titles} */ (name)] ?? "";
}

/** @param {string} name @param {any} props */
function show(name, props) {
  const Screen = screen(/** @type {keyof typeof SCREENS} */ (name));
  return Screen && props ? html`<${Screen} key=${name + (props.project?.id ?? props.run ?? "")} ...${props} />` : html`<main class="page"></main>`;
}

export async function reload() {
  const now = project.value;
  if (now) await tried(async () => (project.value = await get(`/projects/${now.id}`)));
}

function Top() {
  const { parts } = route.value;
  const inProject = parts[0] === "projects" && project.value;
  const busy = Object.values(jobs.value).find(one => one.state === "running" && one.lane !== "light");
  return html`<header class="top"><nav class="row" aria-label=${_("Main")}>
      <a class="brand" href=${link()} aria-label=${`tsuika – ${_("Home")}`}><img src="/web/icon.svg" alt="" width="26" height="26" /><span>tsuika</span></a>
      ${inProject && html`<${Name} shown=${inProject} />`}</nav>
    ${inProject && html`<${Steps} id=${inProject.id} now=${parts[2] ?? "images"} />`}
    <div class="row end tools">
      <${TellMe} />
      ${busy && !location.hash.startsWith(jobLink(busy)) && html`<a class="busy" href=${jobLink(busy)} title=${`${said(busy.title)}: ${said(busy.phase)}`}>
        <span class="dot"></span><span class="unseen">${said(busy.title)}</span><span class="num">${busy.total ? `${number((100 * (busy.done ?? 0)) / busy.total)}%` : ""}</span></a>`}
      <a class="quiet" href=${link("playground")} aria-current=${parts[0] === "playground" ? "page" : undefined}>${_("Playground")}</a>
      <a class="quiet" href=${link("tools")} aria-current=${parts[0] === "tools" ? "page" : undefined}>${_("Tools")}</a>
      <select aria-label=${_("Language")} value=${language.value} onChange=${(/** @type {any} */ event) => choose(event.target.value)}>
        <${Languages} /></select>
      <button class="icon-only" aria-label=${_("Light or dark")} onClick=${() => (theme.value = THEMES[(THEMES.indexOf(theme.value) + 1) % THEMES.length])}><${Icon} name="sun" /></button>
      <button class="icon-only" aria-label=${_("Help")} onClick=${() => (helpOpen.value = true)}><${Icon} name="help" /></button>
    </div></header>`;
}

/** @param {{shown: import("./core.js").Schemas["ProjectView"]}} props */
function Name({ shown }) {
  const [text, setText] = useState(shown.name);
  useEffect(() => setText(shown.name), [shown.id]);
  const keep = () => text.trim() && text !== shown.name && tried(async () => (await send("PATCH", `/projects/${shown.id}`, { name: text }), await reload()));
  return html`<input class="name" aria-label=${_("Name of the project")} value=${text} size=${Math.max(8, Math.min(24, text.length * 1.6))}
    onInput=${(/** @type {any} */ event) => setText(event.target.value)} onBlur=${keep}
    onKeyDown=${(/** @type {KeyboardEvent} */ event) => event.key === "Enter" && !event.isComposing && /** @type {HTMLElement} */ (event.target).blur()} />`;
}

/** @param {{id: string, now: string}} props */
function Steps({ id, now }) {
  const steps = [["images", _("Images")], ["plan", _("Plan")], ["train", _("Train")], ["compare", _("Compare")]];
  // Settings are looked for on the way from the plan to the training.
  const place = now === "search" ? "plan" : now;
  const at = steps.findIndex(([key]) => key === place);
  return html`<nav class="steps" aria-label=${_("Steps")}>${steps.map(
    ([key, title], number) => html`<a key=${key} href=${link("projects", id, key)} class=${number < at ? "past" : ""} aria-current=${key === place ? "step" : undefined}>
      <span class="count">${number + 1}</span>${title}</a>`,
  )}</nav>`;
}

const Offline = () =>
  !online.value && html`<div class="offline" role="status">${_("The studio does not answer. Jobs go on without it. Start it again with: tsuika studio")}</div>`;

function Help() {
  const rows = [
    ["?", _("This help")], ["Esc", _("Close what is open")], ["← → ↑ ↓", _("Through the images")], ["Space", _("Leave an image out, or put it back")],
    ["Enter", _("Edit the caption")], ["Ctrl + Enter", _("Go on: keep the caption, generate, start")],
  ];
  return html`<${Drawer} title=${_("Help")} onClose=${() => (helpOpen.value = false)}>
    <h3>${_("The way to a file")}</h3>
    <ol><li>${_("Images: drop them, look at what the check says.")}</li><li>${_("Plan: what is it, which base model, which word calls it up.")}</li>
      <li>${_("Train: it stops by itself before it learns the images by heart.")}</li><li>${_("Compare: choose the file you like, and use it in your program.")}</li></ol>
    <h3>${_("Keys")}</h3><dl class="keys">${rows.map(([key, text]) => html`<dt key=${key}><kbd>${key}</kbd></dt><dd>${text}</dd>`)}</dl>
    <p class="soft small">${_("Everything lies in {home}. Nothing leaves this machine unless you publish it.", { home: session.value.home })}</p>
  <//>`;
}

/** @param {string} chosen */
async function choose(chosen) {
  await tried(() => speak(chosen));
  await tried(() => send("PUT", "/language", { language: chosen }));
}

addEventListener("keydown", event => {
  if (event.key === "?" && isCommand(event)) helpOpen.value = true;
});

// A project's runs change with its jobs.
ended.add(job => {
  if (job.project && job.project === project.value?.id) reload();
});

// Seconds from which on a job takes long.
const LONG_S = 20;
const isLong = (/** @type {import("./core.js").Job} */ job) => (job.ended ?? Date.now() / 1000) - job.created > LONG_S;
/** Whether the browser lets us tell; null where it has no notifications. @type {{value: string | null}} */
const mayTell = signal(globalThis.Notification?.permission ?? null);

/** While something takes long, and only until it is answered: an offer to tell when it has ended. Browsers want a click before they ask. */
function TellMe() {
  const [_tick, setTick] = useState(0);
  const open = Object.values(jobs.value).filter(isOpen);
  useEffect(() => {
    const timer = open.length && mayTell.value === "default" ? setInterval(() => setTick(Date.now()), 1000 * LONG_S / 4) : undefined;
    return () => clearInterval(timer);
  }, [open.length > 0, mayTell.value]);
  if (mayTell.value !== "default" || !open.some(isLong)) return null;
  return html`<button class="quiet tell" title=${_("The browser tells when something has ended that takes long.")} onClick=${async () => (mayTell.value = await Notification.requestPermission())}>
    <${Icon} name="bell" /> <span>${_("Tell me when done")}</span></button>`;
}

// A page that is not looked at says when something has ended that took long.
ended.add(job => {
  if (!isLong(job) || !document.hidden || mayTell.value !== "granted") return;
  const told = new Notification(`${said(job.title)}: ${stateName(job.state)}`, { icon: "/web/icon.svg", tag: job.id });
  told.onclick = () => (focus(), (location.hash = jobLink(job)));
});

async function open() {
  session.value = await get("/session");
  languages.value = session.value.languages;
  const wished = [session.value.language ?? "", ...navigator.languages.map(one => one.slice(0, 2))];
  await speak(wished.find(one => languages.value.includes(one)) ?? "en");
  listen();
  const root = /** @type {HTMLElement} */ (document.getElementById("app"));
  root.replaceChildren();
  render(html`<${App} />`, root);
}

open();
