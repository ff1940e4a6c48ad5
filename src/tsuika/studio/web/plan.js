// Plan: three answers, and advice with its reasons; every setting for those who want it.
// @ts-check

import { _, _n, begin, duration, get, go, html, jobOf, jobs, later, link, noteJob, number, resultOf, said, send, size, tried } from "./core.js";
import { Folders } from "./sets.js";
import { AllSettings } from "./settings.js";
import { Broken, Icon, Marked, Picker, Trouble, Working, useEffect, useRef, useState } from "./ui.js";

const GOALS = () => [
  ["character", _("A character"), _("a person, an animal, a mascot")],
  ["style", _("A style"), _("how it is drawn or photographed")],
  ["object", _("An object"), _("one particular thing")],
  ["concept", _("A concept"), _("a pose, an idea, a kind of scene")],
];

/** @param {{project: import("./core.js").Schemas["ProjectView"], reload: () => Promise<void>}} props */
export default function Plan({ project, reload }) {
  const [answers, setAnswers] = useState(/** @type {Record<string, any>} */ (project.plan));
  const [advice, setAdvice] = useState(/** @type {any} */ (null));
  const option = Number(answers.option ?? 0);
  const settings = /** @type {Record<string, unknown>} */ (answers.settings ?? {});
  const [checked, setChecked] = useState(/** @type {import("./core.js").Schemas["RecipeView"] | null} */ (null));
  const [expert, setExpert] = useState(false);
  const job = jobOf(project.id, "advise");
  const same = job && ["goal", "base", "trigger", "class_word"].every(key => (job.about[key] ?? "") === (answers[key] ?? ""));

  const ask = useRef(later(700, async (/** @type {any} */ plan) => {
    await tried(async () => {
      await send("PATCH", `/projects/${project.id}`, { plan });
      await begin(`/projects/${project.id}/advise`);
      reload();
    });
  })).current;
  const answer = (/** @type {Record<string, unknown>} */ change) => {
    // Other answers, another advice: its first option.
    const next = { ...answers, ...change, option: 0 };
    setAnswers(next);
    setAdvice(null);
    ask(next);
  };
  useEffect(() => {
    if (!same) ask(answers);
  }, []);
  useEffect(() => {
    if (!job || job.state !== "done" || !same) return;
    tried(async () => setAdvice({ ...(await resultOf(job.id)), job: job.id }));
  }, [job?.id, job?.state, same]);

  const check = useRef(later(200, (/** @type {any} */ body) => tried(async () => setChecked(await send("POST", `/projects/${project.id}/recipe`, body))))).current;
  useEffect(() => {
    if (advice) check({ advice: advice.job, option, settings });
  }, [advice?.job, option, answers.settings]);
  const change = (/** @type {Record<string, unknown>} */ more) => {
    const plan = { ...answers, ...more };
    setAnswers(plan);
    tried(async () => (await send("PATCH", `/projects/${project.id}`, { plan }), await reload()));
  };
  const start = () =>
    tried(async () => {
      const begun = await send("POST", `/projects/${project.id}/train`, { advice: advice.job, option, settings });
      noteJob((await get(`/jobs/${begun.job}`)).job);
      await reload();
      go("projects", project.id, "train");
    });
  const ready = advice && !checked?.error;
  useEffect(() => {
    const keys = (/** @type {KeyboardEvent} */ event) => event.key === "Enter" && event.ctrlKey && !event.isComposing && ready && start();
    addEventListener("keydown", keys);
    return () => removeEventListener("keydown", keys);
  });
  const options = advice ? [advice.recommendation, ...advice.alternatives] : [];
  const busy = Object.values(jobs.value).find(one => one.state === "running" && one.lane !== "light");
  return html`<main class="page plan">
    <section class="card questions">
      <fieldset><legend>${_("What is it?")}</legend><div class="goals">${GOALS().map(
        ([key, title, text]) => html`<label key=${key} class="goal ${answers.goal === key ? "on" : ""}"><input type="radio" name="goal" value=${key} checked=${answers.goal === key}
          onChange=${() => answer({ goal: key, class_word: ["character", "style"].includes(key) ? key : "" })} /><strong>${title}</strong><span class="soft small">${text}</span></label>`,
      )}</div></fieldset>
      <div class="pair"><${Word} label=${_("Trigger word")} text=${_("the word that calls it up in a prompt: a new one, in Latin letters")} value=${answers.trigger} onChange=${(/** @type {string} */ trigger) => answer({ trigger })} />
        <${Word} label=${_("What kind of thing")} text=${_("one English word, such as girl, dog, chair; may be empty")} value=${answers.class_word} onChange=${(/** @type {string} */ word) => answer({ class_word: word })} /></div>
      <${Base} value=${answers.base} onChange=${(/** @type {string} */ base) => answer({ base })} />
      <${Folders} value=${settings["data.sets"]} onChange=${(/** @type {any[]} */ sets) => change({ settings: changed(settings, "data.sets", sets) })} />
    </section>
    <section class="advice" aria-live="polite">
      ${!advice && (job && same ? html`<${Working} job=${job} />` : html`<p class="soft">${_("Looking for the best method")} …</p>`)}
      ${same && html`<${Broken} job=${job} />`}
      ${options.map((/** @type {any} */ one, number) => html`<${Option} key=${number} option=${one} first=${number === 0} chosen=${option === number} onChoose=${() => change({ option: number })} />`)}
      ${advice?.notes.map((/** @type {any} */ one) => html`<p key=${one.en} class="small soft"><${Marked} text=${one} /></p>`)}
      ${advice?.not_recommended.length > 0 && html`<details class="small"><summary>${_("Not recommended this time")}</summary><ul>${advice.not_recommended.map(
        (/** @type {any} */ one) => html`<li key=${one.method}><strong>${said(one.title)}</strong> ${said(one.why)}</li>`,
      )}</ul></details>`}
      ${checked?.error && html`<${Trouble} error=${checked.error} />`}
    </section>
    ${advice && html`<div class="row between sticky bottom"><span class="row"><button onClick=${() => setExpert(true)}>${_("All settings")}
        ${checked && Object.keys(settings).length > 0 && html` <span class="chip num">${_n("{count} changed", "{count} changed", Object.keys(settings).length)}</span>`}</button>
        <a class="button" href=${link("projects", project.id, "search")}>${_("Find settings")}</a></span>
      <span class="row">${checked?.cost.seconds && html`<span class="soft small num">${_("at most {time}", { time: duration(checked.cost.seconds) })}</span>`}${busy && html`<span class="soft small">${_("The device is busy: it will wait in the queue.")}</span>`}
      <button class="main big" disabled=${!ready} onClick=${start}><${Icon} name="play" /> ${_("Start training")}</button></span></div>`}
    ${expert && checked && html`<${AllSettings} checked=${checked} settings=${settings} onChange=${(/** @type {Record<string, unknown>} */ next) => change({ settings: next })} onClose=${() => setExpert(false)} />`}
  </main>`;
}

