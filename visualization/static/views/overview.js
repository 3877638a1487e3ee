// Every trait of an experiment at a glance.

import * as data from "../data.js";
import { h, replace } from "../dom.js";
import { doseName, interval, layerName, number, percent, range, stageName, traitParts, verdictTone, when } from "../format.js";
import { badge, chips, choice, meter, miniInterval, quote } from "../parts.js";
import { address, patch } from "../router.js";
import { empty } from "../states.js";
import { experimentChoice, hasRun, noResults, pageHead, unreadable } from "./head.js";

const EFFECTS = [-60, 60]; // points, the axis of the drawn effects

const ORDERS = {
  name: { text: "name", key: (c) => c.trait },
  auroc: { text: "held-out AUROC", key: (c) => -(c.summary?.held_out?.auroc ?? -1) },
  effect: { text: "steering effect", key: (c) => -(c.summary?.effect?.mean ?? -1000) },
  stale: { text: "most to do", key: (c) => -c.stages.filter((s) => s.state !== "done").length },
};

export const overview = { title: "Overview", keys: ["experiment"], needsExperiment: true, mount };

async function mount(context) {
  const { ready } = context;
  const experiment = await data.experiment(context.experiment.name);
  const cards = h("div", { class: "grid" });
  const bar = h("div", { class: "controls" });
  const facts = chips([
    ["model", experiment.model],
    ["judge", experiment.judge],
    ["traits", experiment.traits.length],
    ["last stage", when(experiment.updated)],
  ]);
  const head = pageHead("Overview", "What each trait's vectors separate, what steering with them does, and which stages are up to date.", [
    experimentChoice(context),
  ]);
  const narrow = (params) => {
    if (!bar.childElementCount && experiment.cards.length > 3) replace(bar, narrowing(params));
    replace(
      cards,
      chosen(experiment.cards, params).map((card) => traitCard(experiment.name, card)),
    );
    if (!cards.childElementCount) replace(cards, empty("No trait matches"));
  };
  if (experiment.problem) return unreadable("Overview", { ...context, experiment });
  const others = context.experiments.filter((e) => e.problem);
  const rest = others.length > 0 && h("div", { class: "grid", role: "group", "aria-label": "Experiments that cannot be read" }, others.map(problemCard));
  if (!experiment.cards.length) return h("div", { class: "stack" }, head, noResults(experiment), rest);
  ready(narrow);
  return h("div", { class: "stack" }, head, facts, bar, cards, rest);
}

const problemCard = ({ name, problem }) =>
  h(
    "article",
    { class: "card", "data-experiment": name },
    h("div", { class: "card-head" }, h("h2", {}, h("span", { class: "kind" }, "experiment"), name), badge("unreadable", "bad")),
    h("p", { class: "notes" }, problem),
  );

function narrowing(params) {
  const search = h("input", {
    type: "search",
    value: params.find ?? "",
    placeholder: "Name of a trait",
    oninput: (e) => patch({ find: e.target.value }, { quiet: true }),
  });
  const order = choice(
    "Order",
    Object.entries(ORDERS).map(([name, o]) => [name, o.text]),
    params.order ?? "name",
    (v) => patch({ order: v }, { quiet: true }),
  );
  return [h("label", { class: "field" }, h("span", {}, "Search"), search), order];
}

function chosen(cards, { find = "", order = "name" }) {
  const { key } = ORDERS[order] ?? ORDERS.name;
  const found = cards.filter((c) => c.trait.toLowerCase().includes(find.trim().toLowerCase()));
  return found.sort((a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0));
}

