// One prompt and its response on several traits: what is shown is chosen here.

import * as data from "../data.js";
import { h } from "../dom.js";
import { number, promptText, signed, traitParts } from "../format.js";
import { choice, quote, segments } from "../parts.js";
import { pointAt } from "../plots.js";
import { patch } from "../router.js";
import { empty, fillWith } from "../states.js";
import { coursePlot, velocityPlot } from "./curves.js";
import { comparisonPart } from "./models.js";
import { tokenText } from "./tokens.js";

export const SCALES = { centered: "Centered", raw: "Raw", cosine: "Cosine" };
const WINDOWS = [1, 3, 5, 10, 20];
const SHOWN = 4; // traits, when none is named

export function coursePanel(place, page, item) {
  const node = h("div", { class: "stack course" });
  let seen = null;
  const update = (params) => {
    const wanted = JSON.stringify(["scale", "window", "traits", "vec", "other", "colour"].map((name) => params[name]));
    if (wanted === seen) return;
    seen = wanted;
    fillWith(node, () => shown(place, page, item, params), "Reading tokens");
  };
  return { node, update };
}

async function shown(place, page, item, params) {
  const scale = params.scale in SCALES ? params.scale : "centered";
  const window = WINDOWS.includes(Number(params.window)) ? Number(params.window) : 5;
  const how = { prompt: item.id, scale, window, traits: params.traits ?? "", vector: params.vec ?? "" };
  const other = page.others.includes(params.other) ? params.other : "";
  const [found, compared] = await Promise.all([
    data.course(place.experiment, place.set, how),
    other ? data.comparison(place.experiment, place.set, other, how) : null,
  ]);
  const menu = controls(page, found, { scale, window, other, vec: params.vec ?? "" });
  if (!found.vectors.length) return [notProjected(place), quote("Prompt", promptText(item.prompt)), quote("Response", item.response)];
  const toggles = traitToggles(found, params);
  if (!found.courses.length) return [menu, toggles, empty("No such vector", "The chosen traits were not projected on this vector.")];
  return [menu, toggles, ...drawn({ found, compared, item, scale, window, paint: params.colour })];
}

const notProjected = ({ experiment, set }) =>
  empty(
    "No projections yet",
    "This response was not projected on a vector.",
    `python inference/project_activations.py --experiment ${experiment} --prompt-set ${set}`,
  );

function controls(page, found, { scale, window, other, vec }) {
  const vectors = [...new Set(found.vectors.map((v) => `${v.method} ${v.layer}`))];
  const named = vectors.map((v) => [v, v.replace(/ (\d+)$/, ", layer $1")]);
  const smoothing = WINDOWS.map((w) => [w, w === 1 ? "none" : `${w} tokens`]);
  const layers = [["", "each trait's first"], ...named];
  return h(
    "div",
    { class: "controls" },
    segments("Scale", Object.entries(SCALES), scale, (v) => patch({ scale: v })),
    choice("Smoothing", smoothing, window, (v) => patch({ window: v })),
    choice("Method and layer", layers, vec, (v) => patch({ vec: v })),
    page.others.length ? choice("Compare with", [["", "nothing"], ...page.others], other, (v) => patch({ other: v })) : null,
  );
}

/** A button per trait; the colours are those of the curves. */
function traitToggles(found, params) {
  const known = [...new Set(found.vectors.map((v) => v.trait))];
  const on = params.traits ? params.traits.split(",") : known.slice(0, SHOWN);
  const places = found.courses.map((c) => c.trait);
  const press = (trait) => {
    const next = on.includes(trait) ? on.filter((t) => t !== trait) : known.filter((t) => t === trait || on.includes(t));
    if (next.length) patch({ traits: next.join(",") });
  };
  const button = (trait) =>
    h(
      "button",
      { type: "button", class: "toggle", "aria-pressed": String(on.includes(trait)), title: trait, onclick: () => press(trait) },
      h("span", { class: `swatch line-${places.indexOf(trait) % 6}` }),
      traitParts(trait)[1],
    );
  return h("div", { class: "toggles", role: "group", "aria-label": "Traits" }, known.map(button));
}

function drawn({ found, compared, item, scale, window, paint }) {
  const painted = found.courses.find((c) => c.trait === paint) ?? found.courses.find((c) => c.known_point) ?? found.courses[0];
  const plots = [];
  const text = tokenText(found, painted, scale, (i) => plots.forEach((p) => pointAt(p, i)));
  const options = { found, painted, scale, window, compared, onhover: (i) => text.mark(i) };
  plots.push(coursePlot(options), velocityPlot(options));
  const models = compared ? comparisonPart(compared, item, (i) => text.mark(i)) : null;
  return [text.node, ...plots, figures(found), models];
}

const COLUMNS = [
  ["mean", (f) => signed(f.mean, 2)],
  ["last", (f) => signed(f.last, 2)],
  ["peak", (f) => `${signed(f.peak, 2)} at ${f.peak_at}`],
  ["persistence", (f) => number(f.persistence)],
  ["fastest step", (f) => `${signed(f.fastest, 2)} at ${f.fastest_at}`],
  ["committed at", (f) => (f.commitment === null ? "–" : String(f.commitment))],
  ["p of the commitment", (f) => number(f.commitment_p, 3)],
];

/** What the curves amount to over the response. */
function figures({ courses }) {
  const turn = ({ known_point: k }) => (k ? `${k.expect} expected at token ${k.token}: ${signed(k.change, 2)}` : "–");
  const row = (c) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, traitParts(c.trait)[1], h("span", { class: "note" }, ` ${c.method}, layer ${c.layer}: ${c.why}`)),
      COLUMNS.map(([, show]) => h("td", {}, c.response ? show(c.response) : "–")),
      h("td", {}, turn(c)),
    );
  const head = ["", ...COLUMNS.map(([name]) => name), "known point"].map((name) => h("th", { scope: "col" }, name));
  const note = "Of the response's centered scores, smoothed; tokens are counted from the response's first.";
  return h(
    "div",
    {},
    h("h3", {}, "Figures"),
    h("p", { class: "notes" }, note),
    h("div", { class: "scroll" }, h("table", { class: "plain" }, h("thead", {}, h("tr", {}, head)), h("tbody", {}, courses.map(row)))),
  );
}
