// Histograms of the scores, and every judged text with its score.

import * as data from "../data.js";
import { h } from "../dom.js";
import { number, percent, promptText } from "../format.js";
import { faded } from "../palette.js";
import { chips, quote, section, segments } from "../parts.js";
import { picker } from "../picker.js";
import { plot } from "../plots.js";
import { patch } from "../router.js";
import { empty, fillWith } from "../states.js";

const SIDES = { pos: "positive", neg: "negative" };

export function vettingPanel({ experiment, trait }) {
  const node = h("div");
  let part = null;
  let texts = null;
  const update = (params) => {
    const wanted = params.part === "scenarios" ? "scenarios" : "responses";
    if (wanted === part) texts?.update(params);
    else {
      part = wanted;
      texts = null;
      fillWith(
        node,
        async () => {
          const page = await data.vetting(experiment.name, trait);
          texts = page[wanted] && textPicker(page[wanted]);
          texts?.update(params);
          return vetted(page, wanted, texts);
        },
        "Reading scores",
      );
    }
  };
  return { node, update };
}

function vetted(page, part, texts) {
  const pick = segments(
    "Vetted texts",
    [
      ["scenarios", "Scenarios"],
      ["responses", "Responses"],
    ],
    part,
    (v) => patch({ part: v, rid: "", rpage: "" }),
  );
  const note = "How strongly the judge finds the trait in each text, 0 to 100. The two sides should stand apart.";
  const found = page[part];
  if (!found)
    return section(
      "Vetting",
      note,
      pick,
      empty(`${part === "scenarios" ? "Scenarios" : "Responses"} have not been vetted`, "The stage has not run for this trait."),
    );
  return section("Vetting", note, pick, h("div", { class: "stack" }, figures(page, found), histogram(page, found, part), texts.node));
}

function figures(page, found) {
  const rate = (side) => {
    const all = found.texts.filter((t) => t.side === side);
    return all.length ? percent(all.filter((t) => t.passed).length / all.length) : null;
  };
  const unjudged = found.texts.filter((t) => t.value === null).length;
  const accuracy = found.judge.cross_validated_accuracy;
  return chips([
    ["texts", found.texts.length],
    [`positive at ${page.pos_threshold} or above`, rate("pos")],
    [`negative at ${page.neg_threshold} or below`, rate("neg")],
    ["not judged", unjudged || null],
    ["judge", found.judge.judge],
    ["judge's accuracy, cross-validated", accuracy === undefined ? null : number(accuracy)],
  ]);
}

function histogram(page, found, part) {
  const values = (side) => found.texts.filter((t) => t.side === side && t.value !== null).map((t) => t.value);
  const traces = (c) =>
    Object.entries(SIDES).map(([side, name]) => ({
      type: "histogram",
      x: values(side),
      name: `${name} (${values(side).length})`,
      xbins: { start: 0, end: 100.0001, size: 5 },
      marker: { color: faded(c[side], 0.62), line: { color: c[side], width: 1 } },
      hovertemplate: `${name}<br>score %{x}: %{y} texts<extra></extra>`,
    }));
  const mark = (x, colour) => ({
    type: "line",
    x0: x,
    x1: x,
    yref: "paper",
    y0: 0,
    y1: 1,
    line: { color: colour, width: 1.5, dash: "dot" },
  });
  const layout = (c) => ({
    barmode: "overlay",
    bargap: 0.04,
    xaxis: { title: { text: "trait score (0–100)" }, range: [0, 100] },
    yaxis: { title: { text: "texts" } },
    shapes: [mark(page.pos_threshold, c.pos), mark(page.neg_threshold, c.neg)],
  });
  const table = {
    columns: ["id", "side", "score", "state", "passed"],
    rows: found.texts.map((t) => [t.id, t.side, t.value, t.state, t.passed]),
  };
  return plot({
    name: `${part}_scores`,
    title: `Scores of ${part}`,
    note: "Dotted: the thresholds of the two sides.",
    height: 260,
    traces,
    layout,
    table,
  });
}

const outcome = (t) => (t.value === null ? "unjudged" : t.passed ? "passed" : "failed");

function textPicker(found) {
  return picker({
    prefix: "r",
    label: "Judged texts",
    items: found.texts,
    id: (t) => t.id,
    words: (t) => `${promptText(t.prompt)} ${t.response ?? ""} ${t.id}`,
    row: (t) => [
      h("span", { class: "line" }, t.response === null ? promptText(t.prompt) : t.response.trim() || "(nothing)"),
      h("span", { class: "note" }, h("span", { class: `side-${t.side}` }, SIDES[t.side]), ` · pair ${t.pair + 1}`),
      h("span", { class: "value" }, number(t.value, 0), h("br"), h("span", { class: `outcome ${outcome(t)}` }, outcome(t))),
    ],
    detail,
    filters: {
      side: { label: "Side", options: Object.entries(SIDES), keep: (t, v) => t.side === v },
      outcome: {
        label: "Outcome",
        options: [
          ["passed", "passed"],
          ["failed", "failed"],
          ["unjudged", "not judged"],
        ],
        keep: (t, v) => outcome(t) === v,
      },
    },
    orders: { score: { label: "score", key: (t) => t.value }, pair: { label: "pair", key: (t) => t.pair } },
  });
}

function detail(t) {
  const head = chips([
    ["side", SIDES[t.side]],
    ["pair", t.pair + 1],
    ["score", t.value === null ? t.state : number(t.value, 1)],
    ["outcome", outcome(t)],
    ["reason", t.detail],
  ]);
  return [
    head,
    quote(t.response === null ? "Scenario" : "Prompt", promptText(t.prompt)),
    t.response !== null && quote("Response", t.response),
  ];
}
