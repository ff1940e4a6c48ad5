// Find settings: a learning rate, a search over settings, and cross-validation, all judged by images that are not trained on.
// @ts-check

import { _, _n, begin, duration, get, html, isOpen, jobOf, later, link, number, resultOf, said, send, stop, tried } from "./core.js";
import { Curves, signed } from "./chart.js";
import { Broken, Trouble, Working, stateName, useEffect, useRef, useState } from "./ui.js";

/** @typedef {import("./core.js").Schemas} Schemas */
/** @typedef {{advice: string, option: number, settings: Record<string, unknown>}} Taken */

/** @param {{project: Schemas["ProjectView"], reload: () => Promise<void>}} props */
export default function Search({ project, reload }) {
  const advice = jobOf(project.id, "advise")?.id ?? project.jobs.advise;
  const settings = /** @type {Record<string, unknown>} */ (project.plan.settings ?? {});
  const [checked, setChecked] = useState(/** @type {Schemas["RecipeView"] | null} */ (null));
  const plan = { advice, option: Number(project.plan.option ?? 0), settings };
  const check = useRef(later(200, (/** @type {any} */ body) => tried(async () => setChecked(await send("POST", `/projects/${project.id}/recipe`, body))))).current;
  useEffect(() => {
    if (advice) check(plan);
  }, [advice, JSON.stringify(settings)]);
  const set = (/** @type {Record<string, unknown>} */ more) => {
    const next = { ...settings, ...more };
    for (const key of Object.keys(next)) if (next[key] === undefined) delete next[key];
    return tried(async () => (await send("PATCH", `/projects/${project.id}`, { plan: { ...project.plan, settings: next } }), await reload()));
  };
  if (!advice) return html`<main class="page"><p class="soft">${_("First the plan: what it is, its word, its base model.")}</p><div><a class="button main" href=${link("projects", project.id, "plan")}>${_("To the plan")}</a></div></main>`;
  if (!checked) return html`<main class="page"></main>`;
  return html`<main class="page search-page"><p class="soft">${_("None of this is needed: the advice is a good start. It helps where images or base model are unusual.")}</p>
    ${checked.error && html`<${Trouble} error=${checked.error} />`}
    <${Rates} project=${project} plan=${plan} now=${/** @type {any} */ (checked.values).train.learning_rate} onTake=${set} />
    <${Trials} project=${project} plan=${plan} values=${checked.values} onTake=${set} />
    <${CrossValidation} checked=${checked} onTake=${set} />
    <div class="row end sticky bottom"><a class="button main" href=${link("projects", project.id, "plan")}>${_("To the plan")}</a></div></main>`;
}

/** What a job has printed, once it is done. @param {import("./core.js").Job | undefined} job */
function useResult(job) {
  const [found, setFound] = useState(/** @type {any} */ (null));
  useEffect(() => {
    setFound(null);
    if (job?.state === "done") tried(async () => setFound(await resultOf(job.id)));
  }, [job?.id, job?.state]);
  return found;
}

/** A job under way, or why it has ended. @param {{job: import("./core.js").Job | undefined}} props */
const Standing = ({ job }) =>
  job && html`<${Working} job=${job}><button class="quiet" onClick=${() => stop(job)}>${_("Stop")}</button><//>
    ${job.notes?.map(one => html`<p key=${one.code} class="small soft">${said(one.message)}</p>`)}
    <${Broken} job=${job} />`;

