// Giving a result to others: what would be uploaded to the Hugging Face Hub is looked at first.
// @ts-check

import { _, _n, begin, html, isOpen, language, resultOf, said, size, tried } from "./core.js";
import { Asked, Broken, Languages, Working, useEffect, useState } from "./ui.js";

// Ids that the hub knows; any other can be typed.
const LICENCES = ["creativeml-openrail-m", "openrail++", "stabilityai-ai-community", "cc-by-4.0", "cc-by-nc-4.0", "cc0-1.0", "apache-2.0", "mit", "other"];

/** @param {{run: import("./core.js").Schemas["RunView"], results: import("./core.js").Schemas["Results"], job: import("./core.js").Job | undefined}} props */
export function Publish({ run, results, job }) {
  const [want, setWant] = useState({ to: "", licence: "", language: language.value, which: /** @type {"safe" | "balanced" | "likeness"} */ ("balanced"), base: "", private: false, with_captions: false, overwrite: false });
  const [token, setToken] = useState("");
  const [found, setFound] = useState(/** @type {any} */ (null));
  useEffect(() => {
    setFound(null);
    if (job?.state === "done") tried(async () => setFound(await resultOf(job.id)));
  }, [job?.id, job?.state]);
  const change = (/** @type {Record<string, unknown>} */ more) => setWant({ ...want, ...more });
  const start = (/** @type {boolean} */ dry_run) =>
    tried(async () => {
      // Out of the page, whatever comes of it.
      const used = dry_run ? "" : token;
      if (!dry_run) setToken("");
      await begin(`/runs/${run.id}/publish`, { ...want, to: want.to.trim(), licence: want.licence.trim(), base: want.base.trim(), dry_run, token: used });
    });
  const named = /^[^/\s]+\/[^/\s]+$/.test(want.to.trim());
  const field = (/** @type {"to" | "licence" | "base"} */ key, /** @type {string} */ label, more = {}) => html`<label class="field"><span>${label}</span>
    <input value=${want[key]} spellcheck="false" autocomplete="off" onInput=${(/** @type {any} */ event) => change({ [key]: event.target.value })} ...${more} /></label>`;
  const mark = (/** @type {"private" | "with_captions" | "overwrite"} */ key, /** @type {string} */ label) => html`<label class="row"><input type="checkbox" checked=${want[key]}
    onChange=${(/** @type {any} */ event) => change({ [key]: event.target.checked })} /> <span>${label}</span></label>`;
  const question = want.private ? _("Only you will see it there.") : _("Everyone will see it there.");
  return html`<section><h2>${_("Give it to others")}</h2>
    <p class="soft small">${_("Upload a result to the Hugging Face Hub, with a model card that tells what was measured. No training image, caption or folder is named.")}</p>
    <details open=${!!job}><summary>${_("To the Hugging Face Hub")}</summary><div class="publish">
      <div class="many">${field("to", _("Name there: USER/NAME"), { placeholder: "USER/NAME" })}
        ${field("licence", _("Licence, as a rule that of the base model"), { list: "licences" })}<datalist id="licences">${LICENCES.map(one => html`<option key=${one} value=${one}></option>`)}</datalist>
        <label class="field"><span>${_("Which file")}</span><select value=${want.which} onChange=${(/** @type {any} */ event) => change({ which: event.target.value })}>
          ${results.files.map(one => html`<option key=${one.which} value=${one.which}>${said(one.title)}</option>`)}</select></label>
        <label class="field"><span>${_("Language of the model card")}</span><select value=${want.language} onChange=${(/** @type {any} */ event) => change({ language: event.target.value })}>
          <${Languages} /></select></label>
        ${field("base", _("Base model's name there, if you trained on a file"), { placeholder: "OWNER/MODEL" })}
        <label class="field"><span>${_("Access token that may write")}</span><input type="password" name="hub-token" value=${token} autocomplete="off" spellcheck="false" onInput=${(/** @type {any} */ event) => setToken(event.target.value)} />
          <span class="soft small">${_("For this upload alone: it is not kept. Empty: the login of this machine (hf auth login).")}</span></label></div>
      ${mark("private", _("A private repository, if it is not there yet"))}
      ${mark("overwrite", _("Replace files of the same names there"))}
      ${mark("with_captions", _("Leave captions' tags and folder names in the files"))}
      <div class="row end"><button disabled=${!named || isOpen(job)} onClick=${() => start(true)}>${_("Look at it first")}</button>
        ${named && want.licence.trim() && !isOpen(job) ? html`<${Asked} kind="main" label=${_("Upload")} question=${question} onYes=${() => start(false)} />` : html`<button class="main" disabled>${_("Upload")}</button>`}</div>
      <${Working} job=${job} />
      <${Broken} job=${job} />
      ${found && html`<${Published} found=${found} />`}</div></details></section>`;
}

/** What was uploaded, or would be. @param {{found: any}} props */
function Published({ found }) {
  const count = found.files.length;
  return html`<div class="card done-card" role="status">
    ${/^https?:/.test(found.url) ? html`<h3>${_n("{count} file is uploaded", "{count} files are uploaded", count)}</h3><p><a href=${found.url} target="_blank" rel="noreferrer">${found.url}</a></p>`
      : html`<h3>${_n("{count} file would be uploaded; nothing was yet", "{count} files would be uploaded; nothing was yet", count)}</h3>`}
    <ul class="small">${found.files.map((/** @type {any} */ one) => html`<li key=${one.path}><code>${one.path}</code> <span class="num">${size(one.size_bytes)}</span></li>`)}</ul>
    <details><summary>${_("Model card")}</summary><pre class="card-text" tabindex="0">${found.card}</pre></details></div>`;
}
