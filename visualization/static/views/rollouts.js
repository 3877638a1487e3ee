// Rollouts: what the model does when it is prompted, steered or left alone. Arms × doses, curves, and the texts.

import * as data from "../data.js";
import { h } from "../dom.js";
import { doseName, number, percent, plural, range, signed } from "../format.js";
import { chips, choice, quote, section } from "../parts.js";
import { lineStyle } from "../palette.js";
import { picker } from "../picker.js";
import { plot } from "../plots.js";
import { patch } from "../router.js";
import { empty, fillWith } from "../states.js";
import { withTrait } from "./head.js";

export const rollouts = { title: "Rollouts", keys: ["experiment", "trait"], needsExperiment: true, mount };

const NAMES = { trait: "Trait score", coherence: "Coherence", classifier: "Classifier score" };

function mount(context) {
  const note = "What the model does when it is prompted, steered, or left alone. Intervals are over questions, for a question's rollouts are no independent texts.";
  return withTrait(context, "Rollouts", note, (card) => {
    const node = h("div");
    fillWith(node, () => panels(context, card), "Reading the rollouts");
    return node;
  });
}

async function panels(context, card) {
  const place = { experiment: context.experiment.name, trait: card.trait };
  const page = await data.rollouts(place.experiment, place.trait);
  if (!page.variants.length) {
    const command = `python inference/roll_out.py --experiment ${place.experiment} --traits ${place.trait} --arms plain,prompted,mean_diff --score judge,coherence`;
    return section("Rollouts", "", null, empty("Not rolled out yet", "Nothing was rolled out for this trait in this experiment.", command));
  }
  const scores = Object.keys(NAMES).filter((name) => page.variants.some((v) => v.scores[name].scored));
  const summary = h("div");
  const texts = textsPanel(place, page);
  let seen = null;
  context.ready((params) => {
    const wanted = JSON.stringify([params.variant, params.score]);
    if (wanted !== seen) fillWith(summary, async () => shown(page, scores, params));
    seen = wanted;
    texts.update(params);
  });
  return h("div", {}, summary, texts.node);
}

/** Return the variant that the address names, else the steered one that changed the trait most. */
function chosenOf(page, params) {
  const named = page.variants.find((v) => v.variant === params.variant);
  const size = (v) => Math.abs(v.scores.trait.difference ?? 0);
  return named ?? [...page.variants].sort((a, b) => size(b) - size(a))[0];
}

function shown(page, scores, params) {
  const score = scores.includes(params.score) ? params.score : (scores[0] ?? "trait");
  const chosen = chosenOf(page, params);
  const controls = scores.length > 1 ? choice("Score", scores.map((name) => [name, NAMES[name]]), score, (v) => patch({ score: v })) : null;
  const size = `${plural(page.variants.length, "variant")} × ${plural(page.questions, "question")}.`;
  const note = `${size} ${scores.length ? "Choose a cell to read its texts below." : "No text is scored yet; roll_out.py --score judge does."}`;
  const drawn = scores.includes(score) ? [curves(page, score)] : [];
  if (score !== "coherence" && scores.includes("coherence")) drawn.push(curves(page, "coherence"));
  return section("Arms and doses", note, controls, h("div", { class: "stack" }, cells(page, score, chosen), figures(chosen), drawn));
}

/** Return the name of the row that a variant stands in. */
function lineOf(v) {
  if (!v.method) return v.variant;
  return `${v.method}, layer ${v.layer}${v.system_prompt === null ? "" : `, prompted ${v.system_prompt}`}`;
}

function cells(page, score, chosen) {
  const doses = [...new Set(page.variants.filter((v) => v.method && v.dose !== null).map((v) => v.dose))].sort((a, b) => a - b);
  const columns = [...doses.filter((d) => d < 0), 0, ...doses.filter((d) => d > 0)];
  if (page.variants.some((v) => v.method && v.dose === null)) columns.push(null);
  const at = (v) => (v.method ? v.dose : 0);
  const head = ["", ...columns.map((d) => (d === null ? "dose unknown" : d === 0 ? "not steered" : signed(d, 2)))];
  const cell = (name, column) => page.variants.filter((v) => lineOf(v) === name && at(v) === column).map((v) => cellButton(v, score, v === chosen));
  const row = (name) => h("tr", {}, h("th", { scope: "row" }, name), columns.map((column) => h("td", {}, cell(name, column))));
  const lines = [...new Set(page.variants.map(lineOf))];
  return h(
    "div",
    { class: "scroll" },
    h(
      "table",
      { class: "plain" },
      h("thead", {}, h("tr", {}, head.map((text) => h("th", { scope: "col" }, text)))),
      h("tbody", {}, lines.map(row)),
    ),
  );
}

