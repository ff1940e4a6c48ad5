// Parts that several screens use.
// @ts-check

import { _, getText, html, isOpen, languages, link, noteJob, number, said, send, signal, stopping, tried, duration, problem } from "./core.js";
import * as hooks from "./vendor/hooks.js";

/** @type {<Value>(first: Value | (() => Value)) => [Value, (now: Value | ((old: Value) => Value)) => void]} */
export const useState = hooks.useState;
/** @type {<Value>(first: Value) => {current: Value}} */
export const useRef = hooks.useRef;
/** @type {(work: () => unknown, on?: unknown[]) => void} */
export const useEffect = hooks.useEffect;

const PATHS = {
  plus: "M12 5v14M5 12h14",
  folder: "M3 7a2 2 0 0 1 2-2h4l2 2h8a2 2 0 0 1 2 2v8a2 2 0 0 1-2 2H5a2 2 0 0 1-2-2z",
  images: "M4 5h16v14H4zM4 15l5-5 4 4 3-2 4 4M15 9h.01",
  undo: "M9 14 4 9l5-5M4 9h11a5 5 0 0 1 0 10h-3",
  next: "M5 12h14M13 6l6 6-6 6",
  check: "M5 13l4 4L19 7",
  close: "M6 6l12 12M18 6 6 18",
  play: "M8 5l11 7-11 7z",
  pause: "M8 5v14M16 5v14",
  stop: "M6 6h12v12H6z",
  camera: "M4 8h4l2-3h4l2 3h4v11H4zM12 17a3.500 3.500 0 1 0 0-7 3.500 3.500 0 0 0 0 7z",
  search: "M11 18a7 7 0 1 0 0-14 7 7 0 0 0 0 14zM20 20l-4-4",
  more: "M5 12h.01M12 12h.01M19 12h.01",
  file: "M6 3h8l4 4v14H6zM14 3v4h4",
  help: "M9.500 9a2.500 2.500 0 1 1 3.500 2.300c-.800.400-1 1-1 1.700M12 17h.01M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18z",
  down: "M12 4v12M6 11l6 6 6-6M5 20h14",
  trash: "M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13",
  up: "M12 19V5M6 11l6-6 6 6",
  raise: "M6 15l6-6 6 6",
  lower: "M6 9l6 6 6-6",
  bell: "M6 16h12l-1.500-2.500V10a4.500 4.500 0 0 0-9 0v3.500zM10.500 19h3",
  sun: "M12 16a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.500 1.500M17.500 17.500 19 19M5 19l1.500-1.500M17.500 6.500 19 5",
};

/** @typedef {import("./core.js").Schemas} Schemas */
/** @param {{name: keyof typeof PATHS}} props */
export const Icon = ({ name }) => html`<svg class="icon" viewBox="0 0 24 24" aria-hidden="true"><path d=${PATHS[name]} /></svg>`;

/** @param {{done: number, total: number, label?: string}} props */
export function Bar({ done, total, label }) {
  const known = total > 0;
  return html`<div class="bar ${known ? "" : "unknown"}" role="progressbar" aria-label=${label ?? _("Progress")}
    aria-valuenow=${known ? done : undefined} aria-valuemax=${known ? total : undefined}>
    <span style=${{ width: known ? `${Math.min(100, (100 * done) / total)}%` : "40%" }}></span></div>`;
}

/** What went wrong: what, where, why and what to do. @param {{error: any, log?: string, children?: any}} props */
export function Trouble({ error, log, children }) {
  if (!error) return null;
  return html`<div class="trouble" role="alert">
    <h3>${error.code && html`<span class="code">${error.code}</span> `}${said(error.what)}</h3>
    ${said(error.why) && html`<p>${said(error.why)}</p>`}
    ${error.where && html`<p class="soft small"><code>${error.where}</code></p>`}
    ${said(error.do) && html`<p>${said(error.do)}</p>`}
    <div class="row">${children}${log && html`<${Log} path=${log} />`}</div>
  </div>`;
}

