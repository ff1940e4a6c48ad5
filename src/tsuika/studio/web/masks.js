// Masks by a model: what of each image is learned, looked at before they are taken.
// @ts-check

import { _, _n, begin, html, imageOf, isOpen, jobOf, number, resultOf, said, send, tried } from "./core.js";
import { Broken, Drawer, Icon, Picker, Working, useEffect, useState } from "./ui.js";

// Shown of a set at once.
const SHOWN = 24;

/** @param {{project: import("./core.js").Schemas["ProjectView"], view: any, onClose: () => void, onDone: (data: any) => void}} props */
export function Masks({ project, view, onClose, onDone }) {
  const [want, setWant] = useState({ text: String(project.plan.class_word ?? ""), model: "", mode: /** @type {"missing" | "replace" | "add"} */ ("missing"), threshold: 0.3, grow_px: 10 });
  const [picking, setPicking] = useState(false);
  const [found, setFound] = useState(/** @type {any} */ (null));
  const job = jobOf(project.id, "mask");
  useEffect(() => {
    if (job?.state === "done") tried(async () => setFound(await resultOf(job.id)));
    else setFound(null);
  }, [job?.id, job?.state]);
  const change = (/** @type {Record<string, unknown>} */ more) => setWant({ ...want, ...more });
  const field = (/** @type {string} */ name) => (/** @type {any} */ event) => change({ [name]: event.target.type === "number" ? Number(event.target.value) : event.target.value });
  const made = new Map((found?.images ?? []).filter((/** @type {any} */ one) => one.mask).map((/** @type {any} */ one) => [one.name, one]));
  const rows = view.used.filter((/** @type {any} */ one) => made.has(one.name));
  const masked = view.used.filter((/** @type {any} */ one) => one.mask);
  const take = (/** @type {any[]} */ images, key = "") => tried(async () => onDone(await send("PUT", `/projects/${project.id}/masks`, { images: images.map(one => one.id), job: key })));
  return html`<${Drawer} title=${_("Masks")} onClose=${onClose} wide>
    <p class="soft small">${_("What a mask leaves out is not learned: backgrounds, hands, lettering. Images and masks of another program (NAME-mask.png) can be added together.")}</p>
    <label>${_("What is to be learned, in a few English words")}<input value=${want.text} placeholder="a cat" spellcheck="false" onInput=${field("text")} /></label>
    <details><summary>${_("Model, threshold, margin")}</summary>
      <label>${_("CLIPSeg model: a folder or a Hugging Face model id")}<input value=${want.model} spellcheck="false" placeholder="CIDAS/clipseg-rd64-refined" onInput=${field("model")} /></label>
      <div class="row"><button onClick=${() => setPicking(true)}><${Icon} name="folder" /> ${_("Choose a folder")}</button></div>
      <label>${_("Which masks")}<select value=${want.mode} onChange=${field("mode")}><option value="missing">${_("Only images without a mask")}</option>
        <option value="add">${_("Add what is not shown yet")}</option><option value="replace">${_("Replace all masks")}</option></select></label>
      <label>${_("Least probability, 0 to 1")}<input type="number" min="0" max="1" step="0.05" value=${want.threshold} onChange=${field("threshold")} /></label>
      <label>${_("Margin around it, px")}<input type="number" min="0" max="200" value=${want.grow_px} onChange=${field("grow_px")} /></label></details>
    <div class="row end">${masked.length > 0 && html`<button onClick=${() => take(masked)}>${_n("Take {count} mask away", "Take {count} masks away", masked.length)}</button>`}
      <button disabled=${!want.text.trim() || isOpen(job)} onClick=${() => tried(() => begin(`/projects/${project.id}/masks/model`, want))}>${_("Preview masks")}</button></div>
    <${Working} job=${job} />
    <${Broken} job=${job} />
    ${found?.notes.map((/** @type {any} */ one) => html`<p key=${one.code} class="warn small">${said(one.message)}</p>`)}
    ${rows.length > 0 && html`<div class="row between"><span class="soft small">${_n("{count} mask", "{count} masks", rows.length)}</span>
        <button class="main" onClick=${() => take(rows, job?.id)}>${_("Take them")}</button></div>
      <div class="previews small-previews">${rows.slice(0, SHOWN).map((/** @type {any} */ one) => html`<figure key=${one.id}>
        <${Masked} name=${one.name} image=${imageOf(project.id, one, 256)} mask=${`/api/projects/${project.id}/masks/${job?.id}/${one.id}?side=256`} />
        <figcaption class="small soft"><code>${one.name}</code> <span class="num">${number(100 * made.get(one.name).after)}%</span></figcaption></figure>`)}</div>
      ${rows.length > SHOWN && html`<p class="soft small">${_n("{count} more", "{count} more", rows.length - SHOWN)}</p>`}`}
    ${found && !rows.length && html`<p class="soft">${_("No mask is new.")}</p>`}
    ${picking && html`<${Picker} title=${_("Choose the folder of a CLIPSeg model")} onClose=${() => setPicking(false)} onPick=${(/** @type {any} */ row) => tried(async () => {
      setPicking(false);
      change({ model: (await send("POST", "/folders/path", { place: row.id })).path });
    })} />`}
  <//>`;
}

/** An image with what its mask leaves out in the dark. @param {{name: string, image: string, mask: string}} props */
export const Masked = ({ name, image, mask }) =>
  html`<span class="masked"><img alt=${_("{name} with its mask", { name })} src=${image} /><img class="mask" alt="" src=${mask} /></span>`;
