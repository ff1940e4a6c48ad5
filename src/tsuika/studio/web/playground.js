// Playground: a prompt, cards for what is applied to the base model, and what was generated.
// @ts-check

import { _, begin, get, html, jobs, noteJob, resultOf, said, send, sendFile, signal, stop, tried } from "./core.js";
import { Outcome } from "./outcome.js";
import { Broken, Drawer, Icon, Picker, Working, useEffect, useRef, useState } from "./ui.js";

const EMPTY = { prompt: "", negative: "", base: "embedded", vae: "builtin", vae_on: true, seed: 1, steps: "", cfg: "", sampler: "", size: "", clip_skip: "", num: 2 };
/** What is asked for, kept while other screens are shown. @type {{value: any}} */
const asked = signal(JSON.parse(localStorage.getItem("tsuika-playground") ?? "null") ?? { ...EMPTY, cards: [] });
const OWN = "builtin";
/** The last part of a path, or what is none. @param {string} text */
const nameOf = text => text.replace(/^.*[/\\]/, "");

/** @param {Record<string, unknown>} change */
function change(change) {
  asked.value = { ...asked.value, ...change };
  localStorage.setItem("tsuika-playground", JSON.stringify(asked.value));
}

/** Put a result of a training into the form: on its base model, with a prompt that calls it up.
 * @param {import("./core.js").Schemas["ArtifactRow"] | undefined} found @param {import("./core.js").Schemas["RunView"]} run */
export function offer(found, run) {
  const { cards, prompt } = asked.value;
  const shown = run.previews.find(one => one.prompt.includes(run.trigger))?.prompt ?? run.trigger;
  change({
    ...(found?.kind === "base" ? { base: found.file } : { base: run.base }),
    ...(found && found.kind !== "base" && { cards: [...cards.filter((/** @type {any} */ one) => one.file !== found.file).map(off), { ...found, on: true, strength: 1 }] }),
    ...(!prompt.includes(run.trigger || " ") && { prompt: shown }),
  });
}
const off = (/** @type {any} */ card) => ({ ...card, on: false });

