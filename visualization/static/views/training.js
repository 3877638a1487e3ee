// How vectors were trained: the loss of every one that was tried, by step, and what was kept.

import * as data from "../data.js";
import { h } from "../dom.js";
import { number, plural } from "../format.js";
import { faded } from "../palette.js";
import { badge, chips, choice, section } from "../parts.js";
import { plot } from "../plots.js";
import { patch } from "../router.js";
import { empty, fillWith } from "../states.js";
import { withTrait } from "./head.js";

const DASHES = ["solid", "dash", "dot", "dashdot"]; // by seed, but for the vector that was kept
const AGREE_DIGITS = 3;

export const training = { title: "Training", keys: ["experiment", "trait"], needsExperiment: true, mount };

function mount(context) {
  const note = "Vectors learnt by gradient descent through the frozen model: every one that was tried, and which was kept.";
  return withTrait(context, "Training", note, (card) => {
    const node = h("div");
    const { name } = context.experiment;
    let seen = null;
    context.ready((params) => {
      const wanted = JSON.stringify([params.method, params.layer]);
      if (wanted === seen) return;
      seen = wanted;
      fillWith(node, async () => shown(await data.training(name, card.trait), params), "Reading the training");
    });
    return node;
  });
}

function shown({ methods, command }, params) {
  if (!methods.length)
    return section("Trained vectors", "", null, empty("No vector was trained", "Stages 1 to 4 have to be there; then this command trains.", command));
  const found = methods.find((m) => m.method === params.method) ?? methods[0];
  const layer = found.layers.find((l) => String(l) === String(params.layer)) ?? found.layers[0];
  const controls = [
    methods.length > 1 && choice("Method", methods.map((m) => m.method), found.method, (method) => patch({ method })),
    found.tried.length > 0 && found.layers.length > 1 && choice("Layer", found.layers, layer, (l) => patch({ method: found.method, layer: l })),
  ];
  const losses = found.tried.length ? lossPlot(found, layer) : closedForm(found);
  return h(
    "div",
    {},
    section(found.method, LOWERED[found.objective], controls, h("div", { class: "stack" }, stale(found), figures(found, layer), losses)),
    found.tried.length > 0 && section("Vectors that were tried", TRIED_NOTE, null, triedTable(found, layer)),
    section("How", "", null, h("div", { class: "stack" }, sourceOf(found), found.tried.length > 0 && optionsOf(found))),
  );
}

const LOWERED = {
  nll: "Lowered: mean −log p of the trait's response tokens under the vector, in nats.",
  pref: "Lowered: the preference of one answer over another to the same prompt, under the vector and under its opposite.",
  distill: "Lowered: the divergence of the steered model from the model that is told to show the trait, in nats.",
  delta: "No training: what being told adds to the states, mean over the same response tokens.",
};
const TRIED_NOTE = "Of each layer, the learning rate with the lowest validation loss over its seeds is kept, and of it the best seed.";

const stale = ({ why_stale: why }) => why && h("p", { class: "notes" }, h("span", {}, h("strong", {}, "stale "), why));

const keptAt = (found, layer) => found.tried.find((v) => v.is_kept && v.layer === layer);

function figures(found, layer) {
  const kept = keptAt(found, layer);
  const { texts, plain_loss: plain } = found;
  const cosines = found.seeds_agree[layer] ?? [];
  return chips([
    ["layer", found.tried.length ? layer : found.layers.length > 1 ? `${found.layers[0]} to ${found.layers.at(-1)}` : layer],
    ["unsteered loss", plain === null ? null : number(plain, 3)],
    ["best loss", kept && number(kept.best_loss, 3)],
    ["learning rate", kept?.learning_rate],
    ["norm", kept && number(kept.norm)],
    ["dose", kept && number(kept.dose, 3)],
    ["cosines between seeds", cosines.length ? cosines.map((c) => number(c, AGREE_DIGITS)).join(", ") : null],
    [found.tried.length ? "trained on" : "taken from", amount(texts, "train")],
    ["validated on", found.tried.length ? amount(texts, "val") : null],
    ["left over", texts.left_texts ? amount(texts, "left") : null],
  ]);
}

const amount = (texts, part) => `${plural(texts[`${part}_texts`], "text")}, ${plural(texts[`${part}_tokens`], "token")}`;

const closedForm = () => empty("Nothing was tried", "This method is one difference of means, in closed form: there is no loss to follow.");

const ratesOf = (found) => [...new Set(found.tried.map((v) => v.learning_rate))].sort((a, b) => a - b);
const nameOf = (v) => `rate ${v.learning_rate}, seed ${v.seed}${v.is_kept ? ", kept" : ""}`;

