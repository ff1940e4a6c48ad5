// Curves. Of a training: held-out loss with its band, the same for trained images, the raw training loss thin and grey.
// @ts-check

import { _, effect, html, language, theme } from "./core.js";
import { useEffect, useRef } from "./ui.js";
import uplot from "./vendor/uplot.js";

const Plot = /** @type {any} */ (uplot);

/** A log ratio of losses in percent. @param {number | null | undefined} ratio */
export const percent = ratio => (ratio == null ? null : 100 * (Math.exp(ratio) - 1));

/** @param {number | null | undefined} ratio */
export const signed = ratio => {
  const value = percent(ratio);
  return value === null ? "–" : `${value > 0 ? "+" : value < 0 ? "−" : ""}${Math.abs(value).toFixed(1)}%`;
};

// Kinds of lines that stand beside each other; colors are in app.css.
const COLOURS = 6;
const through = (/** @type {any} */ more) => ({ spanGaps: true, points: { show: false }, ...more });

/** The rows of the chart, one for each step that has anything. @param {any} run */
export function rowsOf(run) {
  /** @type {Map<number, any>} */
  const rows = new Map();
  const at = (/** @type {number} */ step) => rows.get(step) ?? rows.set(step, {}).get(step);
  for (const one of run.guard?.curve ?? []) Object.assign(at(one.step), { held: percent(one.mean), low: percent(one.low), high: percent(one.high) });
  for (const one of run.guard?.train ?? []) at(one.step).train = percent(one.mean);
  for (const [step, loss] of run.losses) at(step).loss = loss;
  return columnsOf(rows, ["held", "low", "high", "train", "loss"]);
}

/** @param {Map<number, any>} rows @param {string[]} keys */
function columnsOf(rows, keys) {
  const steps = [...rows.keys()].sort((a, b) => a - b);
  return [steps, ...keys.map(key => steps.map(step => rows.get(step)[key] ?? null))];
}

/** @param {{run: any}} props */
export function Chart({ run }) {
  const last = run.guard?.curve?.at(-1);
  const label = last ? _("Held-out loss against the base model: {value}% at step {step}", { value: percent(last.mean)?.toFixed(1), step: last.step }) : _("Training loss");
  const lines = (/** @type {(name: string) => string} */ colour) => ({
    series: [
      through({ stroke: colour("accent"), width: 2.5, points: { show: true, size: 5, fill: colour("accent") } }),
      through({ stroke: "transparent" }),
      through({ stroke: "transparent" }),
      through({ stroke: colour("warn"), width: 1.5, dash: [5, 4] }),
      through({ stroke: colour("loss"), width: 1, scale: "loss" }),
    ],
    bands: [{ series: [3, 2], fill: colour("band") }],
  });
  const best = run.guard?.best_step;
  return html`<figure class="chart"><${Plotted} label=${label} columns=${rowsOf(run)} lines=${lines} mark=${best ? { at: best, text: _("best: {step}", { step: best }) } : null} />
    <figcaption class="legend small"><span class="held">${_("held-out images: what counts")}</span><span class="train">${_("images that are trained on")}</span><span class="loss">${_("raw training loss")}</span></figcaption></figure>`;
}

/** Several curves of held-out loss. @param {{label: string, curves: {name: string, curve: {step: number, mean: number}[]}[]}} props */
export function Curves({ label, curves }) {
  /** @type {Map<number, any>} */
  const rows = new Map();
  curves.forEach(({ curve }, number) => {
    for (const one of curve) rows.set(one.step, { ...rows.get(one.step), [number]: percent(one.mean) });
  });
  const lines = (/** @type {(name: string) => string} */ colour) => ({
    series: curves.map((_one, number) => {
      const stroke = colour(`line-${number % COLOURS}`);
      return through({ stroke, width: 2, dash: number < COLOURS ? undefined : [5, 4], points: { show: true, size: 5, fill: stroke } });
    }),
  });
  return html`<figure class="chart"><${Plotted} key=${curves.length} label=${label} columns=${columnsOf(rows, curves.map((_one, number) => String(number)))} lines=${lines} />
    <figcaption class="legend small">${curves.map(({ name }, number) => html`<span key=${name} class="line line-${number % COLOURS} ${number < COLOURS ? "" : "dashed"}">${name}</span>`)}</figcaption></figure>`;
}

