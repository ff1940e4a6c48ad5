// VAEs: what each keeps of the training images, beside the base model's own.
// @ts-check

import { _, begin, html, isOpen, number, resultOf, said, tried } from "./core.js";
import { Broken, Icon, Picker, Working, useEffect, useState } from "./ui.js";

/** @param {{run: import("./core.js").Schemas["RunView"], own: string[], job: import("./core.js").Job | undefined}} props */
export function Vaes({ run, own, job }) {
  const [chosen, setChosen] = useState(/** @type {{id: string, name: string}[]} */ (own.slice(1).map(name => ({ id: name, name }))));
  const [picking, setPicking] = useState(false);
  const [found, setFound] = useState(/** @type {any} */ (null));
  useEffect(() => {
    if (job?.state === "done") tried(async () => setFound(await resultOf(job.id)));
  }, [job?.id, job?.state]);
  const start = () => tried(() => begin(`/runs/${run.id}/vaes`, { vaes: chosen.map((/** @type {any} */ one) => one.id) }));
  return html`<section><h2>${_("VAEs")}</h2>
    <p class="soft small">${_("A VAE turns latents into images. Compared on the training images: what each of them keeps, beside the one of the base model.")}</p>
    <div class="row">${chosen.map((/** @type {any} */ one) => html`<span key=${one.id} class="chip">${one.name}
        <button class="icon-only" aria-label=${_("Remove {name}", { name: one.name })} onClick=${() => setChosen(chosen.filter((/** @type {any} */ other) => other !== one))}><${Icon} name="close" /></button></span>`)}
      <button onClick=${() => setPicking(true)}><${Icon} name="plus" /> ${_("Add a VAE")}</button>
      <button disabled=${!chosen.length || isOpen(job)} onClick=${start}>${_("Compare")}</button></div>
    <${Working} job=${job} />
    <${Broken} job=${job} />
    ${found && html`<${Findings} found=${found} />`}
    ${job?.makes_file && html`<div><a class="button" href=${`/api/jobs/${job.id}/file`} download><${Icon} name="down" /> ${_("Page with crops and difference maps")}</a></div>`}
    ${picking && html`<${Picker} files="models" title=${_("Choose a VAE")} onClose=${() => setPicking(false)} onPick=${(/** @type {any} */ row) => (setPicking(false), setChosen([...chosen, row]))} />`}
  </section>`;
}

/** @param {{found: any}} props */
function Findings({ found }) {
  const purposes = { texture: _("fine detail"), colour: _("color"), lines: _("line art") };
  const columns = { psnr: [_("PSNR, dB"), 1], ssim: ["SSIM", 3], colour: [_("color ΔE"), 2], texture_error: [_("texture error"), 3] };
  return html`<ul class="reasons">${Object.entries(found.advice).map(([key, one]) => html`<li key=${key} class="for">${one.better_by
      ? _("For {purpose}: {vae}", { purpose: purposes[/** @type {keyof typeof purposes} */ (key)], vae: one.vae })
      : _("For {purpose}: the one of the base model; none is better", { purpose: purposes[/** @type {keyof typeof purposes} */ (key)] })}</li>`)}</ul>
    <div class="sheet" tabindex="0"><table><thead><tr><td></td>${Object.values(columns).map(([title]) => html`<th key=${title} scope="col">${title}</th>`)}</tr></thead><tbody>
      ${found.vaes.map((/** @type {any} */ one) => html`<tr key=${one.vae}><th scope="row">${one.vae}</th>${Object.entries(columns).map(([key, [, digits]]) => html`<td key=${key} class="num">${one.measures[key] ? number(one.measures[key].mean, Number(digits)) : "–"}</td>`)}</tr>`)}</tbody></table></div>
    ${found.vaes.flatMap((/** @type {any} */ one) => one.findings).map((/** @type {any} */ one) => html`<p key=${one.code + said(one.message)} class="small warn">${said(one.message)}</p>`)}`;
}