/** The way on from a job that came to no result, if there is one. @param {{job: import("./core.js").Job}} props */
export function Again({ job }) {
  const again = () => tried(async () => noteJob((await send("POST", `/jobs/${job.id}`, { action: "again" })).job));
  return job.way_on && html`<button class=${job.way_on === "resume" ? "main" : ""} onClick=${again}>${job.way_on === "resume" ? _("Resume") : _("Once more")}</button>`;
}

/** Why a job has no result, if that is so, and the way on: it failed and says why, its process is gone, or somebody stopped it.
 * @param {{job: import("./core.js").Job | undefined}} props */
export function Broken({ job }) {
  if (!job?.ended || job.state === "done") return null;
  const way = html`<${Again} job=${job} />`;
  if (!["failed", "died"].includes(job.state)) return html`<div>${way}</div>`;
  const killed = {
    what: _("Ended unexpectedly: {job}", { job: said(job.title) }),
    why: job.way_on === "resume" ? _("Its process was killed, or the machine went down. What it had saved is still there.") : _("Its process was killed, or the machine went down."),
  };
  return html`<${Trouble} error=${job.error ?? killed} log=${`/jobs/${job.id}/log`}>${way}<//>`;
}

/** What a job has said, one click away. @param {{path: string}} props */
export function Log({ path }) {
  const [text, setText] = useState(/** @type {string | null} */ (null));
  if (text === null)
    return html`<button class="quiet" onClick=${() => tried(async () => setText(await getText(path)))}>${_("Show the log")}</button>`;
  return html`<div class="log"><pre tabindex="0">${text || _("Nothing yet.")}</pre>
    <button class="quiet" onClick=${() => navigator.clipboard?.writeText(text)}>${_("Copy details for a bug report")}</button>
    <button class="quiet" onClick=${() => setText(null)}>${_("Hide")}</button></div>`;
}

/** A job on its way: what it does, how far it is, what it waits for. @param {{job: import("./core.js").Job | undefined, children?: any}} props */
export function Working({ job, children }) {
  if (!job || !isOpen(job)) return null;
  const waits = job.state === "waiting";
  return html`<div class="working" aria-live="polite">
    <div class="row between"><span>${waits ? waitingFor(job) : doing(job)}</span>
      <span class="soft small num">${job.total ? `${number(job.done ?? 0)} / ${number(job.total)}` : ""}</span></div>
    <${Bar} done=${job.done ?? 0} total=${waits ? 0 : job.total ?? 0} />${children}</div>`;
}

/** What a job, or a run of a terminal, does. @param {{id: string, phase?: import("./core.js").Texts} | null | undefined} job */
export const doing = job => (job && stopping.value[job.id] ? _("Stopping") : said(job?.phase) || _("Starting"));

/** @param {{waits_for?: import("./core.js").Texts | null}} job */
export const waitingFor = job =>
  job.waits_for ? _("Waiting for: {job}", { job: said(job.waits_for) }) : _("Waiting for its turn");

/** The screen that shows a job. @param {import("./core.js").Job} job */
export function jobLink(job) {
  const { playground, tool, run } = /** @type {any} */ (job.about);
  if (job.kind === "train") return job.project ? link("projects", job.project, "train") : link("runs", job.run);
  if (playground) return link("playground");
  if (tool) return link("tools", ...tool.split(" "));
  if (run) return job.project ? `${link("projects", job.project, "compare")}?run=${run}` : link("runs", run, "compare");
  if (job.kind === "advise") return link("projects", job.project, "plan");
  if (["find-rate", "search"].includes(job.kind)) return link("projects", job.project, "search");
  return job.project ? link("projects", job.project) : link();
}

/** @param {string} state */
export function stateName(state) {
  const names = {
    waiting: _("waiting"), running: _("running"), done: _("done"), finished: _("finished"), stopped: _("stopped; it can go on"),
    failed: _("failed"), died: _("ended unexpectedly"), cancelled: _("cancelled"),
  };
  return names[/** @type {keyof typeof names} */ (state)] ?? state;
}

