// The search on the dev questions: layer × dose, and dose–response curves.

import { h } from "../dom.js";
import { doseName, layerName, number, signed, range } from "../format.js";
import { faded } from "../palette.js";
import { chips, choice, section } from "../parts.js";
import { colourBar, plot } from "../plots.js";
import { patch } from "../router.js";
import { fillWith } from "../states.js";

const DASHES = ["solid", "dash", "dot", "dashdot"];

/** Return the name by which the texts of a cell are known. */
export const armOf = (cell) => `plus ${cell.cell || `${cell.method} layer ${layerName(cell.layer)} dose ${doseName(cell.dose)}`}`;

export function sweepPanel(results) {
  const node = h("div");
  let seen = null;
  const update = (params) => {
    const wanted = JSON.stringify([params.method, params.part, params.arm]);
    if (wanted === seen) return;
    seen = wanted;
    fillWith(node, async () => shown(results, params));
  };
  return { node, update };
}

function shown(results, params) {
  const methods = [...new Set(results.dev.map((c) => c.method))];
  const method = methods.includes(params.method) ? params.method : results.chosen.method;
  const cells = results.dev.filter((c) => c.method === method);
  const picked = params.part !== "test" ? results.dev.find((c) => armOf(c) === params.arm) : undefined;
  const controls = methods.length > 1 ? choice("Method", methods, method, (v) => patch({ method: v })) : null;
  const note = "Every cell that was tried on the dev questions. The ringed one was chosen; choose another to read its texts below.";
  const maps = h(
    "div",
    { class: "pair" },
    heatmap(results, cells, "effect", method, picked),
    heatmap(results, cells, "coherence", method, picked),
  );
  return section(
    "Search",
    note,
    controls,
    h(
      "div",
      { class: "stack" },
      figures(picked ?? chosenCell(results)),
      maps,
      curves(results, "effect", method),
      curves(results, "coherence", method),
    ),
  );
}

const chosenCell = ({ dev, chosen }) =>
  dev.find((c) => ["method", "dose"].every((k) => c[k] === chosen[k]) && layerName(c.layer) === layerName(chosen.layer)) ?? dev[0];

function figures(cell) {
  return chips([
    ["cell", `${cell.method}, layer ${layerName(cell.layer)}, dose ${doseName(cell.dose)}`],
    ["effect", `${signed(cell.effect)} ${range(cell.effect_low, cell.effect_high, signed)}`],
    ["odd part", cell.odd_part === null ? null : signed(cell.odd_part)],
    ["coherence of the weaker side", number(cell.coherence, 0)],
    ["coefficient", Array.isArray(cell.coefficient) ? cell.coefficient.map((c) => number(c)).join(", ") : number(cell.coefficient)],
    ["dev questions", cell.n],
  ]);
}

const FIGURES = {
  effect: { title: "Effect", unit: "effect (points)", short: "points", note: "Change of the trait score." },
  coherence: { title: "Coherence", unit: "coherence (0–100)", short: "0–100", note: "How well the texts hold together, of the side that holds less." },
};

function heatmap(results, cells, key, method, picked) {
  const layers = [...new Set(cells.map((c) => layerName(c.layer)))].sort((a, b) => parseInt(a, 10) - parseInt(b, 10));
  const doses = [...new Set(cells.map((c) => c.dose))].sort((a, b) => a - b);
  const at = (layer, dose) => cells.find((c) => layerName(c.layer) === layer && c.dose === dose);
  const z = doses.map((dose) => layers.map((layer) => at(layer, dose)?.[key] ?? null));
  const largest = Math.max(1, ...results.dev.map((c) => Math.abs(c.effect ?? 0)));
  const [low, high] = key === "effect" ? [-largest, largest] : [0, 100];
  const { title, unit, note } = FIGURES[key];
  const traces = (c) => [
    {
      type: "heatmap",
      z,
      x: layers,
      y: doses.map(doseName),
      zmin: low,
      zmax: high,
      xgap: 2,
      ygap: 2,
      colorscale: key === "effect" ? c.diverging : c.sequential,
      colorbar: colourBar(FIGURES[key].short),
      texttemplate: cells.length <= 40 ? "%{z:.0f}" : "",
      hoverongaps: false,
      hovertemplate: `layer %{x}, dose %{y}<br>${unit} %{z:.1f}<extra></extra>`,
    },
  ];
  const ring = (cell, colour, width) =>
    cell &&
    cell.method === method &&
    ((i, j) => ({ type: "rect", x0: i - 0.48, x1: i + 0.48, y0: j - 0.46, y1: j + 0.46, line: { color: colour, width } }))(
      layers.indexOf(layerName(cell.layer)),
      doses.indexOf(cell.dose),
    );
  const layout = (c) => ({
    xaxis: { title: { text: "layer" }, type: "category", showgrid: false },
    yaxis: { title: { text: "dose (share of the residual norm)" }, type: "category", showgrid: false },
    shapes: [ring(chosenCell(results), c.ink, 2.5), ring(picked, c.neg, 2)].filter(Boolean),
  });
  const table = {
    columns: ["method", "layer", "dose", "effect", "effect_low", "effect_high", "odd_part", "coherence", "n"],
    rows: cells.map((c) => [c.method, layerName(c.layer), c.dose, c.effect, c.effect_low, c.effect_high, c.odd_part, c.coherence, c.n]),
  };
  const onpoint = (point) => patch({ part: "dev", arm: armOf(at(String(point.x), doses[point.pointIndex[0]])), tid: "" });
  return plot({
    name: `${key}_${method}`,
    title: `${title}: ${method}`,
    note: `${note} Layer × dose; what was not tried is blank.`,
    height: 330,
    traces,
    layout,
    table,
    onpoint,
  });
}

