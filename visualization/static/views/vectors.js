// Layer × method: how well every vector separates, and one method along the layers with its intervals.

import * as data from "../data.js";
import { h } from "../dom.js";
import { number, range, signed } from "../format.js";
import { faded } from "../palette.js";
import { chips, choice, section, segments } from "../parts.js";
import { colourBar, plot } from "../plots.js";
import { patch } from "../router.js";
import { empty, fillWith } from "../states.js";

const METRICS = {
  auroc: {
    name: "held-out AUROC",
    unit: "AUROC",
    value: (v) => v.val?.auroc ?? null,
    bounds: (v) => v.val && [v.val.auroc_low, v.val.auroc_high],
    span: [0.5, 1],
    nothing: 0.5,
  },
  d: {
    name: "held-out Cohen's d",
    unit: "Cohen's d",
    value: (v) => v.val?.cohens_d ?? null,
    bounds: (v) => v.val && [v.val.cohens_d_low, v.val.cohens_d_high],
    signed: true,
    nothing: 0,
  },
  norm: { name: "norm ‖v‖", unit: "‖v‖", value: (v) => v.norm, bounds: () => null },
};

export function vectorPanel({ experiment, trait }, hasVectors) {
  const node = h("div");
  let seen = null;
  const update = (params) => {
    const wanted = JSON.stringify([params.metric, params.method, params.layer]);
    if (wanted === seen) return;
    seen = wanted;
    const none = () =>
      section(
        "Vectors",
        "",
        null,
        empty(
          "No vectors yet",
          "Stage 4 fits them.",
          `python extraction/4_fit_vectors.py --experiment ${experiment.name} --traits ${trait}`,
        ),
      );
    fillWith(node, async () => (hasVectors ? shown(await data.vectors(experiment.name, trait), params) : none()), "Reading vectors");
  };
  return { node, update };
}

/** Return the chosen vector: the one the address names, else the best held-out one, which the server ranks. */
export function chosenVector({ vectors, best }, params) {
  const find = (method, layer) => vectors.find((v) => v.method === method && String(v.layer) === String(layer));
  return find(params.method, params.layer) ?? (best && find(...best)) ?? vectors[0];
}

export const methodsOf = ({ vectors }) => [...new Set(vectors.map((v) => v.method))];
export const layersOf = ({ vectors }) => [...new Set(vectors.map((v) => v.layer))].sort((a, b) => a - b);

function shown(page, params) {
  const name = params.metric in METRICS ? params.metric : "auroc";
  const chosen = chosenVector(page, params);
  const controls = [
    segments(
      "Figure",
      Object.entries(METRICS).map(([key, m]) => [key, m.name]),
      name,
      (v) => patch({ metric: v }),
    ),
    choice("Method", methodsOf(page), chosen.method, (method) => patch({ method, layer: chosen.layer })),
    choice("Layer", layersOf(page), chosen.layer, (layer) => patch({ method: chosen.method, layer })),
  ];
  const note = `${page.component} activations, mean over ${page.position}. “random” is a direction drawn from these activations. They hold the trait, so it may read it: it is a null for steering, not for reading.`;
  return section(
    "Vectors",
    note,
    controls,
    h(
      "div",
      { class: "stack" },
      figures(chosen, page),
      h("div", { class: "pair" }, heatmap(page, METRICS[name], chosen), curve(page, METRICS[name], chosen)),
    ),
  );
}

function figures(v, { best, best_of: bestOf, best_val: bestVal }) {
  const isBest = best && v.method === best[0] && v.layer === best[1];
  // the best of many is better by luck too, and its intervals allow for that
  const held = isBest ? bestVal : v.val;
  return chips([
    ["vector", `${v.method}, layer ${v.layer}`],
    ["norm", number(v.norm)],
    ["centre", signed(v.centre, 2)],
    [isBest ? `held-out AUROC, best of ${bestOf}` : "held-out AUROC", held && `${number(held.auroc)} ${range(held.auroc_low, held.auroc_high)}`],
    ["Cohen's d", held && `${number(held.cohens_d)} ${range(held.cohens_d_low, held.cohens_d_high)}`],
    ["accuracy", held && number(held.accuracy)],
    ["held out", held && `${held.n_pos} + ${held.n_neg}`],
    ["AUROC on its own training texts", v.train && number(v.train.auroc)],
  ]);
}