/** @param {{title: string, onClose: () => void, children?: any, wide?: boolean}} props */
export function Drawer({ title, onClose, children, wide }) {
  const box = useRef(/** @type {HTMLDialogElement | null} */ (null));
  useEffect(() => {
    box.current?.showModal();
  }, []);
  return html`<dialog ref=${box} class="drawer ${wide ? "wide" : ""}" aria-label=${title} onClose=${onClose}
    onClick=${(/** @type {MouseEvent} */ event) => event.target === box.current && box.current?.close()}>
    <div class="inside"><div class="row between"><h2>${title}</h2>
      <button class="icon-only" aria-label=${_("Close")} onClick=${() => box.current?.close()}><${Icon} name="close" /></button></div>
      ${children}</div></dialog>`;
}

/** Choose a folder of this machine, or with `files` one of these. @param {{onPick: (row: {id: string, name: string}) => void,
 * onClose: () => void, files?: "models" | "all", title: string}} props */
export function Picker({ onPick, onClose, files, title }) {
  const [list, setList] = useState(/** @type {Schemas["Listing"] | null} */ (null));
  const open = (/** @type {string} */ place) => tried(async () => setList(await send("POST", "/folders", { place, files: files ?? "" })));
  useEffect(() => {
    open("");
  }, []);
  return html`<${Drawer} title=${title} onClose=${onClose}>
    ${list && html`<p class="small soft"><code>${list.path || _("This machine")}</code></p>
      <ul class="places">
        ${list.parent !== null && html`<li><button onClick=${() => open(list.parent ?? "")}><${Icon} name="up" /> ..</button></li>`}
        ${list.folders.map(one => html`<li key=${one.id}><button onClick=${() => open(one.id)}><${Icon} name="folder" /> ${one.name}</button></li>`)}
        ${list.files.map(one => html`<li key=${one.id}><button onClick=${() => onPick(one)}><${Icon} name="file" /> ${one.name}</button></li>`)}
      </ul>
      ${list.here && html`<div class="row end sticky">
        ${!files && html`<span class="soft small">${_("Images here: {count}", { count: list.images })}</span>`}
        <button class="main" onClick=${() => onPick({ id: list.here ?? "", name: list.path })}>${_("Choose this folder")}</button></div>`}`}
  <//>`;
}

/** A click that is asked about first. @param {{label: string, question: string, onYes: () => void, kind?: string}} props */
export function Asked({ label, question, onYes, kind }) {
  const [asking, setAsking] = useState(false);
  if (!asking) return html`<button class=${kind ?? "quiet"} onClick=${() => setAsking(true)}>${label}</button>`;
  return html`<span class="asked"><span>${question}</span>
    <button class="danger" onClick=${() => (setAsking(false), onYes())}>${label}</button>
    <button class="quiet" onClick=${() => setAsking(false)}>${_("Cancel")}</button></span>`;
}

export const Problem = () =>
  problem.value &&
  html`<div class="toast"><${Trouble} error=${problem.value}><button class="quiet" onClick=${() => (problem.value = null)}>${_("Close")}</button><//></div>`;

/** A text of the server; `words in backticks` as code. @param {{text: any}} props */
export const Marked = ({ text }) => said(text).split("`").map((part, number) => (number % 2 ? html`<code>${part}</code>` : part));

/** @param {{seconds: number | null | undefined}} props */
export const Left = ({ seconds }) =>
  seconds == null ? null : html`<span class="num">${_("at most {time} left", { time: duration(seconds) })}</span>`;

/** The languages to choose from, each by its own name. */
export const Languages = () =>
  languages.value.map(one => html`<option key=${one} value=${one} lang=${one}>${new Intl.DisplayNames([one], { type: "language" }).of(one)}</option>`);

export const helpOpen = signal(false);
