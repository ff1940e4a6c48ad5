// What a command has made or found.
// @ts-check

import { _, _n, get, html, link, resultOf, said, signal, stop, tried } from "./core.js";
import { Broken, Icon, Working, stateName, useEffect, useState } from "./ui.js";

/** What the keys of results are called. @type {{value: Record<string, import("./core.js").Texts>}} */
export const labels = signal({});

/** What a command has printed. @param {{job: import("./core.js").Job}} props */
export function Outcome({ job }) {
  const [found, setFound] = useState(/** @type {any} */ (null));
  useEffect(() => {
    if (job.state !== "done") return;
    tried(async () => {
      if (!Object.keys(labels.value).length) labels.value = (await get("/commands")).labels;
      setFound(await resultOf(job.id));
    });
  }, [job.state]);
  return html`<article class="card outcome"><div class="row between"><code class="small">${job.command}</code><span class="chip ${job.state}">${stateName(job.state)}</span></div>
    <${Working} job=${job}><button class="quiet" onClick=${() => stop(job)}>${_("Cancel")}</button><//>
    <${Broken} job=${job} />
    ${job.notes?.map(one => html`<p key=${one.code} class="small warn">${said(one.message)}</p>`)}
    ${job.run && html`<div><a class="button" href=${link("runs", job.run)}>${_("To the training")}</a></div>`}
    ${job.makes_file && html`<div><a class="button" href=${`/api/jobs/${job.id}/file`} download><${Icon} name="down" /> ${_("Download")}</a></div>`}
    <div class="pictures">${(job.images ?? []).map((_one, number) => html`<img key=${number} alt="" src=${`/api/jobs/${job.id}/images/${number}?side=512`} />`)}</div>
    ${found && html`<${Value} value=${found} top />`}</article>`;
}

/** A value of JSON, for people. @param {{value: any, top?: boolean}} props */
function Value({ value, top }) {
  if (value === null || value === "") return html`<span class="soft">–</span>`;
  if (Array.isArray(value)) return value.length ? html`<ul>${value.slice(0, 40).map((one, number) => html`<li key=${number}><${Value} value=${one} /></li>`)}</ul>` : html`<span class="soft">–</span>`;
  if (typeof value === "object") return "en" in value ? said(value) : html`<${Table} value=${value} top=${top} />`;
  return String(value);
}

/** A long table inside another is folded up. @param {{value: Record<string, any>, top?: boolean}} props */
function Table({ value, top }) {
  const rows = Object.entries(value);
  const table = html`<dl class="values">${rows.map(([key, one]) => html`<div key=${key}><dt>${said(labels.value[key]) || key}</dt><dd><${Value} value=${one} /></dd></div>`)}</dl>`;
  return !top && rows.length > 8 ? html`<details><summary class="num">${_n("{count} entry", "{count} entries", rows.length)}</summary>${table}</details>` : table;
}