/** Settings with one of them changed, or without it. @param {Record<string, unknown>} settings @param {string} key @param {unknown} value */
function changed(settings, key, value) {
  const { [key]: _old, ...rest } = settings;
  return value === undefined ? rest : { ...rest, [key]: value };
}

/** @param {{label: string, text: string, value: string, onChange: (value: string) => void}} props */
function Word({ label, text, value, onChange }) {
  const [now, setNow] = useState(value ?? "");
  useEffect(() => setNow(value ?? ""), [value]);
  // Not while an input method composes.
  const take = (/** @type {any} */ event) => {
    setNow(event.target.value);
    if (!event.isComposing) onChange(event.target.value.trim());
  };
  return html`<label class="field"><span>${label}</span><input value=${now} onInput=${take} onCompositionEnd=${take} spellcheck="false" /><span class="soft small">${text}</span></label>`;
}

/** @param {{value: string, onChange: (value: string) => void}} props */
function Base({ value, onChange }) {
  const [found, setFound] = useState(/** @type {any[]} */ ([]));
  const [picking, setPicking] = useState(false);
  const [typing, setTyping] = useState(false);
  useEffect(() => {
    tried(async () => setFound((await get("/bases")).bases));
  }, []);
  const known = ["embedded", ...found.map((/** @type {any} */ one) => one.base)];
  return html`<div class="field"><label for="base">${_("Base model")}</label>
    <select id="base" value=${typing ? "type" : known.includes(value) ? value : "other"} onChange=${(/** @type {any} */ event) => {
      const choice = event.target.value;
      setTyping(choice === "type");
      if (choice === "pick") setPicking(true);
      else if (choice !== "type" && choice !== "other") onChange(choice);
    }}>
      <option value="embedded">${_("The embedded one: tiny, for practice")}</option>
      ${found.map((/** @type {any} */ one) => html`<option key=${one.base} value=${one.base}>${one.name} (${one.place})</option>`)}
      ${!known.includes(value) && html`<option value="other">${value}</option>`}
      <option value="pick">${_("A file of this machine …")}</option><option value="type">${_("A Hugging Face model id …")}</option>
    </select>
    ${typing && html`<form class="row" onSubmit=${(/** @type {any} */ event) => (event.preventDefault(), setTyping(false), onChange(event.target.elements.id.value.trim()))}>
      <input name="id" aria-label=${_("Hugging Face model id")} placeholder="author/model" required /><button>${_("Take it")}</button></form>`}
    ${picking && html`<${Picker} files="models" title=${_("Choose a base model")} onClose=${() => setPicking(false)} onPick=${(/** @type {any} */ row) => tried(async () => {
      setPicking(false);
      const taken = await send("POST", "/bases", { place: row.id });
      setFound([...found.filter((/** @type {any} */ one) => one.base !== taken.base), taken]);
      onChange(taken.base);
    })} />`}
  </div>`;
}