function traitCard(experiment, card) {
  const [category, name] = traitParts(card.trait);
  const verdict = card.summary?.verdict;
  const head = h(
    "div",
    { class: "card-head" },
    h("h2", {}, h("span", { class: "kind" }, category), name),
    card.problem ? badge("unreadable", "bad") : badge(verdict ?? "not steered yet", verdictTone(verdict)),
  );
  if (card.problem) return h("article", { class: "card", "data-trait": card.trait }, head, h("p", { class: "notes" }, card.problem));
  const links = h(
    "footer",
    {},
    link("extraction", "Extraction", experiment, card.trait),
    hasRun(card, 5) && link("steering", "Steering", experiment, card.trait),
  );
  return h(
    "article",
    { class: "card", "data-trait": card.trait },
    head,
    figures(card.summary),
    card.summary.why && h("p", { class: "notes" }, card.summary.why),
    freshness(card.stages),
    example(card.summary.example),
    links,
  );
}

const link = (view, text, experiment, trait) => h("a", { class: "button", href: address(view, { experiment, trait }) }, text);

function figures({
  scenario_pass_rate: scenarios,
  response_pass_rate: responses,
  held_out: held,
  effect,
  method,
  layer,
  dose,
  z,
  coherence_before: before,
  coherence_after: after,
}) {
  const rate = (name, share) => [
    h("dt", {}, name),
    h("dd", { class: "draw" }, share !== null && meter(share, `${name} ${percent(share)}`)),
    h("dd", {}, percent(share)),
  ];
  const plain = (name, drawn, value) => [h("dt", {}, name), h("dd", { class: "draw" }, drawn), h("dd", {}, value)];
  const caption = (text) => h("dd", { class: "caption" }, text);
  const auroc =
    held &&
    miniInterval(
      { mean: held.auroc, low: held.auroc_low, high: held.auroc_high },
      [0, 1],
      0.5,
      `AUROC ${number(held.auroc)} ${range(held.auroc_low, held.auroc_high)}`,
    );
  return h(
    "dl",
    { class: "facts" },
    rate("Scenarios pass", scenarios),
    rate("Responses pass", responses),
    plain("Held-out AUROC", auroc, held ? `${number(held.auroc)} ${range(held.auroc_low, held.auroc_high)}` : "–"),
    held && caption(`${held.method}, layer ${held.layer}, best of ${held.best_of}`),
    plain("Effect, points", effect && miniInterval(effect, EFFECTS, 0, `effect ${interval(effect)}`), interval(effect)),
    method && caption(`${method}, layer ${layerName(layer)}, dose ${doseName(dose)}`),
    z !== null && plain("Against chance", null, `z = ${number(z, 1)}`),
    after !== null && plain("Coherence", null, `${number(before, 0)} → ${number(after, 0)}`),
  );
}

const SYMBOL = { done: "✓", stale: "!", missing: "·" };

function freshness(stages) {
  const item = (s) =>
    h(
      "li",
      { class: s.state, title: `${s.stage}: ${s.state}${s.why ? `, ${s.why}` : ""}${s.finished ? `, finished ${when(s.finished)}` : ""}` },
      `${s.stage[0]} ${SYMBOL[s.state]}`,
      h("span", { class: "unseen" }, ` ${stageName(s.stage)}: ${s.state}`),
    );
  const stale = stages
    .filter((s) => s.state === "stale")
    .map((s) => h("span", {}, h("strong", {}, `${stageName(s.stage)} is stale`), `: ${s.why}`));
  const missing = stages.filter((s) => s.state === "missing").map((s) => stageName(s.stage));
  const said = [...stale, missing.length ? h("span", {}, `Not run: ${missing.join(", ")}`) : null];
  return h(
    "div",
    {},
    h("ol", { class: "stages", "aria-label": "Stages" }, stages.map(item)),
    said.some(Boolean) && h("p", { class: "notes" }, said),
  );
}

function example(found) {
  if (!found) return null;
  const texts = [["unsteered", found.unsteered], ["+ vector", found.plus], found.minus !== null && ["− vector", found.minus]].filter(
    Boolean,
  );
  return h(
    "details",
    {},
    h("summary", {}, "An example: the median question"),
    h(
      "div",
      { class: "stack" },
      h("p", {}, found.question),
      texts.map(([name, text]) => quote(name, text)),
    ),
  );
}