function lossPlot(found, layer) {
  const tried = found.tried.filter((v) => v.layer === layer).sort((a, b) => a.is_kept - b.is_kept); // the kept one on top
  const colour = (c, v) => c.lines[ratesOf(found).indexOf(v.learning_rate) % c.lines.length];
  const traces = (c) => tried.flatMap((v) => [validated(v, colour(c, v)), trained(v, colour(c, v)), v.is_kept && best(v, c)]).filter(Boolean);
  const { plain_loss: plain } = found;
  const line = (c) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: plain, y1: plain, line: { color: c.soft, width: 1.5, dash: "dot" } });
  const word = (c) => ({ xref: "paper", x: 1, xanchor: "right", y: plain, yanchor: "bottom", text: "unsteered", showarrow: false, font: { size: 11, color: c.soft } });
  const layout = (c) => ({
    xaxis: { title: { text: "step" }, rangemode: "tozero" },
    yaxis: { title: { text: "loss" } },
    ...(plain === null ? {} : { shapes: [line(c)], annotations: [word(c)] }),
  });
  const table = {
    columns: ["layer", "learning_rate", "seed", "kept", "step", "training_loss", "validation_loss"],
    rows: tried.flatMap((v) => v.losses.map(([step, train, val]) => [v.layer, v.learning_rate, v.seed, v.is_kept, step, train, val])),
  };
  return plot({
    name: `training_${found.method}_layer${layer}`,
    title: `Loss at layer ${layer}`,
    note: "Lines: validation; small points: training since the last validation. The ring is where the kept vector was best.",
    height: 400,
    traces,
    layout,
    table,
  });
}

const validated = (v, colour) => ({
  type: "scatter",
  mode: "lines",
  x: v.losses.map(([step]) => step),
  y: v.losses.map(([, , loss]) => loss),
  name: nameOf(v),
  legendgroup: nameOf(v),
  line: { color: v.is_kept ? colour : faded(colour, 0.55), width: v.is_kept ? 2.6 : 1.5, dash: v.is_kept ? "solid" : DASHES[v.seed % DASHES.length] },
  hovertemplate: `${nameOf(v)}<br>step %{x}: validation %{y:.4f}<extra></extra>`,
});

const trained = (v, colour) => ({
  type: "scatter",
  mode: "markers",
  x: v.losses.map(([step]) => step),
  y: v.losses.map(([, loss]) => loss),
  legendgroup: nameOf(v),
  showlegend: false,
  marker: { color: faded(colour, v.is_kept ? 0.9 : 0.4), size: 5 },
  hovertemplate: `${nameOf(v)}<br>step %{x}: training %{y:.4f}<extra></extra>`,
});

const best = (v, c) =>
  v.best_loss !== null && {
    type: "scatter",
    mode: "markers",
    x: [v.best_step],
    y: [v.best_loss],
    showlegend: false,
    marker: { symbol: "circle-open", size: 13, color: c.ink, line: { width: 2 } },
    hovertemplate: `kept as at step %{x}: %{y:.4f}<extra></extra>`,
  };

const COLUMNS = ["", "Layer", "Learning rate", "Seed", "Norm", "Dose", "Best step", "Best loss", "Tokens seen", "Ended"];

function triedTable(found, layer) {
  const row = (v) =>
    h(
      "tr",
      { "aria-current": v.layer === layer && v.is_kept },
      h("td", {}, v.is_kept && badge("kept", "good")),
      [v.layer, v.learning_rate, v.seed, number(v.norm), number(v.dose, 3), v.best_step, number(v.best_loss, 4), v.tokens_seen, v.ended || "at the last step"].map(
        (value) => h("td", {}, String(value)),
      ),
    );
  const head = h("tr", {}, COLUMNS.map((name) => h("th", { scope: "col" }, name)));
  return h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Vectors that were tried" }, h("table", { class: "plain figures" }, h("thead", {}, head), h("tbody", {}, found.tried.map(row))));
}

/** Where the texts come from, and what became of a file's lines. */
function sourceOf({ source }) {
  if (!source.file) return chips([["texts", "the trait's own"]]);
  return chips([["texts", source.file], ["lines", source.lines], ...Object.entries(source.counts ?? {})]);
}

const optionsOf = ({ options }) =>
  h(
    "details",
    {},
    h("summary", {}, "Options"),
    chips(Object.entries(options).map(([name, value]) => [name.replaceAll("_", " "), Array.isArray(value) ? value.join(", ") : String(value)])),
  );