function cellButton(v, score, isChosen) {
  const found = v.scores[score];
  const said = found.mean === null ? (found.refused ? "refused" : "–") : number(found.mean, 0);
  const change = found.difference === null ? "" : ` (${signed(found.difference, 0)})`;
  return h(
    "button",
    { class: "button small", type: "button", "aria-pressed": String(isChosen), "aria-label": `${v.variant}: ${said}${change}`, title: v.variant, onclick: () => patch({ variant: v.variant, vid: "", vpage: "" }) },
    isChosen ? h("b", {}, `${said}${change}`) : `${said}${change}`,
  );
}

function figures(v) {
  const { trait } = v.scores;
  const rest = Object.entries(v.scores).filter(([name, found]) => name !== "trait" && found.scored);
  const lost = (found) => [found.refused && `${found.refused} refused`, found.unscored && `${found.unscored} without a score`, found.unasked && `${found.unasked} not asked`];
  return chips([
    ["variant", v.variant],
    ["trait", trait.mean === null ? null : `${number(trait.mean, 1)} ${range(trait.low, trait.high, (x) => number(x, 1))}`],
    ["change", trait.difference === null ? null : `${signed(trait.difference)} ${range(trait.difference_low, trait.difference_high, signed)}`],
    ...rest.map(([name, found]) => [name, `${number(found.mean, 1)} ${range(found.low, found.high, (x) => number(x, 1))}`]),
    ["trait scores", `${trait.scored} of ${v.rows}${lost(trait).filter(Boolean).map((text) => `, ${text}`).join("")}`],
    ["coefficient", v.coefficient === null ? null : number(v.coefficient)],
    ["‖v‖", v.norm === null ? null : number(v.norm, 1)],
    ["words", number(v.words, 0)],
    ["finished", percent(v.finished)],
    ["questions", v.questions],
  ]);
}

function curves(page, score) {
  const steered = page.variants.filter((v) => v.method && v.dose !== null && v.scores[score].mean !== null);
  const names = [...new Set(steered.map(lineOf))];
  const flat = page.variants.filter((v) => !v.method && v.scores[score].mean !== null);
  const ends = [Math.min(-0.1, ...steered.map((v) => v.dose)), Math.max(0.1, ...steered.map((v) => v.dose))];
  const traces = (c) => [
    ...flat.map((v) => level(v, score, ends, v.arm === "plain" ? c.soft : v.arm === "prompted" ? c.ink : c.grey)),
    ...names.map((name, i) => curve(steered.filter((v) => lineOf(v) === name), flat, name, score, lineStyle(c, i))),
  ];
  const layout = (c) => ({
    xaxis: { title: { text: "dose (share of the residual norm)" }, zeroline: true, zerolinecolor: c.line },
    yaxis: { title: { text: NAMES[score].toLowerCase() }, range: [-3, 103] },
  });
  const figure = (v) => [v.scores[score].mean, v.scores[score].low, v.scores[score].high, v.scores[score].n];
  const table = {
    columns: ["variant", "method", "layer", "dose", "coefficient", "mean", "low", "high", "questions"],
    rows: page.variants.map((v) => [v.variant, v.method, v.layer, v.dose, v.coefficient, ...figure(v)]),
  };
  const onpoint = (point) => point.customdata && patch({ variant: point.customdata, vid: "", vpage: "" });
  const about = { name: `rollouts_${score}`, title: `${NAMES[score]} and dose`, note: "95 % intervals over questions; lines across: not steered.", height: score === "coherence" ? 260 : 360 };
  return plot({ ...about, traces, layout, table, onpoint });
}

