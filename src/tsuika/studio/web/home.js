// Home: what is running, the projects, the machine. An empty home is the place to drop images on.
// @ts-check

import { _, _n, begin, duration, get, go, html, imageOf, isOpen, jobs, link, said, send, stop, tried } from "./core.js";
import { DropZone } from "./drop.js";
import { Again, Asked, Bar, Icon, Left, doing, jobLink, stateName, useEffect, useRef, useState, waitingFor } from "./ui.js";

/** @typedef {import("./core.js").Job} Job */

// What died in this time is shown, in seconds.
const LATELY_S = 24 * 60 * 60;

export function Home() {
  const [home, setHome] = useState(/** @type {import("./core.js").Schemas["HomeView"] | null} */ (null));
  const load = () => tried(async () => setHome(await get("/home")));
  const open = Object.values(jobs.value).filter(one => isOpen(one) && one.kind !== "doctor");
  const finished = Object.values(jobs.value).filter(one => one.ended).length;
  useEffect(() => {
    load();
  }, [finished]);
  if (!home) return html`<main class="page"></main>`;
  const projects = home.projects;
  const interrupted = Object.values(jobs.value).filter(one => one.state === "died" && one.kind !== "doctor" && one.way_on && Date.now() / 1000 - (one.ended ?? 0) < LATELY_S && !newer(one));
  return html`<main class="page">
    ${!projects.length && html`<header class="hello"><h1>${_("From a folder of images to a file that works")}</h1>
      <p class="soft">${_("Drop your images, answer three questions, start the training. It stops by itself when it is at its best.")}</p></header>`}
    ${projects.length > 0 && html`<h1 class="unseen">${_("Home")}</h1>`}
    <${DropZone} small=${projects.length > 0} />
    ${!projects.length && !home.runs.length && html`<p class="center soft">${_("No images at hand?")} <button class="quiet" onClick=${demo}>${_("Train on the images that come with tsuika")}</button></p>`}
    ${open.length > 0 && html`<section><h2>${_("At work")}</h2><${Queue} open=${open} projects=${projects} /></section>`}
    ${interrupted.length > 0 && html`<section><h2>${_("Interrupted")}</h2><ul class="rows">
      ${interrupted.map(job => html`<li key=${job.id}><a href=${jobLink(job)}>${titleOf(job, projects)}</a><span class="row"><span class="chip died">${stateName(job.state)}</span><${Again} job=${job} /></span></li>`)}</ul></section>`}
    ${projects.length > 0 && html`<section><h2>${_("Projects")}</h2><div class="tiles">
      ${projects.map(one => html`<${Tile} key=${one.id} project=${one} onGone=${load} />`)}</div></section>`}
    ${home.runs.length > 0 && html`<section><h2>${_("Runs outside of projects")}</h2><ul class="rows">
      ${home.runs.map(run => html`<li key=${run.id}><a href=${link("runs", run.id)}>${run.name}</a>
        <span class="chip ${run.state}">${stateName(run.state)}</span></li>`)}</ul></section>`}
    <nav class="row center narrow" aria-label=${_("More")}><a class="button" href=${link("playground")}>${_("Playground")}</a><a class="button" href=${link("tools")}>${_("Tools")}</a></nav>
    <${Machine} machine=${home.machine} />
  </main>`;
}

const demo = () => tried(async () => go("runs", (await begin("/commands", { command: ["demo"], values: {}, about: {} })).run));

