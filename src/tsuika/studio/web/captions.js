// Captions: of one image beside it, and of all at once with a look at what would change.
// @ts-check

import { _, _n, begin, html, imageOf, isOpen, jobOf, later, number, resultOf, said, send, tried } from "./core.js";
import { Masked } from "./masks.js";
import { Broken, Drawer, Icon, Picker, Working, useEffect, useRef, useState } from "./ui.js";

/** One image: large, with its caption and what was found. @param {{project: any, image: any, others: any[], onClose: () => void, onUnmask: () => void,
 * onEdit: (action: string, ids: string[]) => void, onCaption: (captions: Record<string, string>) => void, onMove: (by: number) => void}} props */
export function Editor({ project, image, onClose, onUnmask, onEdit, onCaption, onMove }) {
  const [text, setText] = useState(image.caption);
  const kept = useRef(image.caption);
  const keep = (/** @type {string} */ now) => {
    if (now.trim() === kept.current.trim()) return;
    kept.current = now;
    onCaption({ [image.id]: now });
  };
  const now = useRef(text);
  now.current = text;
  // Moving on, or closing, keeps what was written.
  useEffect(() => () => keep(now.current), []);
  const keys = (/** @type {KeyboardEvent} */ event) => {
    if (event.isComposing) return;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      keep(text);
      onMove(1);
      event.preventDefault();
    } else if (event.key === "Escape") {
      keep(text);
      /** @type {HTMLElement} */ (event.target).blur();
      event.stopPropagation();
    }
  };
  const about = image.about;
  return html`<aside class="editor card" aria-label=${image.name}>
    <div class="row between"><code class="small">${image.name}</code>
      <span class="row"><button class="icon-only" aria-label=${_("Previous image")} onClick=${() => onMove(-1)}>‹</button>
      <button class="icon-only" aria-label=${_("Next image")} onClick=${() => onMove(1)}>›</button>
      <button class="icon-only" aria-label=${_("Close")} onClick=${onClose}><${Icon} name="close" /></button></span></div>
    ${image.mask ? html`<${Masked} name=${image.name} image=${imageOf(project.id, image, 512)} mask=${imageOf(project.id, image, 512, image.mask)} />`
      : html`<img class="large" alt=${image.caption || image.name} src=${imageOf(project.id, image, 512)} />`}
    ${about?.usable && html`<p class="soft small num">${about.width} × ${about.height} px</p>`}
    ${image.findings.map((/** @type {any} */ one) => html`<p key=${one.code} class="small"><span class="chip ${one.level}">${said(one.what)}</span> ${said(one.why)} <span class="soft">${said(one.todo)}</span></p>`)}
    <label for="caption">${_("Caption")}</label>
    <textarea id="caption" rows="4" value=${text} placeholder=${_("What is to be seen besides the subject")}
      onInput=${(/** @type {any} */ event) => setText(event.target.value)} onBlur=${() => keep(text)} onKeyDown=${keys}></textarea>
    <div class="row between"><span class="soft small">${about?.tokens != null ? _("{count} of 75 tokens", { count: about.tokens }) : ""}</span>
      <span class="row">${image.mask && html`<button onClick=${onUnmask}>${_("Take the mask away")}</button>`}${about?.bars?.some(Boolean) && !image.left_out && html`<button onClick=${() => onEdit("crop", [image.id])}>${_("Cut the bars off")}</button>`}
      <button onClick=${() => onEdit(image.left_out ? "put-back" : "leave-out", [image.id])}>${image.left_out ? _("Put back") : _("Leave out")}</button></span></div>
  </aside>`;
}

/** All captions: words in front or behind, find and replace, how often each tag stands there. @param {{project: any, view: any, onClose: () => void, onDone: (data: any) => void}} props */
export function Bulk({ project, view, onClose, onDone }) {
  const [action, setAction] = useState("front");
  const [find, setFind] = useState("");
  const [text, setText] = useState("");
  const [found, setFound] = useState(/** @type {Record<string, string>} */ ({}));
  const now = useRef(action);
  now.current = action;
  const ask = useRef(later(250, (/** @type {any} */ given) => tried(async () => {
    const { captions } = await send("POST", `/projects/${project.id}/captions/preview`, given);
    // An answer that comes late is not about what is asked for by now.
    if (now.current === given.action) setFound(captions);
  }))).current;
  const auto = action === "model";
  useEffect(() => {
    if (auto) setFound({});
    else ask({ action, find, text });
  }, [action, find, text]);
  const rows = view.images.filter((/** @type {any} */ one) => one.id in found);
  const apply = () => tried(async () => (onDone(await send("PUT", `/projects/${project.id}/captions`, { captions: found })), setText(""), setFind("")));
  return html`<${Drawer} title=${_("All captions")} onClose=${onClose}>
    <div class="tabs" role="group">${[["front", _("Add in front")], ["behind", _("Add at the end")], ["replace", _("Find and replace")], ["model", _("By a model")]].map(
      ([key, title]) => html`<button key=${key} aria-pressed=${action === key} onClick=${() => setAction(key)}>${title}</button>`,
    )}</div>
    ${action === "replace" && html`<label>${_("Find")}<input value=${find} onInput=${(/** @type {any} */ event) => setFind(event.target.value)} /></label>`}
    ${auto && html`<${ByModel} project=${project} view=${view} onFound=${setFound} />`}
    ${!auto && html`<label>${action === "replace" ? _("Replace with") : _("Words")}<input value=${text} onInput=${(/** @type {any} */ event) => setText(event.target.value)} /></label>`}
    <div class="row between"><span class="soft small">${_n("{count} caption would change", "{count} captions would change", rows.length)}</span>
      <button class="main" disabled=${!rows.length} onClick=${apply}>${_("Change them")}</button></div>
    <ul class="preview small">${rows.slice(0, 30).map((/** @type {any} */ one) => html`<li key=${one.id}><del>${one.caption || "–"}</del><ins>${found[one.id]}</ins></li>`)}</ul>
    <p class="soft small">${_("Captions of another program, as .txt files of the same names, can be added like images.")}</p>
    <${Tags} view=${view} onPick=${(/** @type {string} */ tag) => (setAction("replace"), setFind(tag))} />
  <//>`;
}

