// Compare: before and after, the files by strength, what was measured; one of them is taken into use.
// @ts-check

import { _, _n, begin, get, go, html, imageOf, isOpen, jobs, link, number, remember, resultOf, route, said, send, size, tried } from "./core.js";
import { Broken, Icon, Picker, Working, useEffect, useState } from "./ui.js";
import { Folds } from "./folds.js";
import { Publish } from "./publish.js";
import { Vaes } from "./vaes.js";

/** @typedef {import("./core.js").Schemas} Schemas */
/** @typedef {import("./core.js").Job} Job */
/** @typedef {Schemas["RunView"]} Run */

/** What a project's training runs have made, or a run that belongs to none. @param {{project?: Schemas["ProjectView"], run?: string}} props */
export default function Compare({ project, run: given }) {
  const finished = project?.runs.filter(one => one.has_result) ?? [];
  const wished = route.value.query.get("run");
  const id = given ?? finished.find(one => one.id === wished)?.id ?? finished[0]?.id ?? project?.runs[0]?.id;
  const [run, setRun] = useState(/** @type {Run | null} */ (null));
  const [results, setResults] = useState(/** @type {Schemas["Results"] | null} */ (null));
  const mine = Object.values(jobs.value).filter(one => one.about?.run === id).sort((a, b) => a.created - b.created);
  const latest = (/** @type {string} */ kind) => mine.filter(one => one.kind === kind).at(-1);
  const evaluation = latest("evaluate");
  useEffect(() => {
    if (id) tried(async () => setRun(await get(`/runs/${id}`)));
  }, [id]);
  useEffect(() => {
    if (run?.has_result) tried(async () => setResults(await get(`/runs/${id}/results`)));
  }, [run?.has_result, evaluation?.ended]);
  if (!id || (run && !run.has_result))
    return html`<main class="page"><p class="soft">${_("There is nothing to compare yet: no training has finished.")}</p>
      <div><a class="button main" href=${project ? link("projects", project.id, id ? "train" : "plan") : link("runs", id ?? "")}>${id ? _("To the training") : _("To the plan")}</a></div></main>`;
  if (!run || !results) return html`<main class="page"></main>`;
  return html`<main class="page compare">
    ${finished.length > 1 && html`<div class="row"><label for="which-run">${_("Training run")}</label><select id="which-run" value=${id} onChange=${(/** @type {any} */ event) => remember({ run: event.target.value })}>
      ${finished.map(one => html`<option key=${one.id} value=${one.id}>${one.name}</option>`)}</select></div>`}
    <${BeforeAfter} run=${run} />
    <${Files} run=${run} results=${results} job=${latest("export")} />
    <${Sheet} run=${run} job=${latest("grid")} />
    ${project && html`<${Copies} project=${project} run=${run} found=${results.lookalikes} />`}
    <${Folds} run=${run} />
    <${Measured} run=${run} results=${results} job=${evaluation} />
    <${Publish} run=${run} results=${results} job=${latest("publish")} />
    <${Vaes} run=${run} own=${results.vaes} job=${latest("vae compare")} />
  </main>`;
}

/** The base's image beside the result's at the same seed, with a border to move. @param {{run: Run}} props */
function BeforeAfter({ run }) {
  const rows = run.previews.map((one, number) => ({ ...one, number }));
  const last = run.previews.at(-1)?.step;
  const pairs = rows
    .filter(one => one.step === last)
    .map(after => ({ after, before: rows.find(one => one.step === 0 && one.prompt === after.prompt && one.seed === after.seed) }))
    .filter(one => one.before && last);
  const [all, setAll] = useState(false);
  if (!pairs.length) return null;
  return html`<section><h2>${_("Before and after")}</h2><div class="previews wipes">
    ${pairs.slice(0, all ? undefined : 4).map(one => html`<${Wipe} key=${one.after.number} run=${run.id} before=${one.before?.number} after=${one.after.number} prompt=${one.after.prompt} />`)}</div>
    ${pairs.length > 4 && html`<div><button class="quiet" onClick=${() => setAll(!all)}>${all ? _("Less") : _n("{count} more", "{count} more", pairs.length - 4)}</button></div>`}</section>`;
}

