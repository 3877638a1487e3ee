// One vector's means of both groups, a point per prompt.

import { h } from "../dom.js";
import { number, promptText, range, signed, traitParts } from "../format.js";
import { faded } from "../palette.js";
import { chips } from "../parts.js";
import { literal, plot } from "../plots.js";
import { address } from "../router.js";

const AXES = { centered: "mean h·v̂ − centre (activation units)", raw: "mean h·v̂ (activation units)", cosine: "mean cosine of h and v" };

export function distribution(place, page, found, chosen, values) {
  const texts = new Map(page.prompts.map((p) => [p.id, cut(promptText(p.prompt))]));
  const names = Object.keys(found.groups);
  const members = (name) => found.groups[name].filter((id) => id in values);
  const traces = (c) =>
    names.map((name, i) => ({
      type: "box",
      orientation: "h",
      name: `${name} (${members(name).length})`,
      x: members(name).map((id) => values[id]),
      customdata: members(name),
      text: members(name).map((id) => literal(texts.get(id))),
      boxpoints: "all",
      jitter: 0.7,
      pointpos: 0,
      fillcolor: faded([c.pos, c.neg][i], 0.14),
      line: { color: [c.pos, c.neg][i], width: 1.3 },
      marker: { size: 7, color: faded([c.pos, c.neg][i], 0.75) },
      hovertemplate: "<b>%{customdata}</b>: %{x:.3f}<br>%{text}<extra></extra>",
      hoveron: "points",
    }));
  const layout = () => ({
    xaxis: { title: { text: AXES[found.scale] } },
    yaxis: { type: "category", autorange: "reversed", showgrid: false },
    showlegend: false,
  });
  const table = { columns: ["group", "prompt", "mean"], rows: names.flatMap((name) => members(name).map((id) => [name, id, values[id]])) };
  const onpoint = (point) => {
    if (point.customdata) location.hash = addressOf(place, chosen, point.customdata);
  };
  const title = `${traitParts(chosen.trait)[1]}, ${chosen.method}, layer ${chosen.layer}`;
  const figure = plot({ name: "distribution", title, note: chosen.why, height: 320, traces, layout, table, onpoint });
  return h("div", { class: "stack" }, figures(chosen, names), figure, extremes(place, chosen, values, names.flatMap(members), texts));
}

const cut = (text) => (text.length > 90 ? `${text.slice(0, 90)}…` : text);
const addressOf = (place, chosen, id) =>
  address("dynamics", { ...place, pid: id, traits: chosen.trait, vec: `${chosen.method} ${chosen.layer}` });

const figures = (v, names) =>
  chips([
    ...names.map((name, i) => [`mean of ${name}`, signed(v.means[i], 2)]),
    ["Cohen's d", `${signed(v.d, 2)} ${range(...v.d_interval, (x) => signed(x, 2))}`],
    ["AUROC", `${number(v.auroc)} ${range(...v.auroc_interval)}`],
    ["permutation p", number(v.p, 4)],
    ["q", number(v.q, 4)],
  ]);

/** The prompts at both ends, for those who do not point at plots. */
function extremes(place, chosen, values, ids, texts) {
  const order = [...ids].sort((a, b) => values[b] - values[a]);
  const item = (id) => h("li", {}, h("b", {}, signed(values[id], 2)), " ", h("a", { href: addressOf(place, chosen, id) }, id), ` ${texts.get(id)}`);
  const list = (name, some) => h("div", {}, h("span", { class: "label" }, name), h("ul", { class: "stretches" }, some.map(item)));
  return h("div", { class: "columns" }, list("Highest", order.slice(0, 5)), list("Lowest", order.slice(-5).reverse()));
}