/** What was last asked of a model. */
const REMEMBERED = "tsuika-captioning";
const remembered = () => {
  try {
    return JSON.parse(localStorage.getItem(REMEMBERED) ?? "{}");
  } catch {
    return {};
  }
};
const plain = (/** @type {string} */ text) => text.replace(/\s+/g, " ").trim();

/** Captions that a model writes: started, followed, and handed on as what would change. @param {{project: any, view: any,
 * onFound: (captions: Record<string, string>) => void}} props */
function ByModel({ project, view, onFound }) {
  const [want, setWant] = useState({ model: "", mode: "missing", threshold: null, character_threshold: null, exclude: "", ...remembered() });
  const [picking, setPicking] = useState(false);
  const [result, setResult] = useState(/** @type {any} */ (null));
  const job = jobOf(project.id, "caption");
  const change = (/** @type {Record<string, unknown>} */ part) => {
    const next = { ...want, ...part };
    setWant(next);
    localStorage.setItem(REMEMBERED, JSON.stringify(next));
  };
  const start = () =>
    tried(async () => {
      setResult(null);
      onFound({});
      await begin(`/projects/${project.id}/captions/model`, want);
    });
  useEffect(() => {
    if (job?.state === "done") tried(async () => setResult(await resultOf(job.id)));
  }, [job?.id, job?.state]);
  useEffect(() => {
    if (!result) return;
    const made = new Map(result.images.map((/** @type {any} */ one) => [one.name, one]));
    // What was changed after the model had looked stays as it is.
    const rows = view.used.filter((/** @type {any} */ one) => made.has(one.name) && plain(made.get(one.name).before) === plain(one.caption) && made.get(one.name).after !== made.get(one.name).before);
    onFound(Object.fromEntries(rows.map((/** @type {any} */ one) => [one.id, made.get(one.name).after])));
  }, [result, view.images.map((/** @type {any} */ one) => one.caption).join("\n")]);
  const field = (/** @type {string} */ name) => (/** @type {any} */ event) => change({ [name]: event.target.type === "number" ? (event.target.value === "" ? null : Number(event.target.value)) : event.target.value });
  return html`<label>${_("Captioning model: a folder or a Hugging Face model id")}<input value=${want.model} spellcheck="false" placeholder="SmilingWolf/wd-vit-tagger-v3" onInput=${field("model")} /></label>
    <div class="row"><button onClick=${() => setPicking(true)}><${Icon} name="folder" /> ${_("Choose a folder")}</button></div>
    <label>${_("Which captions")}<select value=${want.mode} onChange=${field("mode")}>
      <option value="missing">${_("Only images without a caption")}</option><option value="add">${_("Add what is not there yet")}</option>
      <option value="replace">${_("Replace all captions")}</option></select></label>
    <details><summary>${_("Of taggers only")}</summary>
      <label>${_("Least probability of a tag")}<input type="number" min="0" max="1" step="0.05" placeholder="0.35" value=${want.threshold ?? ""} onChange=${field("threshold")} /></label>
      <label>${_("The same of the names of characters")}<input type="number" min="0" max="1" step="0.05" placeholder="0.85" value=${want.character_threshold ?? ""} onChange=${field("character_threshold")} /></label>
      <label>${_("Tags to leave out, with commas between them")}<input value=${want.exclude} onInput=${field("exclude")} /></label></details>
    <div class="row end"><button disabled=${!want.model.trim() || isOpen(job)} onClick=${start}>${_("Preview captions")}</button></div>
    <${Working} job=${job} />
    <${Broken} job=${job} />
    ${result?.notes.map((/** @type {any} */ one) => html`<p key=${one.code} class="warn small">${said(one.message)}</p>`)}
    ${picking && html`<${Picker} files="models" title=${_("Choose the folder of a captioning model")} onClose=${() => setPicking(false)} onPick=${(/** @type {any} */ row) => tried(async () => {
      setPicking(false);
      change({ model: (await send("POST", "/folders/path", { place: row.id, files: "" })).path });
    })} />`}`;
}

/** How many captions have a tag. @param {{view: any, onPick: (tag: string) => void}} props */
function Tags({ view, onPick }) {
  /** @type {Map<string, number>} */
  const counts = new Map();
  for (const one of view.used)
    for (const tag of new Set(one.caption.split(",").map((/** @type {string} */ part) => part.trim()).filter(Boolean)))
      counts.set(String(tag), (counts.get(String(tag)) ?? 0) + 1);
  const rows = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 60);
  if (!rows.length) return null;
  return html`<h3>${_("Tags and phrases")}</h3><div class="tags">${rows.map(
    ([tag, count]) => html`<button key=${tag} class="tag" onClick=${() => onPick(tag)}>${tag} <span class="num soft">${number(count)}</span></button>`,
  )}</div>`;
}