/** @param {{run: string, before: number, after: number, prompt: string}} props */
function Wipe({ run, before, after, prompt }) {
  const [at, setAt] = useState(50);
  return html`<figure><div class="wipe">
    <img alt=${_("{prompt}, after", { prompt })} src=${`/api/runs/${run}/previews/${after}?side=512`} />
    <img alt=${_("{prompt}, before", { prompt })} src=${`/api/runs/${run}/previews/${before}?side=512`} style=${{ clipPath: `inset(0 ${100 - at}% 0 0)` }} />
    <span class="edge" style=${{ left: `${at}%` }}></span><span class="tag-left">${_("before")}</span><span class="tag-right">${_("after")}</span>
    <input type="range" min="0" max="100" value=${at} aria-label=${_("Border between before and after: {prompt}", { prompt })} onInput=${(/** @type {any} */ event) => setAt(Number(event.target.value))} />
  </div><figcaption class="small soft">${prompt}</figcaption></figure>`;
}

/** The files, each with "use this one". @param {{run: Run, results: Schemas["Results"], job: Job | undefined}} props */
function Files({ run, results, job }) {
  const about = {
    safe: _("Stopped early: freer in other scenes, a little less like the subject."),
    balanced: _("At its best on images that it was not trained on. Take this one first."),
    likeness: _("Trained longer: more like the subject, less free."),
  };
  const tryOut = (/** @type {string} */ which) =>
    tried(async () => {
      const [{ offer }, { artifacts }] = await Promise.all([import("./playground.js"), get("/artifacts")]);
      offer(artifacts.find(one => one.run === run.id && one.which === which), run);
      go("playground");
    });
  const use = (/** @type {string} */ which, to = "") => tried(() => begin(`/runs/${run.id}/export`, { which: /** @type {"safe" | "balanced" | "likeness"} */ (which), to }));
  return html`<section><h2>${_("The files")}</h2><div class="files">${results.files.map(
    one => html`<article key=${one.which} class="card file ${one.which === "balanced" ? "best" : ""}">
      <div class="row between"><h3>${said(one.title)}</h3><span class="chip num">${_("step {step}", { step: number(one.step) })}</span></div>
      <p class="small soft">${about[/** @type {keyof typeof about} */ (one.which)]}</p>
      <p class="small"><code>${one.name}</code> ${one.bytes ? size(one.bytes) : ""}</p>
      <div class="row"><button class=${one.which === "balanced" ? "main" : ""} onClick=${() => use(one.which)}>${_("Use this one")}</button>
        <button onClick=${() => tryOut(one.which)}>${_("Try it out")}</button>
        ${one.number !== null && html`<a class="quiet button" href=${`/api/runs/${run.id}/artifacts/${one.number}`} download><${Icon} name="down" /> ${_("Download")}</a>`}</div>
    </article>`,
  )}</div>
    <${Working} job=${job} />
    <${Broken} job=${job} />
    ${job?.state === "done" && html`<${Adopted} key=${job.id} job=${job} onCopy=${(/** @type {string} */ to) => use(String(job.about.which), to)} />`}
  </section>`;
}