/** @param {{project: Schemas["ProjectView"], plan: Taken, now: number, onTake: (settings: Record<string, unknown>) => void}} props */
function Rates({ project, plan, now, onTake }) {
  const [steps, setSteps] = useState(48);
  const [tryThese, setTryThese] = useState("");
  const job = jobOf(project.id, "find-rate");
  const found = useResult(job);
  const rates = /** @type {any[]} */ (found?.rates ?? []);
  const best = (/** @type {any} */ one) => one.curve.reduce((/** @type {any} */ least, /** @type {any} */ point) => (!least || point.mean < least.mean ? point : least), null);
  return html`<section class="card"><h2>${_("Learning rate")}</h2>
    <p class="soft small">${_("A few steps at several learning rates, measured on images that are left out. Now: {rate}.", { rate: rate(now) })}</p>
    <label class="field"><span class="small">${_("Learning rates to try, e.g. 1e-4,3e-4,1e-3; default: around the recipe's.")} <code>--rates</code></span>
      <input spellcheck="false" placeholder="1e-4,3e-4,1e-3" value=${tryThese} onInput=${(/** @type {any} */ event) => setTryThese(event.target.value)} /></label>
    <div class="row"><label class="row">${_("Steps of each")} <input class="short" inputmode="numeric" value=${steps} onChange=${(/** @type {any} */ event) => setSteps(Number(event.target.value) || 48)} /></label>
      <button disabled=${isOpen(job)} onClick=${() => tried(() => begin(`/projects/${project.id}/rates`, { ...plan, steps, rates: tryThese }))}>${_("Find a learning rate")}</button></div>
    <${Standing} job=${job} />
    ${found && html`<p class="sentence">${said(found.message)}</p>
      ${found.rate && html`<div class="row"><button class="main" disabled=${found.rate === now} onClick=${() => onTake({ "train.learning_rate": found.rate })}>${found.rate === now ? _("Taken") : _("Take {rate}", { rate: rate(found.rate) })}</button></div>`}
      <${Curves} label=${_("Held-out loss of each learning rate")} curves=${rates.map(one => ({ name: rate(one.rate), curve: one.curve }))} />
      <div class="sheet" tabindex="0"><table><thead><tr>${[_("learning rate"), _("held-out loss"), _("at step"), ""].map(one => html`<th key=${one} scope="col">${one}</th>`)}</tr></thead><tbody>
        ${rates.map(one => html`<tr key=${one.rate}><th scope="row" class="num">${rate(one.rate)}</th><td class="num">${signed(best(one)?.mean)}</td><td class="num">${best(one)?.step ?? "–"}</td>
          <td class="small soft">${one.diverged ? _("diverged") : one.left ? _("stopped early") : ""}</td></tr>`)}</tbody></table></div>`}
  </section>`;
}

/** @param {number} value */
const rate = value => (value >= 1e-3 ? number(value, 5) : value.toExponential().replace("e-", "e-").replace("+", ""));

