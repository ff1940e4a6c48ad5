// @ts-check
import { html } from "./core.js";
export default function Compare() { return html`<main class="page"></main>`; }