/** Where the file is now, how each program uses it, and where else to put it. @param {{job: Job, onCopy: (to: string) => void}} props */
function Adopted({ job, onCopy }) {
  const [made, setMade] = useState(/** @type {any} */ (null));
  const [places, setPlaces] = useState(/** @type {Schemas["ProgramRow"][]} */ ([]));
  const [picking, setPicking] = useState(false);
  useEffect(() => {
    tried(async () => {
      setMade(await resultOf(job.id));
      setPlaces((await get("/programs")).programs);
    });
  }, []);
  if (!made) return null;
  const allow = (/** @type {string} */ place) => tried(async () => setPlaces((await send("POST", "/programs", { place })).programs));
  return html`<div class="card done-card" role="status">
    <h3>${_("Written, read back, and the same")}</h3><p><code>${made.file}</code></p>
    ${made.uses.map((/** @type {any} */ one) => html`<div key=${one.program}><p class="small"><strong>${one.program}</strong> ${said(one.how).replaceAll("`", "")}</p>
      ${one.paste && html`<${Paste} text=${one.paste} />`}${one.note && html`<p class="small soft">${said(one.note).replaceAll("`", "")}</p>`}</div>`)}
    <div class="row"><span class="small">${_("Copy it into a program's folder:")}</span>
      ${places.map(one => html`<button key=${one.id} title=${one.path} onClick=${() => (one.allowed ? onCopy(one.id) : allow(one.place))}>${one.allowed ? one.name : _("Allow {name}", { name: one.name })}</button>`)}
      <button class="quiet" onClick=${() => setPicking(true)}>${_("Another folder …")}</button></div>
    ${picking && html`<${Picker} title=${_("Choose the folder of A1111, Forge or ComfyUI")} onClose=${() => setPicking(false)} onPick=${(/** @type {any} */ row) => (setPicking(false), allow(row.id))} />`}
  </div>`;
}

/** Text to paste elsewhere. @param {{text: string}} props */
function Paste({ text }) {
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    await navigator.clipboard?.writeText(text);
    setCopied(true);
  };
  return html`<div class="row paste"><code class="grow">${text}</code><button onClick=${copy}>${copied ? _("Copied") : _("Copy")}</button></div>`;
}

/** Files by strength for each prompt, drawn cell by cell. @param {{run: Run, job: Job | undefined}} props */
function Sheet({ run, job }) {
  const [prompts, setPrompts] = useState(run.previews.at(-1)?.prompt ?? "");
  const [strengths, setStrengths] = useState("0, 0.5, 0.75, 1");
  const asked = prompts.split("\n").map(one => one.trim()).filter(Boolean);
  const numbers = strengths.split(/[\s,、]+/).filter(Boolean).map(Number);
  const possible = asked.length > 0 && numbers.length > 0 && !numbers.some(Number.isNaN);
  const start = () => tried(() => begin(`/runs/${run.id}/grid`, { prompts: asked, strengths: numbers }));
  const cells = (job?.images ?? []).flatMap((one, number) => (one.place ? [{ place: one.place, labels: one.labels ?? [], number }] : []));
  const axis = (/** @type {number} */ at) => [...new Map(cells.map(one => [one.place[at] ?? 0, one.labels[at] ?? ""])).entries()].sort((a, b) => a[0] - b[0]);
  const columns = axis(0);
  const rows = axis(1);
  const sheets = axis(2);
  return html`<section><h2>${_("Comparison grid")}</h2>
    <form class="sheet-form" onSubmit=${(/** @type {Event} */ event) => (event.preventDefault(), possible && start())}>
      <label class="field"><span>${_("Prompts, one a line")}</span><textarea rows="2" value=${prompts} onInput=${(/** @type {any} */ event) => setPrompts(event.target.value)}></textarea></label>
      <label class="field"><span>${_("Strengths")}</span><input value=${strengths} onInput=${(/** @type {any} */ event) => setStrengths(event.target.value)} /></label>
      <button disabled=${!possible || isOpen(job)}>${_("Generate the grid")}</button></form>
    <${Working} job=${job} />
    <${Broken} job=${job} />
    ${sheets.map(([sheet, title]) => html`<div key=${sheet} class="sheet" tabindex="0">${title && html`<h3>${title}</h3>`}<table><thead><tr><td></td>${columns.map(([key, label]) => html`<th key=${key} scope="col">${label}</th>`)}</tr></thead><tbody>
      ${rows.map(([row, label]) => html`<tr key=${row}><th scope="row">${label}</th>${columns.map(([column]) => {
        const cell = cells.find(one => one.place[0] === column && (one.place[1] ?? 0) === row && (one.place[2] ?? 0) === sheet);
        return html`<td key=${column}>${cell ? html`<img alt=${cell.labels.join(", ")} src=${`/api/jobs/${job?.id}/images/${cell.number}?side=512`} />` : html`<div class="empty"></div>`}</td>`;
      })}</tr>`)}</tbody></table></div>`)}
  </section>`;
}

/** Drawings beside the training image that they are nearest to. @param {{project: Schemas["ProjectView"], run: Run, found: any}} props */
function Copies({ project, run, found }) {
  const [images, setImages] = useState(/** @type {Schemas["ImageRow"][]} */ ([]));
  const pairs = (found?.pairs ?? []).slice(0, 4);
  useEffect(() => {
    if (pairs.length) tried(async () => setImages((await get(`/projects/${project.id}/images`)).images));
  }, [pairs.length]);
  const last = run.previews.at(-1)?.step;
  const rows = pairs
    .map((/** @type {any} */ one) => ({
      ...one,
      drawn: run.previews.findIndex(shown => shown.step === last && shown.prompt === one.prompt && shown.seed === one.seed),
      trained: images.find(image => image.name === one.picture),
    }))
    .filter((/** @type {any} */ one) => one.drawn >= 0 && one.trained);
  if (!rows.length) return null;
  return html`<section><h2>${_("Nearest to a training image")}</h2><div class="previews">${rows.map(
    (/** @type {any} */ one) => html`<figure key=${one.prompt + one.seed}><div class="pictures"><img alt=${one.prompt} src=${`/api/runs/${run.id}/previews/${one.drawn}?side=512`} />
      <img alt=${one.picture} src=${imageOf(project.id, one.trained, 512)} /></div>
      <figcaption class="small soft">${one.copies ? html`<span class="chip look">${_("a copy")}</span> ` : ""}${one.prompt} · <code>${one.picture}</code></figcaption></figure>`,
  )}</div></section>`;
}

/** @param {{run: Run, results: Schemas["Results"], job: Job | undefined}} props */
function Measured({ run, results, job }) {
  const found = /** @type {any} */ (results.evaluation);
  const start = () => tried(() => begin(`/runs/${run.id}/evaluate`));
  const percent = (/** @type {any} */ one) => (one ? number(one.mean, 2) : "–");
  return html`<section><h2>${_("Evaluation")}</h2>
    ${!found && !job && html`<p class="soft small">${_("Likeness, adherence to the prompt, diversity, influence on other prompts, and copies, measured on generated images. It takes some minutes.")}</p>`}
    <div><button disabled=${job?.state === "running"} onClick=${start}>${found ? _("Measure again") : _("Measure")}</button></div>
    <${Working} job=${job} />
    <${Broken} job=${job} />
    ${found && html`<p class="sentence">${said(found.verdict.sentence)}</p>
      <div class="sheet" tabindex="0"><table><thead><tr><td></td>${[_("strength"), _("likeness"), _("adherence"), _("diversity"), _("influence on others"), _("copies")].map(one => html`<th key=${one} scope="col">${one}</th>`)}</tr></thead><tbody>
      ${found.points.map((/** @type {any} */ one) => html`<tr key=${one.state + one.strength}><th scope="row">${one.state}${one.best ? " ★" : ""}</th><td class="num">${one.strength}</td><td class="num">${percent(one.fidelity)}</td>
        <td class="num">${percent(one.adherence)}</td><td class="num">${percent(one.diversity)}</td><td class="num">${percent(one.drift)}</td><td class="num">${one.copies}/${one.drawings}</td></tr>`)}</tbody></table></div>`}
  </section>`;
}
