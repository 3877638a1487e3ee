// Small controls and drawings that several views use.

import { h, s } from "./dom.js";

/** A labelled choice; `options` are texts or [value, text]. */
export function choice(label, options, value, onchange) {
  const items = options.map((o) => (Array.isArray(o) ? o : [o, o]));
  const select = h(
    "select",
    { onchange: (event) => onchange(event.target.value) },
    items.map(([v, text]) => h("option", { value: v, selected: String(v) === String(value) }, text)),
  );
  return h("label", { class: "field" }, h("span", {}, label), select);
}

/** A few alternatives side by side. */
export function segments(label, options, value, onchange) {
  const press = ([v, text]) => h("button", { type: "button", "aria-pressed": String(v === value), onclick: () => onchange(v) }, text);
  return h("div", { class: "segments", role: "group", "aria-label": label }, options.map(press));
}

export const badge = (text, tone = "") => h("span", { class: `badge ${tone}` }, text);

export function section(title, note, controls, ...content) {
  const head = h(
    "div",
    { class: "section-head" },
    h("div", {}, h("h2", {}, title), note && h("p", {}, note)),
    controls && h("div", { class: "controls" }, controls),
  );
  return h("section", { class: "section", "aria-label": title }, head, ...content);
}

/** Named figures in a row: [[name, value], …]. */
export const chips = (pairs) =>
  h(
    "div",
    { class: "chips" },
    pairs.filter(([, v]) => v !== null && v !== undefined && v !== "" && v !== false).map(([name, v]) => h("span", {}, `${name} `, h("b", {}, v))),
  );

export function meter(share, label) {
  const bar = h("span");
  bar.style.width = `${100 * (share ?? 0)}%`;
  return h("div", { class: "meter", role: "img", "aria-label": label }, bar);
}

/** A mean with its interval on an axis from `low` to `high`, with a tick where nothing happens. */
export function miniInterval({ mean, low, high }, [from, to], nothing, label) {
  const x = (value) => `${Math.min(100, Math.max(0, (100 * (value - from)) / (to - from)))}%`;
  return s(
    "svg",
    { class: "mini", role: "img", "aria-label": label },
    s("line", { class: "axis", x1: "0%", x2: "100%", y1: 9, y2: 9 }),
    s("line", { class: "axis", x1: x(nothing), x2: x(nothing), y1: 2, y2: 16 }),
    s("line", { class: "span", x1: x(low), x2: x(high), y1: 9, y2: 9 }),
    s("circle", { class: "dot", cx: x(mean), cy: 9, r: 4.5 }),
  );
}

export const quote = (label, text, extra) =>
  h("div", {}, h("span", { class: "label" }, label, extra), h("div", { class: "quote" }, text || "(nothing)"));

/** A button that moves focus with the arrow keys among its siblings. */
export function arrowKeys(container) {
  container.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step || event.target.tagName === "SELECT" || event.target.tagName === "INPUT") return;
    const items = [...container.querySelectorAll("a, button")];
    const next = items[items.indexOf(document.activeElement) + step];
    if (next) {
      event.preventDefault();
      next.focus();
    }
  });
  return container;
}
