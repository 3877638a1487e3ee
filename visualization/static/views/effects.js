// Effect sizes of a split: trait × layer, and the clearest with their intervals.

import { number, signed, traitParts } from "../format.js";
import { colourBar, plot } from "../plots.js";
import { patch } from "../router.js";

const MOST = 16; // vectors in the plot of intervals

/** A vector's name in the address. */
export const nameOf = (v) => `${v.trait} ${v.method} ${v.layer}`;
const rowOf = (v, methods) => traitParts(v.trait)[1] + (methods.size > 1 ? ` · ${v.method}` : "");
const FIGURES = ["first_mean", "second_mean", "d", "d_low", "d_high", "auroc", "auroc_low", "auroc_high", "p", "q", "n_first", "n_second"];
const tableOf = ({ vectors }) => ({
  columns: ["trait", "method", "layer", ...FIGURES],
  rows: vectors.map((v) => [v.trait, v.method, v.layer, ...v.means, v.d, ...v.d_interval, v.auroc, ...v.auroc_interval, v.p, v.q, ...v.n]),
});

export function effectMap(found, chosen) {
  const methods = new Set(found.vectors.map((v) => v.method));
  const rows = [...new Set(found.vectors.map((v) => rowOf(v, methods)))];
  const layers = [...new Set(found.vectors.map((v) => v.layer))].sort((a, b) => a - b);
  const at = (row, layer) => found.vectors.find((v) => rowOf(v, methods) === row && v.layer === layer);
  const limit = Math.max(0.2, ...found.vectors.map((v) => Math.abs(v.d)));
  const traces = (c) => [
    {
      type: "heatmap",
      z: rows.map((row) => layers.map((layer) => at(row, layer)?.d ?? null)),
      customdata: rows.map((row) => layers.map((layer) => at(row, layer)?.q ?? null)),
      x: layers.map(String),
      y: rows,
      zmin: -limit,
      zmax: limit,
      xgap: 1,
      ygap: 1,
      colorscale: c.diverging,
      colorbar: colourBar("d"),
      hoverongaps: false,
      hovertemplate: "%{y}, layer %{x}<br>Cohen's d %{z:+.2f}, q %{customdata:.3f}<extra></extra>",
    },
  ];
  const [i, j] = [layers.indexOf(chosen.layer), rows.indexOf(rowOf(chosen, methods))];
  const layout = (c) => ({
    xaxis: { title: { text: "layer" }, type: "category", showgrid: false },
    yaxis: { autorange: "reversed", type: "category", showgrid: false },
    shapes: [{ type: "rect", x0: i - 0.5, x1: i + 0.5, y0: j - 0.5, y1: j + 0.5, line: { color: c.neg, width: 2 } }],
  });
  const onpoint = (point) => patch({ vec: nameOf(at(point.y, Number(point.x))) });
  return plot({
    name: "effect_map",
    title: "Trait × layer",
    note: "Cohen's d, first group over second. Choose a cell for its distributions.",
    height: Math.max(260, 110 + 30 * rows.length),
    traces,
    layout,
    table: tableOf(found),
    onpoint,
  });
}

export function effectPlot(found, chosen) {
  const order = [...found.vectors].sort((a, b) => a.q - b.q || Math.abs(b.d) - Math.abs(a.d)).slice(0, MOST);
  const shown = (order.includes(chosen) ? order : [...order, chosen]).reverse();
  const label = (v) => `${traitParts(v.trait)[1]} · ${v.method} ${v.layer}`;
  const traces = (c) => [
    {
      type: "scatter",
      mode: "markers",
      x: shown.map((v) => v.d),
      y: shown.map(label),
      marker: { size: shown.map((v) => (v === chosen ? 13 : 9)), color: shown.map((v) => (v.q <= 0.05 ? c.accent : c.grey)) },
      error_x: {
        type: "data",
        symmetric: false,
        array: shown.map((v) => v.d_interval[1] - v.d),
        arrayminus: shown.map((v) => v.d - v.d_interval[0]),
        color: c.soft,
        thickness: 1.5,
        width: 4,
      },
      customdata: shown.map((v) => [`${signed(v.d, 2)} [${signed(v.d_interval[0], 2)}, ${signed(v.d_interval[1], 2)}]`, number(v.auroc), number(v.q, 4)]),
      hovertemplate: "%{y}<br>d %{customdata[0]}<br>AUROC %{customdata[1]}, q %{customdata[2]}<extra></extra>",
    },
  ];
  const layout = (c) => ({
    xaxis: { title: { text: "Cohen's d" }, zeroline: true, zerolinecolor: c.grey },
    yaxis: { type: "category", showgrid: false },
    showlegend: false,
  });
  return plot({
    name: "effect_sizes",
    title: found.vectors.length > MOST ? `The ${MOST} clearest` : "Effect sizes",
    note: "First group over second, with 95 % intervals. Coloured: q ≤ 0.05.",
    height: Math.max(240, 90 + 26 * shown.length),
    traces,
    layout,
    table: tableOf(found),
    onpoint: (point) => patch({ vec: nameOf(shown[point.pointIndex]) }),
  });
}