/** @param {{label: string, columns: any[][], lines: (colour: (name: string) => string) => any, mark?: {at: number, text: string} | null}} props */
function Plotted({ label, columns, lines, mark }) {
  const box = useRef(/** @type {HTMLDivElement | null} */ (null));
  const plot = useRef(/** @type {any} */ (null));
  const now = useRef({ columns, lines, mark });
  now.current = { columns, lines, mark };
  useEffect(() => {
    const area = /** @type {HTMLDivElement} */ (box.current);
    const build = () => {
      plot.current?.destroy();
      plot.current = new Plot(options(area, () => now.current), now.current.columns, area);
    };
    // Its colours and words are drawn, so they are drawn anew.
    const stop = effect(() => (theme.value, language.value, queueMicrotask(build)));
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", build);
    const watch = new ResizeObserver(() => plot.current?.setSize({ width: area.clientWidth, height: height(area) }));
    watch.observe(area);
    return () => (stop(), watch.disconnect(), dark.removeEventListener("change", build), plot.current?.destroy());
  }, []);
  useEffect(() => plot.current?.setData(columns), [JSON.stringify(columns)]);
  return html`<div ref=${box} role="img" aria-label=${label}></div>`;
}

// Between marks of the axis of steps: whole numbers.
const STEPS = [1, 2, 5].flatMap(one => [1, 10, 100, 1000, 10000].map(power => one * power)).sort((a, b) => a - b);

/** @param {HTMLElement} area */
const height = area => (area.clientWidth < 520 ? 220 : 300);

/** @param {HTMLElement} area @param {() => {lines: (colour: (name: string) => string) => any, mark?: {at: number, text: string} | null}} now */
function options(area, now) {
  const colour = (/** @type {string} */ name) => getComputedStyle(area).getPropertyValue(`--${name}`).trim();
  const axis = { stroke: colour("soft"), grid: { stroke: colour("line"), width: 1 }, ticks: { show: false }, font: "12px system-ui" };
  const values = (/** @type {any} */ _plot, /** @type {number[]} */ ticks) => ticks.map(one => `${one > 0 ? "+" : ""}${one}%`);
  const { series, bands } = now().lines(colour);
  const draw = (/** @type {any} */ plot) => {
    const mark = now().mark;
    if (!mark) return;
    const { ctx, bbox } = plot;
    const x = plot.valToPos(mark.at, "x", true);
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = colour("accent");
    ctx.setLineDash([4, 4]);
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    ctx.font = `${12 * devicePixelRatio}px system-ui`;
    ctx.textAlign = x > bbox.left + bbox.width * 0.7 ? "right" : "left";
    ctx.fillText(mark.text, x + (ctx.textAlign === "left" ? 6 : -6), bbox.top + 14 * devicePixelRatio);
    ctx.restore();
  };
  // What has diverged must not press all else flat.
  const range = (/** @type {any} */ _plot, /** @type {number} */ low, /** @type {number} */ high) =>
    low == null ? [null, null] : Plot.rangeNum(low, low < 0 ? Math.min(high, Math.max(20, -2 * low)) : high, 0.1, true);
  return {
    width: area.clientWidth,
    height: height(area),
    legend: { show: false },
    cursor: { y: false, points: { size: 7 } },
    scales: { x: { time: false }, y: { range }, loss: {} },
    axes: [{ ...axis, grid: { show: false }, size: 34, incrs: STEPS }, { ...axis, values, size: 58 }, { show: false, scale: "loss" }],
    series: [{}, ...series],
    bands: bands ?? [],
    hooks: { draw: [draw] },
  };
}