/** One way to go, with what it takes and why. @param {{option: any, first: boolean, chosen: boolean, onChoose: () => void}} props */
function Option({ option, first, chosen, onChoose }) {
  const [open, setOpen] = useState(false);
  const time = option.time_basis === "unknown" ? _("{count} steps", { count: number(option.steps) }) : _("at most {time}", { time: duration(option.seconds) });
  const facts = [[_("Time"), time], [_("Memory"), `${number(option.memory_gb, 1)} GB`], [_("File"), size(option.file_bytes)], [_("Works in"), option.works_in.join(" · ")]];
  const reasons = open ? option.reasons : option.reasons.slice(0, first ? 2 : 1);
  return html`<article class="option card ${chosen ? "on" : ""}">
    <label class="row between"><span class="row"><input type="radio" name="option" checked=${chosen} onChange=${onChoose} />
      <strong class="title">${said(option.title)}</strong></span>${first && html`<span class="chip good">${_("recommended")}</span>`}</label>
    <dl class="facts">${facts.map(([key, value]) => html`<div key=${key}><dt>${key}</dt><dd class="num">${value}</dd></div>`)}</dl>
    ${(chosen || open) && html`<ul class="reasons small">${reasons.map((/** @type {any} */ one) => html`<li key=${one.en} class="for"><span class="basis">${basis(one.strength)}</span>${said(one)}</li>`)}
      ${open && option.against.map((/** @type {any} */ one) => html`<li key=${one.en} class="against"><span class="basis">${basis(one.strength)}</span>${said(one)}</li>`)}</ul>
    ${(option.reasons.length > reasons.length || option.against.length > 0 || open) && html`<button class="quiet" aria-expanded=${open} onClick=${() => setOpen(!open)}>${open ? _("Less") : _("Why this, and what speaks against it")}</button>`}`}
  </article>`;
}

/** @param {string} strength */
const basis = strength =>
  ({ measured: _("measured"), published: _("published"), folklore: _("hearsay"), known: _("fact") })[strength] ?? strength;
