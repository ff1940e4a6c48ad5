// Further folders of images, each with settings of its own.
// @ts-check

import { _, get, html, send, tried } from "./core.js";
import { Field } from "./settings.js";
import { Icon, Marked, Picker, useEffect, useState } from "./ui.js";

// Asked for at once; the rest is folded up.
const FIRST = ["trigger", "class_word", "repeats"];

/** Folders beside the project's own images. @param {{value: unknown, onChange: (value: any[] | undefined) => void}} props */
export function Folders({ value, onChange }) {
  const [about, setAbout] = useState(/** @type {import("./core.js").Schemas["SettingRow"] | undefined} */ (undefined));
  const sets = Array.isArray(value) ? value : [];
  const load = () => about || tried(async () => setAbout((await get("/settings")).settings.find(one => one.key === "data.sets")));
  useEffect(() => {
    if (sets.length) load();
  }, []);
  return html`<details open=${sets.length > 0} onToggle=${load}><summary>${_("More folders of images, each with its own word")}</summary>
    <p class="soft small">${_("They are trained together with the images of this project, and only read.")}</p>
    ${about && html`<${Sets} id="folders" columns=${about.columns ?? []} value=${sets} onChange=${(/** @type {any[]} */ now) => onChange(now.length ? now : undefined)} />`}</details>`;
}

/** @param {{id: string, columns: import("./core.js").Schemas["SettingRow"][], value: any[], onChange: (value: any[]) => void}} props */
export function Sets({ id, columns, value, onChange }) {
  const [picking, setPicking] = useState("");
  const name = (/** @type {any} */ column) => column.key.replace("data.", "");
  const change = (/** @type {number} */ at, /** @type {string} */ key, /** @type {unknown} */ now) =>
    onChange(value.map((one, number) => {
      if (number !== at) return one;
      const { [key]: _old, ...rest } = one;
      return now === undefined || now === "" ? rest : { ...rest, [key]: now };
    }));
  const field = (/** @type {any} */ column, /** @type {any} */ one, /** @type {number} */ at) => html`<label key=${column.key} class="field"><span class="small"><${Marked} text=${column.text} /></span>
    <${Field} id=${`${id}-${at}-${name(column)}`} about=${column} value=${one[name(column)] ?? (column.kind === "text" ? "" : column.default)} onChange=${(/** @type {unknown} */ now) => change(at, name(column), now)} /></label>`;
  const [first, rest] = [true, false].map(wanted => columns.filter(one => name(one) !== "images" && FIRST.includes(name(one)) === wanted));
  return html`<div class="sets" id=${id}>${value.map((one, at) => html`<div key=${at} class="stack">
      <div class="row between"><code class="small grow">${one.images}</code>
        <button class="icon-only" aria-label=${_("Remove {name}", { name: one.images })} onClick=${() => onChange(value.filter((_one, number) => number !== at))}><${Icon} name="close" /></button></div>
      <div class="many">${first.map(column => field(column, one, at))}</div>
      <details><summary class="small">${_("More of this folder's settings")}</summary><div class="many">${rest.map(column => field(column, one, at))}</div></details></div>`)}
    <div class="row"><button onClick=${() => setPicking("images")}><${Icon} name="plus" /> ${_("Add a folder")}</button></div>
    ${picking && html`<${Picker} title=${_("Choose a folder of images")} onClose=${() => setPicking("")} onPick=${(/** @type {any} */ row) => tried(async () => {
      setPicking("");
      onChange([...value, { images: (await send("POST", "/folders/path", { place: row.id })).path }]);
    })} />`}</div>`;
}