/** @param {{project: Schemas["ProjectView"], plan: Taken, values: Record<string, any>, onTake: (settings: Record<string, unknown>) => void}} props */
function Trials({ project, plan, values, onTake }) {
  const [known, setKnown] = useState(/** @type {Schemas["SettingRow"][]} */ ([]));
  const [rows, setRows] = useState([{ key: "train.learning_rate", values: "1e-4..3e-3" }]);
  const [trials, setTrials] = useState(0);
  const job = jobOf(project.id, "search");
  const found = useResult(job);
  useEffect(() => {
    tried(async () => setKnown((await get("/settings")).settings.filter(one => one.searched && (!one.method || one.method === values.method.name))));
  }, []);
  const over = Object.fromEntries(rows.filter(one => one.key && one.values.trim()).map(one => [one.key, one.values]));
  const edit = (/** @type {number} */ at, /** @type {Record<string, string>} */ more) => setRows(rows.map((one, number) => (number === at ? { ...one, ...more } : one)));
  const shown = /** @type {any[]} */ (found?.trials ?? [...(job?.trials ?? [])].sort((a, b) => (a.value ?? 9) - (b.value ?? 9)));
  const keys = Object.keys(shown[0]?.params ?? {});
  const remark = (/** @type {any} */ one) => (one.number === found?.best ? _("best") : found?.near.includes(one.number) ? _("within chance of the best") : one.state === "done" ? "" : trialState(one.state === "running" && job?.ended ? "stopped" : one.state));
  return html`<section class="card"><h2>${_("Search over settings")}</h2>
    <p class="soft small">${_("Short trainings under guard with other settings; the best of them becomes the plan. The search can be stopped and gone on with at any time.")}</p>
    ${rows.map((one, at) => html`<div key=${at} class="row"><select aria-label=${_("Setting")} value=${one.key} onChange=${(/** @type {any} */ event) => edit(at, { key: event.target.value })}>
        ${known.map(each => html`<option key=${each.key} value=${each.key}>${each.key}</option>`)}</select>
      <input class="grow" aria-label=${_("Values of {name}", { name: one.key })} placeholder="1e-4..3e-3, 8,16,32" value=${one.values} onInput=${(/** @type {any} */ event) => edit(at, { values: event.target.value })} />
      ${rows.length > 1 && html`<button class="quiet" onClick=${() => setRows(rows.filter((_one, number) => number !== at))}>${_("Remove")}</button>`}
      <span class="soft small meaning">${said(known.find(each => each.key === one.key)?.text)}</span></div>`)}
    <div class="row"><button class="quiet" onClick=${() => setRows([...rows, { key: known.find(one => !rows.some(row => row.key === one.key))?.key ?? "", values: "" }])}>${_("Another setting")}</button></div>
    <div class="row"><label class="row">${_("Trials; 0 = all values, or 16 of a range")} <input class="short" inputmode="numeric" value=${trials} onChange=${(/** @type {any} */ event) => setTrials(Number(event.target.value) || 0)} /></label>
      <button disabled=${isOpen(job) || !Object.keys(over).length} onClick=${() => tried(() => begin(`/projects/${project.id}/searches`, { ...plan, over, trials }))}>${_("Search")}</button></div>
    <${Standing} job=${job} />
    ${found && found.best === null && html`<p class="sentence">${_("No trial was better on held-out images than the untrained base model.")}</p>`}
    ${shown.length > 0 && html`<div class="sheet" tabindex="0"><table><thead><tr>${[...keys, _("held-out loss"), _("at step"), "", ""].map((one, at) => html`<th key=${at} scope="col">${one}</th>`)}</tr></thead><tbody>
      ${shown.map(one => html`<tr key=${one.number}>${keys.map(key => html`<td key=${key} class="num">${typeof one.params[key] === "number" ? rate(one.params[key]) : String(one.params[key] ?? "")}</td>`)}
        <td class="num">${signed(one.value)}${one.se == null ? "" : ` ± ${(100 * one.se).toFixed(1)}`}</td><td class="num">${one.step ?? "–"}</td><td class="small soft">${remark(one)}</td>
        <td>${one.state === "done" && html`<button onClick=${() => onTake(one.params)}>${_("Take these")}</button>`}</td></tr>`)}</tbody></table></div>
      <p class="soft small">${_("Loss of held-out images against the base model, ± one standard error.")}</p>`}
  </section>`;
}

/** @param {string} state */
const trialState = state => ({ pruned: _("stopped early"), diverged: _("diverged") })[state] ?? stateName(state);

/** @param {{checked: Schemas["RecipeView"], onTake: (settings: Record<string, unknown>) => void}} props */
function CrossValidation({ checked, onTake }) {
  const folds = Number(/** @type {any} */ (checked.values).guard.folds);
  const { seconds, trainings } = checked.cost;
  return html`<section class="card"><h2>${_("Cross-validation")}</h2>
    <p class="soft small">${_("The training is done several times, each without another part of the images, so that every image judges once: surer with few images, and slower. How the folds compare is shown at the training.")}</p>
    <div class="row"><label class="row">${_("Folds")} <select value=${folds} onChange=${(/** @type {any} */ event) => onTake({ "guard.folds": Number(event.target.value) || undefined })}>
        ${[0, 2, 3, 4, 5, 8, 10, ...([0, 2, 3, 4, 5, 8, 10].includes(folds) ? [] : [folds])].map(one => html`<option key=${one} value=${one}>${one || _("automatic")}</option>`)}</select></label>
      <span class="num">${[_n("{count} training at most", "{count} trainings at most", Math.ceil(trainings)), seconds && _("at most {time}", { time: duration(seconds) })].filter(Boolean).join(" · ")}</span></div>
  </section>`;
}
