// The guard's curves: held-out loss with its band, the same for trained images, the raw training loss thin and grey.
// @ts-check

import { _, effect, html, language, theme } from "./core.js";
import { useEffect, useRef } from "./ui.js";
import uplot from "./vendor/uplot.js";

const Plot = /** @type {any} */ (uplot);

const percent = (/** @type {number | null | undefined} */ ratio) => (ratio == null ? null : 100 * (Math.exp(ratio) - 1));

/** The rows of the chart, one for each step that has anything. @param {any} run */
export function rowsOf(run) {
  /** @type {Map<number, any>} */
  const rows = new Map();
  const at = (/** @type {number} */ step) => rows.get(step) ?? rows.set(step, {}).get(step);
  for (const one of run.guard?.curve ?? []) Object.assign(at(one.step), { held: percent(one.mean), low: percent(one.low), high: percent(one.high) });
  for (const one of run.guard?.train ?? []) at(one.step).train = percent(one.mean);
  for (const [step, loss] of run.losses) at(step).loss = loss;
  const steps = [...rows.keys()].sort((a, b) => a - b);
  const column = (/** @type {string} */ key) => steps.map(step => rows.get(step)[key] ?? null);
  return [steps, column("held"), column("low"), column("high"), column("train"), column("loss")];
}

/** @param {{run: any}} props */
export function Chart({ run }) {
  const box = useRef(/** @type {HTMLDivElement | null} */ (null));
  const plot = useRef(/** @type {any} */ (null));
  const marks = useRef(run);
  marks.current = run;
  useEffect(() => {
    const area = /** @type {HTMLDivElement} */ (box.current);
    const build = () => {
      plot.current?.destroy();
      plot.current = new Plot(options(area, () => marks.current), rowsOf(marks.current), area);
    };
    // Its colours and words are drawn, so they are drawn anew.
    const stop = effect(() => (theme.value, language.value, queueMicrotask(build)));
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", build);
    const watch = new ResizeObserver(() => plot.current?.setSize({ width: area.clientWidth, height: height(area) }));
    watch.observe(area);
    return () => (stop(), watch.disconnect(), dark.removeEventListener("change", build), plot.current?.destroy());
  }, []);
  useEffect(() => plot.current?.setData(rowsOf(run)), [run.step, run.guard?.gaps?.length, run.losses.length]);
  const last = run.guard?.curve?.at(-1);
  const label = last ? _("Held-out loss against the base model: {value}% at step {step}", { value: percent(last.mean)?.toFixed(1), step: last.step }) : _("Training loss");
  return html`<figure class="chart"><div ref=${box} role="img" aria-label=${label}></div>
    <figcaption class="legend small"><span class="held">${_("held-out images: what counts")}</span><span class="train">${_("images that are trained on")}</span><span class="loss">${_("raw training loss")}</span></figcaption></figure>`;
}

// Between marks of the axis of steps: whole numbers.
const STEPS = [1, 2, 5].flatMap(one => [1, 10, 100, 1000, 10000].map(power => one * power)).sort((a, b) => a - b);

/** @param {HTMLElement} area */
const height = area => (area.clientWidth < 520 ? 220 : 300);

/** @param {HTMLElement} area @param {() => any} run */
function options(area, run) {
  const colour = (/** @type {string} */ name) => getComputedStyle(area).getPropertyValue(`--${name}`).trim();
  const axis = { stroke: colour("soft"), grid: { stroke: colour("line"), width: 1 }, ticks: { show: false }, font: "12px system-ui" };
  const values = (/** @type {any} */ _plot, /** @type {number[]} */ ticks) => ticks.map(one => `${one > 0 ? "+" : ""}${one}%`);
  const dashed = (/** @type {any} */ plot, /** @type {number | null} */ step, /** @type {string} */ text) => {
    if (!step) return;
    const { ctx, bbox } = plot;
    const x = plot.valToPos(step, "x", true);
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = colour("accent");
    ctx.setLineDash([4, 4]);
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    ctx.font = `${12 * devicePixelRatio}px system-ui`;
    ctx.textAlign = x > bbox.left + bbox.width * 0.7 ? "right" : "left";
    ctx.fillText(text, x + (ctx.textAlign === "left" ? 6 : -6), bbox.top + 14 * devicePixelRatio);
    ctx.restore();
  };
  const through = (/** @type {any} */ more) => ({ spanGaps: true, points: { show: false }, ...more });
  return {
    width: area.clientWidth,
    height: height(area),
    legend: { show: false },
    cursor: { y: false, points: { size: 7 } },
    scales: { x: { time: false }, y: {}, loss: {} },
    axes: [{ ...axis, grid: { show: false }, size: 34, incrs: STEPS }, { ...axis, values, size: 58 }, { show: false, scale: "loss" }],
    series: [
      {},
      through({ stroke: colour("accent"), width: 2.5, points: { show: true, size: 5, fill: colour("accent") } }),
      through({ stroke: "transparent" }),
      through({ stroke: "transparent" }),
      through({ stroke: colour("warn"), width: 1.5, dash: [5, 4] }),
      through({ stroke: colour("loss"), width: 1, scale: "loss" }),
    ],
    bands: [{ series: [3, 2], fill: colour("band") }],
    hooks: {
      draw: [
        (/** @type {any} */ plot) => {
          const now = run();
          dashed(plot, now.guard?.best_step, _("best: {step}", { step: now.guard?.best_step }));
        },
      ],
    },
  };
}