const level = (v, score, ends, colour) => ({
  type: "scatter",
  mode: "lines",
  x: ends,
  y: [v.scores[score].mean, v.scores[score].mean],
  name: v.variant,
  customdata: [v.variant, v.variant],
  line: { color: colour, width: 1.5, dash: v.arm === "plain" ? "solid" : "dash" },
  hovertemplate: `${v.variant}: %{y:.1f}<extra></extra>`,
});

function curve(points, flat, name, score, line) {
  const told = points[0].system_prompt;
  const middle = flat.find((v) => (told === null ? v.arm === "plain" : v.arm === "prompted" && v.system_prompt === told));
  const all = [...points.map((v) => [v.dose, v]), ...(middle ? [[0, middle]] : [])].sort((a, b) => a[0] - b[0]);
  const values = all.map(([, v]) => v.scores[score]);
  const reach = (end) => values.map((found) => (found[end] === null ? 0 : Math.abs(found[end] - found.mean)));
  return {
    type: "scatter",
    mode: "lines+markers",
    x: all.map(([dose]) => dose),
    y: values.map((found) => found.mean),
    error_y: { type: "data", symmetric: false, array: reach("high"), arrayminus: reach("low"), color: line.color, thickness: 1, width: 3 },
    name,
    customdata: all.map(([, v]) => v.variant),
    line,
    marker: { color: line.color, size: 6 },
    hovertemplate: `${name}, dose %{x:.3g}: %{y:.1f}<extra></extra>`,
  };
}

function textsPanel(place, page) {
  const node = h("div");
  let seen = null;
  let texts = null;
  const update = (params) => {
    const { variant } = chosenOf(page, params);
    if (variant === seen) {
      texts?.update(params);
      return;
    }
    seen = variant;
    texts = null;
    fillWith(
      node,
      async () => {
        texts = questionPicker(await data.rolledOut(place.experiment, place.trait, variant));
        texts.update(params);
        const controls = choice("Variant", page.variants.map((v) => v.variant), variant, (v) => patch({ variant: v, vid: "", vpage: "" }));
        return section("Texts", "Every question's rollouts, beside what the model writes when it is left alone.", controls, texts.node);
      },
      "Reading texts",
    );
  };
  return { node, update };
}

function questionPicker({ variant, texts, plain }) {
  const of = (rows, question) => rows.filter((row) => row.question === question);
  const items = [...new Set(texts.map((row) => row.question))].map((question, i) => ({
    i: String(i + 1),
    question,
    texts: of(texts, question),
    plain: of(plain, question),
  }));
  return picker({
    prefix: "v",
    label: "Questions",
    items,
    id: (item) => item.i,
    words: (item) => [item.question, ...item.texts.map((row) => row.response)].join(" "),
    row: (item) => [
      h("span", { class: "line" }, item.question),
      h("span", { class: "note line" }, item.texts[0].response.trim() || "(nothing)"),
      h("span", { class: "value" }, number(meanOf(item.texts, "trait"), 0)),
    ],
    detail: (item) => [
      quote("Question", item.question),
      item.texts[0].system_prompt && quote("System prompt", item.texts[0].system_prompt),
      h("div", { class: "columns" }, item.plain.length ? column("Plain", item.plain) : null, column(variant, item.texts)),
    ],
    orders: {
      score: { label: "trait score", key: (item) => meanOf(item.texts, "trait") },
      coherence: { label: "coherence", key: (item) => meanOf(item.texts, "coherence") },
    },
  });
}

function meanOf(rows, name) {
  const values = rows.map((row) => row.scores[name].value).filter((value) => value !== null);
  return values.length ? values.reduce((a, b) => a + b, 0) / values.length : null;
}

const column = (name, rows) => h("div", { class: "stack" }, rows.map((row) => rolledOut(name, row)));

const rolledOut = (name, row) =>
  h(
    "div",
    { class: "stack" },
    quote(`${name}, rollout ${row.rollout + 1}`, row.response),
    chips([
      ...Object.entries(row.scores).map(([kind, { value, state }]) => [kind, state === null ? null : value === null ? state : number(value, 0)]),
      ["words", row.words],
      ["end", row.is_finished ? null : "cut off"],
    ]),
  );
