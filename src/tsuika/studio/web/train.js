// Train: how far it is, what the guard says, what the result looks like so far. Closing the page changes nothing.
// @ts-check

import { _, _n, get, html, isOpen, jobOf, jobs, link, number, said, send, stop, stopping, tried } from "./core.js";
import { Chart } from "./chart.js";
import { Folds } from "./folds.js";
import { Asked, Bar, Broken, Icon, Left, Log, doing, stateName, useEffect, useRef, useState, waitingFor } from "./ui.js";

/** @typedef {import("./core.js").Schemas} Schemas */
/** @typedef {Schemas["RunView"]} Run */

/** The training of a project, or of a run folder that belongs to none. @param {{project?: Schemas["ProjectView"], run?: string}} props */
export default function Train({ project, run: given }) {
  const job = project ? jobOf(project.id, "train") : Object.values(jobs.value).filter(one => one.run === given).at(-1);
  const id = given ?? job?.run ?? project?.runs[0]?.id;
  const open = isOpen(job) ? job : undefined;
  const [run, setRun] = useState(/** @type {Run | null} */ (null));
  const busy = useRef(false);
  const load = async () => {
    // Its folder is not there until it has begun.
    if (!id || busy.current || job?.way_on === "again" || (isOpen(job) && !said(job?.phase))) return;
    busy.current = true;
    try {
      setRun(await get(`/runs/${id}`));
    } finally {
      busy.current = false;
    }
  };
  useEffect(() => {
    load();
  }, [id, job?.state, job?.step, job?.done, job?.previews, job?.checks, said(job?.phase)]);
  useEffect(() => {
    // A run of a terminal is on no stream, nor one that a terminal goes on with.
    if (open || !id || run?.state === "finished") return undefined;
    // What cannot be read now is read the next time.
    const timer = setInterval(() => load().catch(() => undefined), 2000);
    return () => clearInterval(timer);
  }, [id, !open, run?.state]);
  if (!id) return html`<main class="page"><p class="soft">${_("Nothing was trained yet.")}</p>${project && html`<a class="button main" href=${link("projects", project.id, "plan")}>${_("To the plan")}</a>`}</main>`;
  const state = open || (job && job.state !== "done" && run?.state !== "running" && run?.state !== "finished") ? job?.state ?? "" : run?.state ?? "waiting";
  const ask = (/** @type {"stop" | "sample" | "resume"} */ action) =>
    tried(async () => {
      if (action === "stop") stopping.value = { ...stopping.value, [open?.id ?? id]: true };
      await send("POST", `/runs/${id}`, { action });
      await load();
    });
  return html`<main class="page train">
    <${Head} state=${state} job=${open} run=${run} ask=${ask} compare=${project ? link("projects", project.id, "compare") : link("runs", id, "compare")} />
    ${(["failed", "died"].includes(state) || job?.way_on === "again") && html`<${Broken} job=${job} />`}
    ${run && html`<${Sentence} run=${run} />
      ${(run.losses.length > 2 || /** @type {any} */ (run.guard)?.curve?.length > 0) && html`<section class="card"><${Chart} run=${run} /></section>`}
      <${Folds} run=${run} />
      <${Gallery} run=${run} />
      ${run.warnings.length > 0 && html`<details class="small"><summary>${_n("{count} note", "{count} notes", run.warnings.length)}</summary><ul>${run.warnings.map(
        one => html`<li key=${one.code + one.message.en}>${said(one.message)}</li>`,
      )}</ul></details>`}`}
    <div class="row"><${Log} path=${`/runs/${id}/log`} />
      ${run && html`<a class="quiet button" href=${`/api/runs/${id}/recipe`} target="_blank">${_("Recipe")}</a>`}
      ${run?.state === "finished" && html`<a class="quiet button" href=${`/api/runs/${id}/report`} download>${_("Report to keep")}</a>`}</div>
  </main>`;
}