function heatmap(page, metric, chosen) {
  const [methods, layers] = [methodsOf(page), layersOf(page)];
  const at = new Map(page.vectors.map((v) => [`${v.method} ${v.layer}`, v]));
  const z = methods.map((m) => layers.map((l) => (at.has(`${m} ${l}`) ? metric.value(at.get(`${m} ${l}`)) : null)));
  const largest = Math.max(1e-9, ...z.flat().map((x) => Math.abs(x ?? 0)));
  const [low, high] = metric.span ?? (metric.signed ? [-largest, largest] : [0, largest]);
  const traces = (c) => [
    {
      type: "heatmap",
      z,
      x: layers,
      y: methods,
      zmin: low,
      zmax: high,
      xgap: 1,
      ygap: 1,
      colorscale: metric.signed ? c.diverging : c.sequential,
      colorbar: colourBar(metric.unit),
      hovertemplate: `%{y}, layer %{x}<br>${metric.unit} %{z:.3f}<extra></extra>`,
    },
  ];
  const box = (c) => ({
    type: "rect",
    x0: chosen.layer - 0.5,
    x1: chosen.layer + 0.5,
    y0: methods.indexOf(chosen.method) - 0.5,
    y1: methods.indexOf(chosen.method) + 0.5,
    line: { color: c.neg, width: 2 },
  });
  const layout = (c) => ({
    xaxis: { title: { text: "layer" }, showgrid: false },
    yaxis: { autorange: "reversed", showgrid: false, type: "category" },
    shapes: [box(c)],
  });
  const table = { columns: ["method", "layer", metric.name], rows: page.vectors.map((v) => [v.method, v.layer, metric.value(v)]) };
  const onpoint = (point) => patch({ method: point.y, layer: point.x });
  return plot({
    name: `layers_methods_${metric.unit.replace(/\W+/g, "_")}`,
    title: `Layer × method: ${metric.name}`,
    note: "Choose a cell to follow its method.",
    height: 300,
    traces,
    layout,
    table,
    onpoint,
  });
}

function curve(page, metric, chosen) {
  const points = page.vectors.filter((v) => v.method === chosen.method && metric.value(v) !== null).sort((a, b) => a.layer - b.layer);
  const layers = points.map((v) => v.layer);
  const bounds = points.map((v) => metric.bounds(v));
  const hasBounds = bounds.length > 0 && bounds.every((b) => b && typeof b[0] === "number");
  const band = (c) => ({
    x: [...layers, ...[...layers].reverse()],
    y: [...bounds.map((b) => b[1]), ...bounds.map((b) => b[0]).reverse()],
    fill: "toself",
    fillcolor: faded(c.accent, 0.16),
    line: { width: 0 },
    hoverinfo: "skip",
    name: "95 % interval",
  });
  const line = (c) => ({
    x: layers,
    y: points.map(metric.value),
    mode: "lines+markers",
    line: { color: c.accent, width: 2 },
    marker: { size: points.map((v) => (v.layer === chosen.layer ? 11 : 5)), color: c.accent },
    name: chosen.method,
    hovertemplate: `layer %{x}<br>${metric.unit} %{y:.3f}<extra></extra>`,
  });
  const nothing = (c) => ({
    type: "line",
    xref: "paper",
    x0: 0,
    x1: 1,
    y0: metric.nothing,
    y1: metric.nothing,
    line: { color: c.grey, width: 1, dash: "dot" },
  });
  const layout = (c) => ({
    xaxis: { title: { text: "layer" } },
    yaxis: { title: { text: metric.name } },
    shapes: metric.nothing === undefined ? [] : [nothing(c)],
    showlegend: hasBounds,
  });
  const table = {
    columns: ["method", "layer", metric.name, "low", "high"],
    rows: points.map((v, i) => [v.method, v.layer, metric.value(v), bounds[i]?.[0], bounds[i]?.[1]]),
  };
  const traces = (c) => (hasBounds ? [band(c), line(c)] : [line(c)]);
  return plot({
    name: `${chosen.method}_by_layer`,
    title: `${chosen.method} along the layers`,
    note: hasBounds ? "Band: 95 % interval. Dotted: no separation." : "In units of the activations.",
    height: 300,
    traces,
    layout,
    table,
    onpoint: (point) => patch({ method: chosen.method, layer: point.x }),
  });
}
