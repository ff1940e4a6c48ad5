// Images: what the check says of them, and what is done about it; every change can be undone.
// @ts-check

import { _, _n, get, html, imageOf, imported, isCommand, jobOf, later, link, remember, route, said, send, tried } from "./core.js";
import { Bulk, Editor } from "./captions.js";
import { Masks } from "./masks.js";
import { DropZone, Sending, sending } from "./drop.js";
import { Bar, Broken, Drawer, Icon, Working, useEffect, useRef, useState } from "./ui.js";

// Of a picture in the grid with its gap, px.
const CELL = 156;

/** While images come, the list is read again when there are some more than before; of thousands, seldom. @param {number} [count] */
const stage = (count = 0) => Math.floor(6 * Math.log2(1 + count / 8));

/** @param {{project: import("./core.js").Schemas["ProjectView"], reload: () => void}} props */
export default function Images({ project }) {
  const [data, setData] = useState(/** @type {any} */ (null));
  const [bulk, setBulk] = useState(false);
  const [adding, setAdding] = useState(false);
  const [masking, setMasking] = useState(false);
  const show = route.value.query.get("show") ?? "all";
  const selected = route.value.query.get("image");
  const job = jobOf(project.id, "check");
  const load = () => tried(async () => setData(await get(`/projects/${project.id}/images`)));
  const came = imported.value?.project === project.id ? imported.value : null;
  const sent = sending.value?.project === project.id ? sending.value : null;
  useEffect(() => {
    load();
  }, [job?.ended, stage(sent?.done), sent?.over, stage(came?.done), came?.over]);
  useEffect(() => {
    if (came?.over) tried(() => send("POST", `/projects/${project.id}/check`));
  }, [came?.over]);
  // The trigger word was asked for after the check had run.
  const stale = data?.check && data.check.captions?.trigger !== project.plan.trigger;
  useEffect(() => {
    if (stale) tried(() => send("POST", `/projects/${project.id}/check`));
  }, [stale]);
  const recheck = useRef(later(1200, () => tried(() => send("POST", `/projects/${project.id}/check`)))).current;

  const take = (/** @type {import("./core.js").Schemas["ImagesView"]} */ fresh) => (setData(fresh), recheck());
  const act = (/** @type {() => Promise<import("./core.js").Schemas["ImagesView"]>} */ work) => tried(async () => take(await work()));
  const soFar = useRef(/** @type {{job?: string, findings: any[]}} */ ({ findings: [] }));
  if (job?.findings?.length) soFar.current = { job: job.id, findings: job.findings };
  if (!data) return html`<main class="page"></main>`;
  // The check that runs, or whose result is not here yet.
  const underWay = job && job.id === soFar.current.job && job.id !== data.check?.job;
  const view = viewOf(data, underWay ? soFar.current.findings : []);
  const shown = view.images.filter((/** @type {any} */ one) => (show === "out" ? one.left_out : show === "look" ? one.findings.length && !one.left_out : true));
  const chosen = view.images.find((/** @type {any} */ one) => one.id === selected);
  const edit = (/** @type {"leave-out" | "put-back" | "crop"} */ action, /** @type {string[]} */ images) => act(() => send("POST", `/projects/${project.id}/edit`, { action, images }));

  if (!view.images.length && !sent && !came)
    return html`<main class="page"><${DropZone} project=${project.id} /></main>`;
  return html`<main class="page images">
    <${Sending} project=${project.id} />
    ${came && !came.over && html`<div class="card quiet-card"><span>${_("Taking copies of your images")}</span><${Bar} done=${came.done ?? 0} total=${came.total ?? 0} /></div>`}
    <${Headline} view=${view} check=${data.check} word=${project.plan.trigger} />
    <${Working} job=${job} />
    ${!data.check?.pictures?.length && html`<${Broken} job=${job} />`}
    <${Findings} view=${view} edit=${edit} onShow=${(/** @type {string} */ id) => remember({ image: id })} />
    <div class="row between toolbar">
      <div class="tabs" role="group" aria-label=${_("Which images are shown")}>${[["all", _("All"), view.images.length], ["look", _("To check"), view.look], ["out", _("Put aside"), view.out]].map(
        ([key, title, count]) => html`<button key=${key} aria-pressed=${show === key} onClick=${() => remember({ show: key === "all" ? null : String(key) })}>${title} <span class="num soft">${count}</span></button>`,
      )}</div>
      <div class="row">
        ${data.undo && html`<button onClick=${() => act(() => send("POST", `/projects/${project.id}/undo`))}><${Icon} name="undo" /> ${_("Undo: {change}", { change: said(data.undo) })}</button>`}
        <button onClick=${() => setBulk(true)}>${_("All captions")}</button>
        <button onClick=${() => setMasking(true)}>${_("Masks")}</button>
        <button onClick=${() => setAdding(true)}><${Icon} name="plus" /> ${_("Add images")}</button>
      </div>
    </div>
    <div class="split ${chosen ? "open" : ""}">
      <${Grid} project=${project.id} images=${shown} captioned=${view.captioned > 0} selected=${selected} onSelect=${(/** @type {string | null} */ id) => remember({ image: id })}
        onToggle=${(/** @type {any} */ one) => edit(one.left_out ? "put-back" : "leave-out", [one.id])} />
      ${chosen && html`<${Editor} key=${chosen.id} project=${project} image=${chosen} others=${shown} onClose=${() => remember({ image: null })}
        onEdit=${edit} onCaption=${(/** @type {Record<string, string>} */ captions) => act(() => send("PUT", `/projects/${project.id}/captions`, { captions }))}
        onUnmask=${() => act(() => send("PUT", `/projects/${project.id}/masks`, { images: [chosen.id] }))}
        onMove=${(/** @type {number} */ by) => move(shown, selected, by)} />`}
    </div>
    <div class="row end sticky bottom"><a class="button main" href=${link("projects", project.id, "plan")}>${_("On to the plan")} <${Icon} name="next" /></a></div>
    ${bulk && html`<${Bulk} project=${project} view=${view} onClose=${() => setBulk(false)} onDone=${take} />`}
    ${masking && html`<${Masks} project=${project} view=${view} onClose=${() => setMasking(false)} onDone=${(/** @type {any} */ fresh) => (setMasking(false), take(fresh))} />`}
    ${adding && html`<${Drawer} title=${_("Add images")} onClose=${() => setAdding(false)}><${DropZone} project=${project.id} small /><//>`}
  </main>`;
}

/** Images with what the last check found about each, and of those that it does not know what the one under way has found so far.
 * @param {any} data @param {any[]} soFar */
export function viewOf(data, soFar) {
  const checked = new Map((data.check?.pictures ?? []).map((/** @type {any} */ one) => [one.name, one]));
  const inside = new Set(data.images.filter((/** @type {any} */ one) => !one.left_out).map((/** @type {any} */ one) => one.name));
  const unknown = soFar.map(one => ({ ...one, pictures: one.pictures.filter((/** @type {string} */ name) => !checked.has(name)) }));
  const findings = merged(data.check?.findings ?? [], unknown.filter(one => one.pictures.length))
    .map(one => ({ ...one, names: one.pictures, pictures: one.pictures.filter((/** @type {string} */ name) => inside.has(name)) }))
    .filter(one => one.pictures.length || !one.names.length);
  /** @type {Map<string, any[]>} */
  const byName = new Map();
  for (const one of findings)
    if (one.level !== "note") for (const name of one.pictures) byName.set(name, [...(byName.get(name) ?? []), one]);
  const images = data.images.map((/** @type {any} */ one) => ({ ...one, about: checked.get(one.name), findings: (!one.left_out && byName.get(one.name)) || [] }));
  const used = images.filter((/** @type {any} */ one) => !one.left_out);
  return {
    images,
    findings,
    used,
    look: used.filter((/** @type {any} */ one) => one.findings.length).length,
    out: images.length - used.length,
    usable: used.filter((/** @type {any} */ one) => one.about?.usable ?? true).length,
    captioned: used.filter((/** @type {any} */ one) => one.caption).length,
    masked: used.filter((/** @type {any} */ one) => one.mask).length,
  };
}

/** Findings of two checks as one list. @param {any[]} first @param {any[]} second */
function merged(first, second) {
  /** @type {Map<string, any>} */
  const rows = new Map();
  for (const one of [...first, ...second]) {
    const key = `${one.code} ${one.level}`;
    const before = rows.get(key);
    rows.set(key, before ? { ...before, pictures: [...before.pictures, ...one.pictures] } : one);
  }
  return [...rows.values()];
}

/** @param {any[]} images @param {string | null} id @param {number} by */
function move(images, id, by) {
  const at = images.findIndex(one => one.id === id);
  const next = images[Math.max(0, Math.min(images.length - 1, at + by))];
  if (next) remember({ image: next.id });
}

/** @param {{view: any, check: any, word: string}} props */
function Headline({ view, check, word }) {
  const trigger = check?.captions?.trigger;
  const chips = [
    html`<strong class="num">${_n("{count} image", "{count} images", view.used.length)}</strong>`,
    check && html`<span>${_("usable {count}", { count: view.usable })}</span>`,
    (check || view.look > 0) && html`<span class=${view.look ? "warn" : ""}>${_("to check {count}", { count: view.look })}</span>`,
    html`<span>${_("captions {count} of {total}", { count: view.captioned, total: view.used.length })}</span>`,
    trigger && trigger === word && view.captioned > 0 && html`<span>${_("trigger word in {count}", { count: check.captions.with_trigger })}</span>`,
    view.masked > 0 && html`<span>${_("masks {count} of {total}", { count: view.masked, total: view.used.length })}</span>`,
    check?.variety?.different > 0 && html`<span>${_("different {count}", { count: check.variety.different })}</span>`,
  ];
  return html`<div class="headline">${chips.filter(Boolean)}</div>`;
}

/** Findings that want a look, each with the button that mends it. @param {{view: any, edit: (action: string, ids: string[]) => void, onShow: (id: string) => void}} props */
function Findings({ view, edit, onShow }) {
  const [all, setAll] = useState(false);
  const urgent = view.findings.filter((/** @type {any} */ one) => one.level !== "note");
  const notes = view.findings.filter((/** @type {any} */ one) => one.level === "note");
  const ids = (/** @type {string[]} */ names) => view.images.filter((/** @type {any} */ one) => names.includes(one.name) && !one.left_out).map((/** @type {any} */ one) => one.id);
  const row = (/** @type {any} */ one) => html`<li key=${one.code} class="finding ${one.level}">
    <div class="grow"><h3>${said(one.what)} ${one.pictures.length > 0 && html`<span class="chip num">${one.pictures.length}</span>`}</h3>
      <p class="small soft">${said(one.why)}</p></div>
    <div class="row">${one.pictures.length > 0 && html`<button class="quiet" onClick=${() => onShow(ids(one.pictures)[0])}>${_("Show")}</button>`}
      ${one.code === "bars" && html`<button disabled=${!view.images.some((/** @type {any} */ image) => image.about && one.pictures.includes(image.name))} onClick=${() => edit("crop", ids(one.pictures))}>${_("Cut the bars off")}</button>`}
      ${one.code === "near-duplicate" && html`<button onClick=${() => edit("leave-out", ids(one.pictures))}>${_("Keep the better one")}</button>`}
      ${one.pictures.length > 0 && !["bars", "near-duplicate"].includes(one.code) && one.level !== "note" && html`<button onClick=${() => edit("leave-out", ids(one.pictures))}>${_("Leave out")}</button>`}</div></li>`;
  if (!urgent.length && !notes.length) return null;
  return html`<section class="findings">
    ${urgent.length > 0 && html`<ul>${urgent.map(row)}</ul>`}
    ${notes.length > 0 && html`<button class="quiet" aria-expanded=${all} onClick=${() => setAll(!all)}>${_n("{count} note", "{count} notes", notes.length)}</button>`}
    ${all && html`<ul>${notes.map(row)}</ul>`}</section>`;
}

/** All images; only the rows that are seen are on the page. Where some have captions, those without are marked.
 * @param {{project: string, images: any[], captioned: boolean, selected: string | null,
 * onSelect: (id: string | null) => void, onToggle: (one: any) => void}} props */
function Grid({ project, images, captioned, selected, onSelect, onToggle }) {
  const box = useRef(/** @type {HTMLDivElement | null} */ (null));
  const [place, setPlace] = useState({ width: 1000, top: 0, height: 900 });
  useEffect(() => {
    const measure = () => {
      const area = box.current?.getBoundingClientRect();
      if (!area) return;
      const now = { width: Math.round(area.width), top: Math.max(0, -area.top), height: innerHeight };
      // A row's height at least, so that scrolling draws seldom.
      setPlace((/** @type {any} */ old) => (old.width === now.width && old.height === now.height && Math.abs(old.top - now.top) < CELL / 2 ? old : now));
    };
    measure();
    const watch = new ResizeObserver(measure);
    if (box.current) watch.observe(box.current);
    addEventListener("scroll", measure, { passive: true });
    return () => (watch.disconnect(), removeEventListener("scroll", measure));
  }, []);
  const columns = Math.max(2, Math.floor(place.width / CELL));
  const side = place.width / columns;
  useEffect(() => {
    const keys = (/** @type {KeyboardEvent} */ event) => {
      const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
      // A link or button that has the focus gets its own keys.
      const other = event.target instanceof Element && event.target.closest("a, button:not(.thumb), select, summary");
      if (!isCommand(event) || (other && [" ", "Enter"].includes(event.key)) || event.ctrlKey || event.altKey || document.querySelector("dialog[open]")) return;
      const at = images.findIndex(one => one.id === selected);
      if (event.key in steps) {
        const next = images[at < 0 ? 0 : Math.max(0, Math.min(images.length - 1, at + steps[/** @type {keyof typeof steps} */ (event.key)]))];
        if (next) onSelect(next.id);
        event.preventDefault();
      } else if (event.key === " " && at >= 0) {
        onToggle(images[at]);
        event.preventDefault();
      } else if (event.key === "Escape") onSelect(null);
      else if (event.key === "Enter" && at >= 0) {
        document.getElementById("caption")?.focus();
        event.preventDefault();
      }
    };
    addEventListener("keydown", keys);
    return () => removeEventListener("keydown", keys);
  }, [images, selected, columns]);
  useEffect(() => {
    const at = images.findIndex(one => one.id === selected);
    const area = box.current?.getBoundingClientRect();
    if (at < 0 || !area) return;
    const y = area.top + Math.floor(at / columns) * side;
    if (y < 90) scrollBy({ top: y - 120 });
    else if (y + side > innerHeight - 80) scrollBy({ top: y + side - innerHeight + 100 });
  }, [selected]);
  const rows = Math.ceil(images.length / columns);
  const first = Math.max(0, Math.floor(place.top / side) - 2);
  const last = Math.min(rows, Math.ceil((place.top + place.height) / side) + 2);
  return html`<div class="grid" ref=${box} style=${{ height: `${Math.max(1, rows) * side}px` }} role="listbox" aria-label=${_("Images")}>
    ${images.slice(first * columns, last * columns).map((one, number) => {
      const at = first * columns + number;
      const spot = { transform: `translate(${(at % columns) * side}px, ${Math.floor(at / columns) * side}px)`, width: `${side}px`, height: `${side}px` };
      return html`<div key=${one.id} class="cell" style=${spot}><button role="option" aria-selected=${one.id === selected} class="thumb ${one.left_out ? "out" : ""}"
        onClick=${() => onSelect(one.id)} title=${one.name}>
        <img alt=${one.caption || one.name} loading="lazy" decoding="async" src=${imageOf(project, one, 256)} />
        ${one.findings.length > 0 && html`<span class="badge ${one.findings[0].level}">${said(one.findings[0].what)}</span>`}
        ${one.left_out && html`<span class="badge">${_("left out")}</span>`}
        ${captioned && !one.caption && !one.left_out && html`<span class="nocaption" title=${_("no caption")}></span>`}
      </button></div>`;
    })}
    ${!images.length && html`<p class="soft center">${_("None.")}</p>`}
  </div>`;
}