/** @param {{state: string, job: import("./core.js").Job | undefined, run: Run | null, ask: (action: "stop" | "sample" | "resume") => void, compare: string}} props */
function Head({ state, job, run, ask, compare }) {
  const running = state === "running";
  const title = state === "finished" ? endedBy(run?.stopped_by) : running ? doing(job ?? run) : state === "waiting" ? waitingFor(job ?? {}) : stateName(state);
  const total = running ? job?.total ?? run?.total ?? 0 : 0;
  const done = running ? job?.done ?? run?.done ?? 0 : 0;
  const pauses = running && run?.state === "running";
  const trains = running && (job?.step ?? run?.step ?? 0) > 0;
  return html`<header class="progress-head">
    <div class="row between"><h1>${title}</h1>
      <div class="row">
        ${trains && html`<button onClick=${() => ask("sample")}><${Icon} name="camera" /> ${_("Sample now")}</button>`}
        ${pauses && html`<button onClick=${() => ask("stop")}><${Icon} name="pause" /> ${_("Save and pause")}</button>`}
        ${isOpen(job) && !pauses && html`<${Asked} label=${state === "waiting" ? _("Cancel") : _("Stop")} question=${state === "waiting" ? _("Really?") : _("It is saved, and can go on later.")}
          onYes=${() => job && stop(job)} />`}
        ${["stopped", "cancelled"].includes(state) && run?.can_resume && html`<button class="main" onClick=${() => ask("resume")}><${Icon} name="play" /> ${_("Resume")}</button>`}
        ${state === "stopped" && run?.has_result && html`<a class="button" href=${compare}>${_("Best so far")} <${Icon} name="next" /></a>`}
        ${state === "finished" && html`<a class="button main" href=${compare}>${_("Compare")} <${Icon} name="next" /></a>`}
      </div></div>
    ${(running || isOpen(job)) && html`<${Bar} done=${done} total=${total} />
    <div class="row between soft small"><span class="num">${total ? _("{done} of {total}", { done: number(done), total: number(total) }) : ""}</span><${Left} seconds=${job?.seconds_left ?? run?.seconds_left} /></div>
    <p class="soft small">${_("This page can be closed: the training goes on.")}</p>`}
  </header>`;
}

/** @param {string | undefined} how */
function endedBy(how) {
  const words = {
    guard: _("Finished: stopped when it was at its best"), steps: _("Finished: all steps are done"), user: _("Finished: stopped by you"),
    diverged: _("Stopped: the numbers got out of hand"),
  };
  return words[/** @type {keyof typeof words} */ (how)] ?? _("Finished");
}

/** What the guard says. @param {{run: Run}} props */
function Sentence({ run }) {
  const text = said(run.sentence);
  if (!text) return null;
  const alarm = /** @type {any} */ (run.guard)?.alarms?.some((/** @type {any} */ one) => one.verdict === "warn");
  return html`<p class="sentence ${alarm ? "alarm" : ""}" aria-live="polite">${text}</p>`;
}

/** Previews by step, with a slider over the steps; step 0 is the base model. @param {{run: Run}} props */
function Gallery({ run }) {
  const steps = [...new Set(run.previews.map(one => one.step))].sort((a, b) => a - b);
  const [at, setAt] = useState(/** @type {number | null} */ (null));
  if (!steps.length) return null;
  const place = at === null ? steps.length - 1 : Math.min(at, steps.length - 1);
  const step = steps[place];
  const shown = run.previews.map((one, number) => ({ ...one, number })).filter(one => one.step === step);
  const prompts = [...new Set(shown.map(one => one.prompt))];
  return html`<section class="card gallery"><div class="row between"><h2>${_("Previews")}</h2><span class="num">${step === 0 ? _("before the training") : _("step {step}", { step: number(Number(step)) })}</span></div>
    ${steps.length > 1 && html`<input type="range" min="0" max=${steps.length - 1} value=${place} aria-label=${_("Step of the previews")} aria-valuetext=${String(step)}
      onInput=${(/** @type {any} */ event) => setAt(Number(event.target.value) === steps.length - 1 ? null : Number(event.target.value))} />`}
    <div class="previews">${prompts.map(prompt => html`<figure key=${prompt}><div class="pictures">${shown.filter(one => one.prompt === prompt).map(
      one => html`<img key=${one.seed} alt=${`${prompt}, ${step}`} src=${`/api/runs/${run.id}/previews/${one.number}?side=512&v=${step}`} />`,
    )}</div><figcaption class="small soft">${prompt}</figcaption></figure>`)}</div></section>`;
}