export default function Playground() {
  const [known, setKnown] = useState(/** @type {import("./core.js").Schemas["ArtifactsView"]} */ ({ artifacts: [], added: {}, samplers: [], own_vaes: [OWN], vaes: [] }));
  const [bases, setBases] = useState(/** @type {import("./core.js").Schemas["BaseRow"][]} */ ([]));
  const [picking, setPicking] = useState("");
  const [shown, setShown] = useState(/** @type {any} */ (null));
  const [dropped, setDropped] = useState(/** @type {any} */ (null));
  const [over, setOver] = useState(false);
  const file = useRef(/** @type {HTMLInputElement | null} */ (null));
  useEffect(() => {
    tried(async () => {
      setKnown(await get("/artifacts"));
      setBases((await get("/bases")).bases);
    });
  }, []);
  const now = asked.value;
  const start = () =>
    tried(async () => {
      const { cards, ...values } = asked.value;
      const artifact = cards.filter((/** @type {any} */ one) => one.on).map((/** @type {any} */ one) => `${one.file}:${one.strength}`);
      const vae = values.vae_on === false ? OWN : values.vae;
      await begin("/commands", { command: ["generate"], values: { ...values, vae, artifact }, about: { playground: true, ...asked.value } });
    });
  useEffect(() => {
    const keys = (/** @type {KeyboardEvent} */ event) => event.key === "Enter" && event.ctrlKey && !event.isComposing && asked.value.prompt.trim() && start();
    addEventListener("keydown", keys);
    return () => removeEventListener("keydown", keys);
  }, []);
  // The VAEs that come with a base model are of no other.
  const setBase = (/** @type {string} */ base) => change({ base, ...(base !== asked.value.base && asked.value.vae.startsWith(`${OWN}:`) ? { vae: OWN } : {}) });
  const add = (/** @type {any} */ one) => !now.cards.some((/** @type {any} */ card) => card.file === one.file) && change({ cards: [...now.cards, { ...one, on: true, strength: 1 }] });
  const edit = (/** @type {number} */ at, /** @type {any} */ more) => change({ cards: now.cards.map((/** @type {any} */ one, /** @type {number} */ number) => (number === at ? { ...one, ...more } : one)) });
  const take = (/** @type {File | undefined} */ one) =>
    one &&
    tried(async () => {
      const found = await sendFile("/dropped", one.name, one);
      if (found.image) {
        const { model, missing, cards, ...settings } = found.image;
        const empty = !Object.keys(found.image).length;
        // What the image does not say is as a base model has it.
        if (!empty) change({ ...EMPTY, base: asked.value.base, num: asked.value.num, ...settings, cards: cards.map((/** @type {any} */ card) => ({ ...card, on: true })) });
        setDropped({ name: one.name, model: settings.base ? "" : model, missing, empty });
      } else {
        noteJob((await get(`/jobs/${found.job}`)).job);
        setDropped({ name: one.name, ...found });
      }
    });
  const results = standing(Object.values(jobs.value).filter(one => one.kind === "generate").sort((a, b) => b.created - a.created));
  const titleOf = (/** @type {string} */ kind) => said(known.added[kind]) || kind || _("results");
  const models = known.artifacts.filter((/** @type {any} */ one) => one.kind === "base");
  const field = (/** @type {string} */ key, /** @type {string} */ label, more = {}) => html`<label class="field"><span>${label}</span>
    <input value=${now[key]} onInput=${(/** @type {any} */ event) => change({ [key]: event.target.value })} ...${more} /></label>`;
  return html`<main class="page playground ${over ? "over" : ""}" onDragLeave=${() => setOver(false)}
    onDragOver=${(/** @type {DragEvent} */ event) => (event.preventDefault(), setOver(true))}
    onDrop=${(/** @type {DragEvent} */ event) => (event.preventDefault(), setOver(false), take(event.dataTransfer?.files[0]))}>
    <section class="card questions">
      <label class="field"><span>${_("Prompt")}</span><textarea rows="3" value=${now.prompt} placeholder=${_("What to generate; (words:1.2) and <lora:name:0.8> work")} onInput=${(/** @type {any} */ event) => change({ prompt: event.target.value })}></textarea></label>
      <label class="field"><span>${_("Negative prompt")}</span><textarea rows="1" value=${now.negative} onInput=${(/** @type {any} */ event) => change({ negative: event.target.value })}></textarea></label>
      <div class="field"><label for="play-base">${_("Base model")}</label><select id="play-base" value=${now.base} onChange=${(/** @type {any} */ event) => (event.target.value === "pick" ? setPicking("base") : setBase(event.target.value))}>
        <option value="embedded">${_("The embedded one: tiny, for practice")}</option>
        ${[...models.map((/** @type {any} */ one) => ({ base: one.file, name: one.name })), ...bases].map(one => html`<option key=${one.base} value=${one.base}>${one.name}</option>`)}
        ${now.base !== "embedded" && ![...models.map((/** @type {any} */ one) => one.file), ...bases.map((/** @type {any} */ one) => one.base)].includes(now.base) && html`<option value=${now.base}>${now.base}</option>`}
        <option value="pick">${_("A file of this machine …")}</option></select></div>
      <div class="cards">${now.cards.map((/** @type {any} */ one, /** @type {number} */ at) => html`<div key=${one.file} class="stack ${one.on ? "" : "off"}">
        <div class="row between"><label class="row"><input type="checkbox" class="switch" role="switch" checked=${one.on} onChange=${() => edit(at, { on: !one.on })} /> <strong>${one.name}</strong> <span class="small soft">${titleOf(one.kind)}</span></label>
          <button class="icon-only" aria-label=${_("Remove {name}", { name: one.name })} onClick=${() => change({ cards: now.cards.filter((/** @type {any} */ _one, /** @type {number} */ number) => number !== at) })}><${Icon} name="close" /></button></div>
        <label class="row"><span class="small soft">${_("Strength")}</span><input type="range" class="grow" min="-1" max="2" step="0.05" value=${one.strength} onInput=${(/** @type {any} */ event) => edit(at, { strength: Number(event.target.value) })} />
          <output class="num">${one.strength.toFixed(2)}</output></label></div>`)}
        ${now.vae !== OWN && html`<div class="stack ${now.vae_on === false ? "off" : ""}"><div class="row between">
            <label class="row"><input type="checkbox" class="switch" role="switch" checked=${now.vae_on !== false} onChange=${() => change({ vae_on: now.vae_on === false })} /> <strong>${nameOf(now.vae)}</strong> <span class="small soft">${_("VAE")}</span></label>
            <button class="icon-only" aria-label=${_("Remove {name}", { name: nameOf(now.vae) })} onClick=${() => change({ vae: OWN, vae_on: true })}><${Icon} name="close" /></button></div>
          <span class="small soft">${now.vae_on === false ? _("Off: the base model's own VAE is used.") : _("In place of the base model's own VAE")}</span></div>`}
        <div class="row"><select aria-label=${_("Add a LoRA, a VAE, …")} value="" onChange=${(/** @type {any} */ event) => {
          const [what, ...rest] = event.target.value.split(" ");
          const choice = rest.join(" ");
          event.target.value = "";
          if (what === "pick") setPicking(choice);
          else if (what === "vae") change({ vae: choice, vae_on: true });
          else add(known.artifacts.find(one => one.file === choice));
        }}><option value="" disabled>${_("Add a LoRA, a VAE, …")}</option>
          ${known.artifacts.filter(one => one.kind !== "base").map(one => html`<option key=${one.file} value=${`add ${one.file}`}>${one.name} (${titleOf(one.kind)})</option>`)}
          ${(now.base === "embedded" ? known.own_vaes.slice(1) : []).map(one => html`<option key=${one} value=${`vae ${one}`}>${one} (${_("VAE")})</option>`)}
          ${known.vaes.map(one => html`<option key=${one.file} value=${`vae ${one.file}`}>${one.name} (${_("VAE")})</option>`)}
          <option value="pick artifact">${_("A file of this machine …")}</option><option value="pick vae">${_("A VAE of this machine …")}</option></select></div></div>
      <details><summary>${_("Size, seed, sampler")}</summary><div class="many">
        ${field("num", _("Number of images"), { inputmode: "numeric" })}${field("seed", _("Seed"), { inputmode: "numeric" })}${field("size", _("Size"), { placeholder: "512x768" })}
        ${field("steps", _("Sampling steps"), { inputmode: "numeric" })}${field("cfg", _("CFG scale"), { inputmode: "decimal" })}${field("clip_skip", _("Clip skip"), { inputmode: "numeric" })}
        <label class="field whole-row"><span>${_("Sampler")}</span><select value=${now.sampler} onChange=${(/** @type {any} */ event) => change({ sampler: event.target.value })}><option value="">${_("the base model's own")}</option>
          ${known.samplers.map((/** @type {string} */ one) => html`<option key=${one} value=${one}>${one}</option>`)}</select></label></div></details>
      <button class="main big" disabled=${!now.prompt.trim()} onClick=${start}><${Icon} name="play" /> ${_("Generate")}</button>
    </section>
    <section class="drawn" aria-live="polite">
      <div class="row between take-in"><span class="soft small grow">${_("Drop an image here to take its settings over, or a LoRA or another file to see what it is.")}</span>
        <button onClick=${() => file.current?.click()}><${Icon} name="file" /> ${_("Choose a file")}</button>
        <input ref=${file} type="file" hidden aria-label=${_("An image or a file of weights")} onChange=${(/** @type {any} */ event) => (take(event.target.files[0]), (event.target.value = ""))} /></div>
      ${dropped && html`<${Dropped} found=${dropped} added=${known.added} onUse=${add} onClose=${() => setDropped(null)} />`}
      ${results.map(job => html`<article key=${job.id} class="result">
        <${Working} job=${job}><button class="quiet" onClick=${() => stop(job)}>${_("Cancel")}</button><//>
        <${Broken} job=${job} />
        <div class="pictures big-pictures">${(job.images ?? []).map((/** @type {any} */ one, /** @type {number} */ number) => html`<button key=${number} class="thumb" onClick=${() => setShown({ job, number, seed: one.seed })}>
          <img alt=${job.about.prompt ?? ""} src=${`/api/jobs/${job.id}/images/${number}?side=512`} /></button>`)}</div>
        <p class="small soft">${job.about.prompt}</p></article>`)}
      ${!results.length && html`<div class="nothing soft"><${Icon} name="images" /><p>${_("What is generated appears here.")}</p></div>`}
    </section>
    ${picking && html`<${Picker} files="models" title=${_("Choose a file")} onClose=${() => setPicking("")} onPick=${(/** @type {any} */ row) => tried(async () => {
      setPicking("");
      if (picking === "base") {
        const taken = await send("POST", "/bases", { place: row.id });
        setBases([taken, ...bases]);
        setBase(taken.base);
      } else {
        const taken = await send("POST", "/artifacts", { place: row.id, kind: picking === "vae" ? "vaes" : "artifacts" });
        setKnown(await get("/artifacts"));
        picking === "vae" || taken.kind === "vae" ? change({ vae: taken.file, vae_on: true }) : taken.kind === "base" ? setBase(taken.file) : add(taken);
      }
    })} />`}
    ${shown && html`<${Drawer} title=${shown.job.about.prompt ?? ""} wide onClose=${() => setShown(null)}>
      <img class="whole" alt=${shown.job.about.prompt ?? ""} src=${`/api/jobs/${shown.job.id}/images/${shown.number}?side=1600`} />
      <div class="row"><a class="button main" download href=${`/api/jobs/${shown.job.id}/images/${shown.number}?side=0`}><${Icon} name="down" /> ${_("PNG with its parameters")}</a>
        <button onClick=${() => (change({ ...EMPTY, ...shown.job.about, seed: shown.seed, playground: undefined }), setShown(null))}>${_("Use these settings")}</button>
        <span class="soft small num">${_("seed {seed}", { seed: shown.seed })}</span></div>
      <p class="small soft"><code>${shown.job.command}</code></p><//>`}
  </main>`;
}

/** Without what came to nothing and was asked for once more since. @param {import("./core.js").Job[]} found the newest first */
const standing = found => found.filter((one, at) => !one.way_on || !found.slice(0, at).some(newer => wishes(newer) === wishes(one)));
const wishes = (/** @type {import("./core.js").Job} */ job) => JSON.stringify({ ...job.about, out: "" });

/** What a dropped file has brought. @param {{found: any, added: Record<string, unknown>, onUse: (one: any) => void, onClose: () => void}} props */
function Dropped({ found, added, onUse, onClose }) {
  const job = jobs.value[found.job];
  const [kind, setKind] = useState("");
  useEffect(() => {
    if (job?.state === "done") tried(async () => setKind((await resultOf(job.id))?.kind ?? ""));
  }, [job?.state]);
  const use = kind in added ? onUse : kind === "base model" ? (/** @type {any} */ one) => change({ base: one.file }) : kind === "vae" ? (/** @type {any} */ one) => change({ vae: one.file, vae_on: true }) : null;
  return html`<article class="card quiet-card"><div class="row between"><h2>${found.name}</h2>
      <button class="icon-only" aria-label=${_("Close")} onClick=${onClose}><${Icon} name="close" /></button></div>
    ${!found.job && html`<p>${found.empty ? _("This image does not say how it was made.") : _("Its settings are in the form now.")}
      ${found.model && ` ${_("It was made with the base model {name}.", { name: found.model })}`}</p>
      ${found.missing?.length > 0 && html`<p class="warn">${_("Not found here, or another file of the same name: {names}", { names: found.missing.join(", ") })}</p>`}`}
    ${job && html`<${Outcome} job=${job} />`}
    ${use && html`<div class="row end"><button class="main" onClick=${() => (use(found.artifact), onClose())}>${_("Use it")}</button></div>`}</article>`;
}