/** What runs, then what waits, in its order. @param {{open: Job[], projects: import("./core.js").Schemas["ProjectShort"][]}} props */
export function Queue({ open, projects }) {
  const list = useRef(/** @type {HTMLUListElement | null} */ (null));
  // The button that was pressed: a row that moves would lose the focus.
  const pressed = useRef("");
  const [told, setTold] = useState("");
  const title = (/** @type {Job} */ job) => titleOf(job, projects);
  const sorted = [...open].sort((a, b) => Number(b.state === "running") - Number(a.state === "running") || a.lane.localeCompare(b.lane) || a.place - b.place);
  const queue = (/** @type {Job} */ job) => sorted.filter(one => one.state === "waiting" && one.lane === job.lane);
  const order = sorted.map(one => one.id).join();
  useEffect(() => {
    const [id, way] = pressed.current.split(" ");
    const job = sorted.find(one => one.id === id);
    if (!job) return;
    const buttons = [...(list.current?.querySelectorAll(`[data-job="${id}"] button:enabled`) ?? [])];
    const next = /** @type {HTMLElement | undefined} */ (buttons.find(one => one.getAttribute("data-way") === way) ?? buttons[0]);
    next?.focus();
    const mine = queue(job);
    setTold(_("{job}: {place} of {count} in the queue", { job: title(job), place: mine.indexOf(job) + 1, count: mine.length }));
  }, [order]);
  const move = (/** @type {Job} */ job, /** @type {"first" | "up" | "down"} */ action) => tried(() => ((pressed.current = `${job.id} ${action}`), send("POST", `/jobs/${job.id}`, { action })));
  const ways = (/** @type {Job} */ job) => {
    const mine = queue(job);
    const at = mine.indexOf(job);
    const way = (/** @type {"up" | "down"} */ action, /** @type {"raise" | "lower"} */ icon, /** @type {string} */ label, /** @type {boolean} */ off) => html`<button class="icon-only" data-way=${action}
      aria-label=${`${label}: ${title(job)}`} title=${label} disabled=${off} onClick=${() => move(job, action)}><${Icon} name=${icon} /></button>`;
    return html`<span class="row ways">${way("up", "raise", _("Earlier"), at === 0)}${way("down", "lower", _("Later"), at === mine.length - 1)}
      <button class="quiet" data-way="first" disabled=${at === 0} onClick=${() => move(job, "first")}>${_("Run next")}</button></span>`;
  };
  return html`<ul class="rows" ref=${list}>${sorted.map(job => html`<li key=${job.id} class="job" data-job=${job.id}>
    <div class="grow"><div class="row between"><a href=${jobLink(job)}>${title(job)}</a>
      <span class="soft small">${job.state === "waiting" ? waitingFor(job) : html`${doing(job)}${job.seconds_left == null ? "" : " · "}<${Left} seconds=${job.seconds_left} />`}</span></div>
      ${job.state !== "waiting" && html`<${Bar} done=${job.done ?? 0} total=${job.total ?? 0} />`}</div>
    ${job.state === "waiting" && queue(job).length > 1 && ways(job)}
    <${Asked} label=${job.state === "waiting" ? _("Cancel") : _("Stop")} question=${_("Really?")}
      onYes=${() => stop(job)} />
  </li>`)}</ul><p class="unseen" role="status">${told}</p>`;
}

/** What a job is called. @param {Job} job @param {import("./core.js").Schemas["ProjectShort"][]} projects */
const titleOf = (job, projects) => [said(job.title), projects.find(one => one.id === job.project)?.name, aboutOf(job)].filter(Boolean).join(" · ");

/** Whether the same was begun since. @param {Job} job */
const newer = job => Object.values(jobs.value).some(one => one.created > job.created && one.kind === job.kind && one.project === job.project && aboutOf(one) === aboutOf(job));

/** What tells a job from others of its kind. @param {Job} job */
function aboutOf(job) {
  const about = /** @type {any} */ (job.about);
  const text = String(about.prompt ?? about.prompts?.[0] ?? about.text ?? about.to ?? "");
  return text.length > 60 ? `${text.slice(0, 59)}…` : text;
}

/** @param {{project: import("./core.js").Schemas["ProjectShort"], onGone: () => void}} props */
function Tile({ project, onGone }) {
  const run = project.runs[0];
  const job = Object.values(jobs.value).find(one => one.project === project.id && one.kind === "train" && isOpen(one));
  const state = job ? job.state : run?.state;
  return html`<article class="tile">
    <a class="cover" href=${link("projects", project.id, state ? (state === "finished" ? "compare" : "train") : "images")} aria-label=${project.name}>
      ${project.cover ? html`<img loading="lazy" alt="" src=${imageOf(project.id, { ...project, id: project.cover }, 512)} />` : html`<span class="blank"><${Icon} name="images" /></span>`}
    </a>
    <div class="row between"><h3>${project.name}</h3>${state && html`<span class="chip ${state}">${stateName(state)}</span>`}</div>
    <div class="row between"><span class="soft small">${_n("{count} image", "{count} images", project.images)} · ${ago(project.touched)}</span>
      <${Asked} label=${_("Remove")} question=${_("Into the studio's trash folder?")}
        onYes=${() => tried(async () => (await send("DELETE", `/projects/${project.id}`), onGone()))} /></div>
    ${job?.state === "running" && html`<${Bar} done=${job.done ?? 0} total=${job.total ?? 0} />`}
  </article>`;
}

/** @param {number} at */
const ago = at => {
  const seconds = Date.now() / 1000 - at;
  return seconds < 60 ? _("just now") : _("{time} ago", { time: duration(seconds) });
};

/** @param {{machine: any}} props */
function Machine({ machine }) {
  if (!machine) return html`<footer class="machine soft small">${_("Looking at this machine")} …</footer>`;
  const device = machine.device === "cpu" ? _("no GPU: training runs on the processor, slowly") : machine.device;
  return html`<footer class="machine soft small"><span>${device}</span><span>${_("memory {size} GB", { size: machine.memory_gib })}</span>
    <span>${_("free disk space {size} GB", { size: machine.disk_free_gib })}</span><span>torch ${machine.libraries.torch}</span><span>tsuika ${machine.libraries.tsuika}</span></footer>`;
}

