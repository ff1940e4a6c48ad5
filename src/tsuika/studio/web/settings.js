// All settings: a form made of the recipe's own metadata, searched in either language or by key.
// @ts-check

import { _, get, html, said, tried } from "./core.js";
import { Sets } from "./sets.js";
import { Drawer, Marked, useEffect, useState } from "./ui.js";

// The project itself says where its images are.
const OURS = ["data.images"];

/** @param {{checked: import("./core.js").Schemas["RecipeView"], settings: Record<string, unknown>, onChange: (settings: Record<string, unknown>) => void, onClose: () => void}} props */
export function AllSettings({ checked, settings, onChange, onClose }) {
  const [form, setForm] = useState(/** @type {import("./core.js").Schemas["SettingsForm"] | null} */ (null));
  const [text, setText] = useState("");
  const [which, setWhich] = useState("everyday");
  useEffect(() => {
    tried(async () => setForm(await get("/settings")));
  }, []);
  if (!form) return null;
  const values = /** @type {any} */ (checked.values);
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (/** @type {import("./core.js").Schemas["SettingRow"]} */ one) => {
    if (OURS.includes(one.key)) return false;
    if (one.method && one.method !== values.method.name) return false;
    if (words.length) return words.every(word => `${one.key} ${Object.values(one.text).join(" ")}`.toLowerCase().includes(word));
    if (which === "changed") return one.key in checked.differences || one.key in settings;
    return which === "all" || one.level === "everyday";
  };
  const set = (/** @type {string} */ key, /** @type {unknown} */ value) => {
    const next = { ...settings };
    if (value === undefined) delete next[key];
    else next[key] = value;
    onChange(next);
  };
  const shown = form.settings.filter(fits);
  return html`<${Drawer} title=${_("All settings")} onClose=${onClose} wide>
    <input type="search" placeholder=${_("Search: a word in any language, or a key such as learning_rate")} aria-label=${_("Search settings")} value=${text}
      onInput=${(/** @type {any} */ event) => setText(event.target.value)} />
    <div class="tabs" role="group">${[["everyday", _("Everyday")], ["all", _("All")], ["changed", _("Differs from the default")]].map(
      ([key, title]) => html`<button key=${key} aria-pressed=${!words.length && which === key} onClick=${() => (setText(""), setWhich(key))}>${title}</button>`,
    )}</div>
    ${checked.error && html`<p class="warn" role="alert">${said(checked.error.what)} ${said(checked.error.why)}</p>`}
    ${form.sections.map(section => {
      const rows = shown.filter(one => one.key.startsWith(`${section.key}.`));
      return rows.length ? html`<section key=${section.key} class="settings"><h3>${said(section.title)}</h3>
        ${rows.map(one => html`<${Setting} key=${one.key} about=${one} value=${one.key in settings ? settings[one.key] : at(values, one.key)}
          changed=${one.key in settings} advised=${checked.advised[one.key]} onChange=${set} />`)}</section>` : null;
    })}
    ${!shown.length && html`<p class="soft">${_("No setting is called so.")}</p>`}
  <//>`;
}

/** @param {any} values @param {string} key */
const at = (values, key) => key.split(".").reduce((table, part) => table?.[part], values);

/** @param {{about: any, value: any, changed: boolean, advised: unknown, onChange: (key: string, value: unknown) => void}} props */
function Setting({ about, value, changed, advised, onChange }) {
  const id = `setting-${about.key}`;
  const set = (/** @type {unknown} */ now) => onChange(about.key, now);
  return html`<div class="setting ${changed ? "changed" : ""}">
    <label for=${id}><span><${Marked} text=${about.text} /></span> <code class="small">${about.key}</code></label>
    <div class="row"><${Field} id=${id} about=${about} value=${value} onChange=${set} />${about.unit && html`<span class="soft small">${about.unit}</span>`}
      ${changed && html`<button class="quiet" onClick=${() => onChange(about.key, undefined)}>${_("Back to {value}", { value: shown(advised ?? about.default) })}</button>`}
      ${!changed && advised !== undefined && html`<span class="chip">${_("advised; default {value}", { value: shown(about.default) })}</span>`}</div></div>`;
}

/** @param {unknown} value */
const shown = value => (Array.isArray(value) ? value.map(one => (typeof one === "object" ? JSON.stringify(one) : one)).join(", ") || "–" : value === "" ? "–" : String(value));

/** A list of tables in JSON; what is none stays text, which the program refuses with the reason. @param {string} text */
const tables = text => {
  try {
    return JSON.parse(text || "[]");
  } catch {
    return text;
  }
};

/** A field for a value of some kind. @param {{id: string, about: any, value: any, onChange: (value: unknown) => void}} props */
export function Field({ id, about, value, onChange }) {
  const take = (/** @type {any} */ event) => onChange(event.target.value);
  if (about.kind === "flag")
    return html`<input id=${id} type="checkbox" class="switch" role="switch" checked=${!!value} onChange=${(/** @type {any} */ event) => onChange(event.target.checked)} />`;
  if (about.kind === "choice")
    return html`<select id=${id} value=${value} onChange=${take}>${about.choices.map((/** @type {string} */ one) => html`<option key=${one} value=${one}>${one || "–"}</option>`)}</select>`;
  if (about.kind === "list")
    return html`<textarea id=${id} rows="3" value=${(value ?? []).join("\n")} placeholder=${_("one a line")}
      onChange=${(/** @type {any} */ event) => onChange(event.target.value.split("\n").map((/** @type {string} */ one) => one.trim()).filter(Boolean))}></textarea>`;
  if (about.columns) return html`<${Sets} id=${id} columns=${about.columns} value=${Array.isArray(value) ? value : []} onChange=${(/** @type {any[]} */ now) => onChange(now.length ? now : undefined)} />`;
  if (about.kind === "tables")
    return html`<textarea id=${id} rows="3" value=${(value ?? []).length ? (typeof value === "string" ? value : JSON.stringify(value, null, 1)) : ""}
      placeholder="[1, 2, 1]" onChange=${(/** @type {any} */ event) => onChange(tables(event.target.value))}></textarea>`;
  if (about.kind === "whole" || about.kind === "number")
    // A wheel over it scrolls the page and changes nothing.
    return html`<input id=${id} type="text" inputmode="decimal" value=${value ?? ""} onChange=${(/** @type {any} */ event) => {
      const now = event.target.value.trim();
      onChange(now === "" ? undefined : Number.isNaN(Number(now)) ? now : Number(now));
    }} />`;
  return html`<input id=${id} value=${value ?? ""} onChange=${take} />`;
}
