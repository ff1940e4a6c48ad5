// Files that are dropped or chosen: read with their folders, sent one by one, with what became of each.
// @ts-check

import { _, _n, Failure, go, html, number, said, send, sendFile, signal, tried } from "./core.js";
import { Bar, Icon, Picker, useRef, useState } from "./ui.js";

const WANTED = /\.(jpe?g|jpe|jfif|a?png|webp|bmp|tiff?|gif|avif|hei[cf]|hif|txt|caption|zip)$/i;
// At a time.
const LANES = 3;

/** What is being sent: to which project, how many, and what was refused. @type {{value: any}} */
export const sending = signal(null);

/** Every file of what was dropped, with its path. @param {DataTransfer} transfer */
async function dropped(transfer) {
  const entries = [...transfer.items].map(item => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return { files: [...transfer.files].map(file => ({ name: file.name, file })), title: "" };
  /** @type {{name: string, file: File}[]} */
  const files = [];
  for (const entry of entries) await walk(/** @type {any} */ (entry), "", files);
  const only = entries.length === 1 && entries[0]?.isDirectory ? entries[0].name : "";
  // What lies in one folder keeps the names inside it.
  return { files: only ? files.map(one => ({ ...one, name: one.name.slice(only.length + 1) })) : files, title: only };
}

/** @param {any} entry @param {string} above @param {{name: string, file: File}[]} files */
async function walk(entry, above, files) {
  const name = above + entry.name;
  if (entry.name.startsWith(".")) return;
  if (entry.isFile) {
    files.push({ name, file: await new Promise((yes, no) => entry.file(yes, no)) });
    return;
  }
  const reader = entry.createReader();
  // A reader gives a hundred at a time.
  for (;;) {
    const some = await new Promise((yes, no) => reader.readEntries(yes, no));
    if (!some.length) return;
    for (const one of some) await walk(one, `${name}/`, files);
  }
}

/** Send files to a project; captions after the images. @param {string} project @param {{name: string, file: File}[]} files */
export async function sendAll(project, files) {
  const wanted = files.filter(one => WANTED.test(one.name));
  wanted.sort((a, b) => Number(/\.(txt|caption)$/i.test(a.name)) - Number(/\.(txt|caption)$/i.test(b.name)));
  const state = { project, done: 0, total: wanted.length, refused: /** @type {any[]} */ ([]), over: false };
  sending.value = { ...state };
  const queue = [...wanted];
  const lane = async () => {
    for (let one = queue.shift(); one; one = queue.shift()) {
      try {
        await sendFile(`/uploads/${project}`, one.name, one.file);
      } catch (error) {
        const told = error instanceof Failure ? error.told : null;
        state.refused.push({ name: one.name, why: told ? told.why : String(error) });
      }
      state.done += 1;
      sending.value = { ...state };
    }
  };
  await Promise.all(Array.from({ length: LANES }, lane));
  sending.value = { ...state, over: true };
  if (wanted.length) await tried(() => send("POST", `/projects/${project}/check`));
}

/** @param {{name: string, file: File}[]} files @param {string} title */
async function startWith(files, title) {
  const zip = files.length === 1 && /\.zip$/i.test(files[0].name) ? files[0].name.replace(/\.zip$/i, "") : "";
  const made = await tried(() => send("POST", "/projects", { name: title || zip || _("My images") }));
  if (!made) return;
  go("projects", made.id, "images");
  await sendAll(made.id, files);
}

/** A place to drop images on; without a project it starts one. @param {{project?: string, small?: boolean}} props */
export function DropZone({ project, small }) {
  const [over, setOver] = useState(false);
  const [picking, setPicking] = useState(false);
  const files = useRef(/** @type {HTMLInputElement | null} */ (null));
  const take = async (/** @type {{name: string, file: File}[]} */ found, title = "") =>
    project ? sendAll(project, found) : startWith(found, title);
  const drop = async (/** @type {DragEvent} */ event) => {
    event.preventDefault();
    setOver(false);
    if (!event.dataTransfer) return;
    const found = await dropped(event.dataTransfer);
    await take(found.files, found.title);
  };
  const picked = async (/** @type {{id: string, name: string}} */ row) => {
    setPicking(false);
    await tried(async () => {
      const name = row.name.split(/[/\\]/).filter(Boolean).at(-1) ?? "";
      const key = project ?? (await send("POST", "/projects", { name })).id;
      if (!project) go("projects", key, "images");
      await send("POST", `/projects/${key}/import`, { place: row.id });
    });
  };
  return html`<section class="drop ${over ? "over" : ""} ${small ? "small-drop" : ""}"
    onDragOver=${(/** @type {DragEvent} */ event) => (event.preventDefault(), setOver(true))}
    onDragLeave=${() => setOver(false)} onDrop=${drop}>
    <${Icon} name="images" />
    <h2>${_("Drop a folder of images here")}</h2>
    <p class="soft">${_("A folder, single files or a zip. The original images are never changed.")}</p>
    <div class="row center">
      <button class=${small ? "" : "main"} onClick=${() => files.current?.click()}>${_("Choose images")}</button>
      <button onClick=${() => setPicking(true)}>${_("Choose a folder of this machine")}</button>
    </div>
    <input ref=${files} type="file" multiple hidden accept="image/*,.zip,.txt,.caption,.heic,.avif" aria-label=${_("Choose images")}
      onChange=${(/** @type {any} */ event) => {
        const found = [...event.target.files].map(file => ({ name: file.name, file }));
        event.target.value = "";
        if (found.length) take(found);
      }} />
    ${picking && html`<${Picker} title=${_("Choose a folder of images")} onPick=${picked} onClose=${() => setPicking(false)} />`}
  </section>`;
}

/** How far the sending is, and what was refused. @param {{project: string}} props */
export function Sending({ project }) {
  const now = sending.value;
  if (!now || now.project !== project || (now.over && !now.refused.length)) return null;
  return html`<div class="card quiet-card" aria-live="polite">
    ${!now.over && html`<div class="row between"><span>${_("Taking copies of your images")}</span>
      <span class="soft small num">${number(now.done)} / ${number(now.total)}</span></div>
      <${Bar} done=${now.done} total=${now.total} />`}
    ${now.refused.length > 0 && html`<details open=${now.over}><summary>${_n("{count} file was not taken", "{count} files were not taken", now.refused.length)}</summary>
      <ul class="small">${now.refused.map((/** @type {any} */ one) => html`<li key=${one.name}><code>${one.name}</code> ${said(one.why)}</li>`)}</ul>
      ${now.over && html`<button class="quiet" onClick=${() => (sending.value = null)}>${_("Close")}</button>`}</details>`}
  </div>`;
}

