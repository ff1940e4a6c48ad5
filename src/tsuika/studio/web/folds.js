// Cross-validation: what each training says of the images that it left out.
// @ts-check

import { _, html, number } from "./core.js";
import { Curves, signed } from "./chart.js";

/** @param {{run: import("./core.js").Schemas["RunView"]}} props */
export function Folds({ run }) {
  if (!run.folds.length) return null;
  const curves = run.folds.map(one => ({ name: _("fold {number}", { number: one.fold }), curve: /** @type {any} */ (one.curve) }));
  const steps = run.folds.flatMap(one => one.best_step ?? []);
  return html`<section class="card"><h2>${_("Cross-validation")}</h2>
    <p class="soft small">${_("As many trainings, each without another part of the images: if their best steps lie together, the step can be relied on.")}</p>
    <${Curves} label=${_("Held-out loss of each fold")} curves=${curves} />
    <div class="sheet" tabindex="0"><table><thead><tr>${[_("fold"), _("best step"), _("held-out loss"), _("from"), _("to")].map(one => html`<th key=${one} scope="col">${one}</th>`)}</tr></thead><tbody>
      ${run.folds.map(one => html`<tr key=${one.fold}><th scope="row">${one.fold}</th><td class="num">${one.best_step === null ? "–" : number(one.best_step)}</td>
        ${["mean", "low", "high"].map(key => html`<td key=${key} class="num">${signed(one.best?.[key])}</td>`)}</tr>`)}</tbody></table></div>
    ${steps.length > 1 && html`<p class="small">${_("Best steps from {low} to {high}.", { low: number(Math.min(...steps)), high: number(Math.max(...steps)) })}</p>`}
  </section>`;
}
