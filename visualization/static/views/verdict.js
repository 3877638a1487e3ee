// The verdict, with every comparison that it rests on.

import { h } from "../dom.js";
import { doseName, interval, layerName, number, verdictTone } from "../format.js";
import { faded } from "../palette.js";
import { badge, chips, section } from "../parts.js";
import { plot } from "../plots.js";

export function verdictPanel(results) {
  const { chosen, coherence, random, verdict, why } = results;
  const place = `${chosen.method}, layer ${layerName(chosen.layer)}, dose ${doseName(chosen.dose)}`;
  const line = h(
    "div",
    { class: "verdict" },
    h("div", { class: "line" }, badge(verdict, verdictTone(verdict)), h("span", {}, place)),
    h("p", { class: "text" }, why),
  );
  const facts = chips([
    ["test questions", results.n_questions],
    ["effect", interval(results.effect)],
    ["odd part", interval(results.odd_part)],
    ["z against random directions", random && random.z != null && number(random.z, 1)],
    ["p, rank among random directions", number(results.p ?? random?.selected?.p ?? random?.p, 3)],
    ["looks at this trait", results.looks > 1 && results.looks],
    ["judge tells the sides apart", told(results.judge_reliability)],
    ["held-out AUROC", results.reading && number(results.reading.auroc, 2)],
    ["second judge", results.second_judge && `${results.second_judge.verdict} (${results.second_judge.judge.mode})`],
    ["questions of the neutral pool", results.questions_from_pool?.test],
    ["coherence", `${number(coherence.unsteered, 0)} → ${number(coherence.plus, 0)}`],
    ["operation", chosen.operation],
    ["positions", chosen.positions],
    ["judge", results.judge.mode],
  ]);
  const wish = results.wanted < 0 ? " Less of the trait is wanted: effects count downwards." : "";
  const note = `On questions that played no part in choosing method, layer and dose. Points of the trait score, 0 to 100.${wish}`;
  return section(
    "Verdict",
    note,
    null,
    h("div", { class: "stack" }, line, facts, h("div", { class: "pair" }, comparison(results), nullPlot(results))),
  );
}

const told = (found) => found && `${number(100 * found.value, 0)} % [${number(100 * found.low, 0)}, ${number(100 * found.high, 0)}]`;

const ARMS = [
  ["effect", "+ vector"],
  ["effect_minus", "− vector"],
  ["odd_part", "odd part"],
  ["shuffled_labels_odd_part", "odd part, shuffled labels"],
  ["system_prompt_effect", "asked by system prompt"],
];

function comparison(results) {
  const rows = ARMS.map(([key, name]) => [name, results[key]]).filter(([, found]) => found);
  if (results.paraphrases?.odd_part) rows.push(["odd part, questions paraphrased", results.paraphrases.odd_part]);
  if (results.strongest?.effect) rows.push([`+ vector, dose ${doseName(results.strongest.dose)}`, results.strongest.effect]);
  rows.reverse();
  const traces = (c) => [
    {
      type: "scatter",
      mode: "markers",
      x: rows.map(([, f]) => f.mean),
      y: rows.map(([name]) => name),
      marker: { size: 10, color: c.accent },
      customdata: rows.map(([, f]) => [f.low, f.high]),
      error_x: {
        type: "data",
        symmetric: false,
        array: rows.map(([, f]) => f.high - f.mean),
        arrayminus: rows.map(([, f]) => f.mean - f.low),
        color: c.accent,
        thickness: 2,
        width: 5,
      },
      hovertemplate: "%{y}<br>%{x:+.1f} points [%{customdata[0]:+.1f}, %{customdata[1]:+.1f}]<extra></extra>",
    },
  ];
  const layout = (c) => ({
    xaxis: { title: { text: "change of the trait score (points)" }, zeroline: true, zerolinecolor: c.grey },
    yaxis: { type: "category", showgrid: false },
    showlegend: false,
  });
  const table = { columns: ["arm", "mean", "low", "high", "n"], rows: rows.map(([name, f]) => [name, f.mean, f.low, f.high, f.n]) };
  return plot({
    name: "comparison",
    title: "Against the other arms",
    note: "Bars: 95 % intervals over questions.",
    height: 300,
    traces,
    layout,
    table,
  });
}

function nullPlot({ random, odd_part: odd, shuffled_labels_odd_part: shuffled }) {
  if (!random) return null;
  const sizes = random.odd_parts.map(Math.abs);
  const traces = (c) =>
    [
      {
        type: "histogram",
        x: sizes,
        nbinsx: 14,
        name: `${random.n} random directions`,
        marker: { color: faded(c.grey, 0.55), line: { color: c.grey, width: 1 } },
        hovertemplate: "size %{x}: %{y} directions<extra></extra>",
      },
      odd && marked(odd.mean, odd, "the vector", c.accent),
      shuffled && marked(Math.abs(shuffled.mean), null, "shuffled labels", c.neg),
    ].filter(Boolean);
  const band = (c) => ({
    type: "rect",
    x0: Math.max(odd.low, 0),
    x1: Math.max(odd.high, 0),
    yref: "paper",
    y0: 0,
    y1: 1,
    fillcolor: faded(c.accent, 0.12),
    line: { width: 0 },
    layer: "below",
  });
  const layout = (c) => ({
    xaxis: { title: { text: "size of the odd part (points)" }, rangemode: "tozero" },
    yaxis: { title: { text: "directions" } },
    yaxis2: { overlaying: "y", range: [0, 1], visible: false },
    shapes: odd ? [band(c)] : [],
  });
  const table = {
    columns: ["direction", "odd_part"],
    rows: [...random.odd_parts.map((x, i) => [`random ${i}`, x]), ["vector", odd?.mean], ["shuffled labels", shuffled?.mean]],
  };
  const stands = random.z == null ? "None of them moves the score." : `z = ${number(random.z, 1)}, against their spread of ${number(random.spread, 1)} points.`;
  const note = `${stands} Band: the vector's 95 % interval.`;
  return plot({ name: "null_distribution", title: "Against random directions", note, height: 300, traces, layout, table });
}

const marked = (x, found, name, colour) => ({
  type: "scatter",
  mode: "lines",
  x: [x, x],
  y: [0, 1],
  yaxis: "y2",
  name: found ? `${name} ${interval(found)}` : name,
  line: { color: colour, width: 3 },
  hovertemplate: `${name}: %{x:.1f}<extra></extra>`,
});
