// Tools: every other command of the command line, as a form made of its flags.
// @ts-check

import { _, begin, get, html, jobs, link, route, said, send, tried } from "./core.js";
import { Field } from "./settings.js";
import { Outcome, labels } from "./outcome.js";
import { Icon, Marked, Picker, useEffect, useState } from "./ui.js";

// Those that have a screen of their own come last.
const SCREENS = ["demo", "train", "advise", "check", "mask", "caption", "generate", "grid", "evaluate", "find-rate", "search", "doctor"];

/** @typedef {import("./core.js").Schemas["CommandRow"]} Command */

export default function Tools() {
  const [commands, setCommands] = useState(/** @type {Command[]} */ ([]));
  useEffect(() => {
    tried(async () => {
      const { commands: found, labels: known } = await get("/commands");
      labels.value = known;
      setCommands(found.sort((a, b) => Number(SCREENS.includes(a.command[0])) - Number(SCREENS.includes(b.command[0]))));
    });
  }, []);
  const name = route.value.parts.slice(1).join(" ");
  const chosen = commands.find(one => one.command.join(" ") === name);
  return html`<main class="page tools-page ${chosen ? "chosen" : ""}">
    <nav class="card menu" aria-label=${_("Tools")}>${commands.map(one => html`<a key=${one.command.join(" ")} href=${link("tools", ...one.command)} aria-current=${one === chosen ? "page" : undefined}>
      <strong>${one.command.join(" ")}</strong><span class="soft small">${said(one.text)}</span></a>`)}</nav>
    ${chosen && html`<a class="narrow quiet button" href=${link("tools")}>${_("All tools")}</a>`}
    ${chosen ? html`<${Form} key=${name} command=${chosen} />` : html`<p class="soft">${_("Choose what to do.")}</p>`}
  </main>`;
}

/** @param {{command: Command}} props */
function Form({ command }) {
  const [values, setValues] = useState(/** @type {Record<string, any>} */ ({}));
  const [picking, setPicking] = useState("");
  const set = (/** @type {string} */ key, /** @type {unknown} */ value) => setValues({ ...values, [key]: value });
  const start = () => tried(() => begin("/commands", { command: command.command, values, about: { tool: command.command.join(" ") } }));
  const lacking = command.flags.some(one => one.required && !(values[one.name]?.length ?? values[one.name]));
  useEffect(() => {
    const keys = (/** @type {KeyboardEvent} */ event) => event.key === "Enter" && event.ctrlKey && !event.isComposing && !lacking && start();
    addEventListener("keydown", keys);
    return () => removeEventListener("keydown", keys);
  });
  const mine = Object.values(jobs.value).filter(one => one.about?.tool === command.command.join(" ")).sort((a, b) => b.created - a.created);
  return html`<div class="tool"><section class="card settings"><h2>${said(command.text)}</h2>
    ${command.flags.map(one => html`<div class="setting" key=${one.name}>
      <label for=${`flag-${one.name}`}><span><${Marked} text=${one.text} />${one.required ? " *" : ""}</span><code class="small">${one.flag || one.name}</code></label>
      <div class="row"><${Field} id=${`flag-${one.name}`} about=${{ ...one, kind: one.many ? "list" : one.kind }} value=${values[one.name] ?? (one.many ? [] : one.default ?? "")} onChange=${(/** @type {unknown} */ value) => set(one.name, value)} />
        ${one.is_place && html`<button aria-label=${_("Choose a file or folder")} class="icon-only" onClick=${() => setPicking(one.name)}><${Icon} name="folder" /></button>`}</div></div>`)}
    ${command.writes && html`<div class="setting"><label for="flag-out"><span>${_("Name of the result, with its ending where it is a file; empty = a new folder")}</span><code class="small">--out</code></label>
      <input id="flag-out" value=${values.out ?? ""} onChange=${(/** @type {any} */ event) => set("out", event.target.value)} /></div>`}
    <div class="row end"><button class="main" disabled=${lacking} onClick=${start}><${Icon} name="play" /> ${_("Start")}</button></div></section>
    ${mine.map(job => html`<${Outcome} key=${job.id} job=${job} />`)}
    ${picking && html`<${Picker} files="all" title=${_("Choose a file or folder")} onClose=${() => setPicking("")} onPick=${(/** @type {any} */ row) => tried(async () => {
      const path = (await send("POST", "/folders/path", { place: row.id })).path;
      const flag = command.flags.find(one => one.name === picking);
      set(picking, flag?.many ? [...(values[picking] ?? []), path] : path);
      setPicking("");
    })} />`}
  </div>`;
}