function curves(results, key, method) {
  const cells = results.dev.filter((c) => c[key] !== null);
  const methods = [...new Set(results.dev.map((c) => c.method))];
  const layers = [...new Set(results.dev.map((c) => layerName(c.layer)))];
  const groups = [...new Set(cells.map((c) => `${c.method}\u0000${layerName(c.layer)}`))].map((name) =>
    cells.filter((c) => `${c.method}\u0000${layerName(c.layer)}` === name).sort((a, b) => a.dose - b.dose),
  );
  const traces = (c) =>
    groups.flatMap((points) =>
      lines(
        points,
        key,
        points[0].method === method,
        c.lines[layers.indexOf(layerName(points[0].layer)) % c.lines.length],
        DASHES[methods.indexOf(points[0].method) % DASHES.length],
      ),
    );
  const chosen = chosenCell(results);
  const layout = (c) => ({
    xaxis: {
      title: { text: "dose (share of the residual norm)" },
      type: "log",
      tickvals: ticks(cells),
      ticktext: ticks(cells).map(doseName),
    },
    yaxis: {
      title: { text: FIGURES[key].unit },
      ...(key === "coherence" ? { range: [0, 103] } : { zeroline: true, zerolinecolor: c.grey }),
    },
    annotations:
      chosen?.[key] == null
        ? []
        : [
            {
              x: Math.log10(chosen.dose),
              y: chosen[key],
              text: "chosen",
              showarrow: true,
              arrowhead: 0,
              ax: 0,
              ay: 34,
              font: { color: c.ink },
              arrowcolor: c.ink,
            },
          ],
  });
  const table = {
    columns: ["method", "layer", "dose", key, "low", "high"],
    rows: cells.map((c) => [
      c.method,
      layerName(c.layer),
      c.dose,
      c[key],
      key === "effect" ? c.effect_low : null,
      key === "effect" ? c.effect_high : null,
    ]),
  };
  const note =
    key === "effect"
      ? `Colour: layer. Bands: 95 % intervals of ${method}; other methods faint.`
      : "Where the text breaks, an effect means little.";
  return plot({
    name: `dose_${key}`,
    title: `Dose and ${key}`,
    note,
    height: key === "effect" ? 400 : 280,
    traces,
    layout,
    table,
    onpoint: (point) => point.customdata && patch({ part: "dev", arm: point.customdata, tid: "" }),
  });
}

function lines(points, key, isChosen, colour, dash) {
  const name = `${points[0].method}, layer ${layerName(points[0].layer)}`;
  const x = points.map((p) => p.dose);
  const line = {
    type: "scatter",
    mode: "lines+markers",
    x,
    y: points.map((p) => p[key]),
    name,
    legendgroup: name,
    showlegend: isChosen,
    opacity: isChosen ? 1 : 0.35,
    line: { color: colour, dash, width: isChosen ? 2.2 : 1.4 },
    marker: { color: colour, size: 6 },
    customdata: points.map(armOf),
    hovertemplate: `${name}<br>dose %{x:.3g}: %{y:.1f}<extra></extra>`,
  };
  if (key !== "effect" || !isChosen || points.length < 2 || points.some((p) => p.effect_low === null)) return [line];
  const band = {
    type: "scatter",
    x: [...x, ...[...x].reverse()],
    y: [...points.map((p) => p.effect_high), ...points.map((p) => p.effect_low).reverse()],
    fill: "toself",
    fillcolor: faded(colour, 0.09),
    line: { width: 0 },
    mode: "lines",
    hoverinfo: "skip",
    showlegend: false,
    legendgroup: name,
  };
  return [band, line];
}

function ticks(cells) {
  const kept = [];
  for (const dose of [...new Set(cells.map((c) => c.dose))].sort((a, b) => a - b))
    if (!kept.length || dose > 1.25 * kept.at(-1)) kept.push(dose);
  return kept;
}
