// Any arm's answers beside the unsteered ones.

import * as data from "../data.js";
import { h } from "../dom.js";
import { number, signed } from "../format.js";
import { chips, choice, quote, section, segments } from "../parts.js";
import { picker } from "../picker.js";
import { patch } from "../router.js";
import { fillWith } from "../states.js";
import { armOf } from "./sweep.js";

export function textsPanel(place, results) {
  const node = h("div");
  let seen = null;
  let texts = null;
  const update = (params) => {
    const part = params.part === "dev" ? "dev" : "test";
    const arm = params.arm || (part === "dev" ? armOf(results.dev[0]) : "vector plus");
    const wanted = JSON.stringify([part, arm]);
    if (wanted === seen) {
      texts?.update(params);
      return;
    }
    seen = wanted;
    texts = null;
    fillWith(
      node,
      async () => {
        const page = await data.texts(place.experiment, place.trait, part, arm);
        texts = answerPicker(page);
        texts.update(params);
        return shown(page, part, texts);
      },
      "Reading texts",
    );
  };
  return { node, update };
}

function shown(page, part, texts) {
  const controls = [
    segments(
      "Questions",
      [
        ["dev", "Dev questions"],
        ["test", "Test questions"],
      ],
      part,
      (v) => patch({ part: v, arm: "", tid: "", tpage: "" }),
    ),
    choice(
      "Arm",
      page.arms.filter((a) => a !== "unsteered"),
      page.arm,
      (arm) => patch({ part, arm }),
    ),
  ];
  return section("Texts", "Each question's answer under an arm, beside the same model's unsteered answer.", controls, texts.node);
}

function answerPicker({ unsteered, steered, arm }) {
  const before = new Map(unsteered.map((row) => [row.question, row]));
  const items = steered.map((row, i) => ({
    i: String(i + 1),
    after: row,
    before: before.get(row.question) ?? null,
    change: change(row, before.get(row.question)),
  }));
  return picker({
    prefix: "t",
    label: "Questions",
    items,
    id: (item) => item.i,
    words: (item) => `${item.after.question} ${item.after.response} ${item.before?.response ?? ""}`,
    row: ({ after, change: moved }) => [
      h("span", { class: "line" }, after.question),
      h("span", { class: "note line" }, after.response.trim() || "(nothing)"),
      h("span", { class: "value" }, signed(moved, 0)),
    ],
    detail: ({ after, before: plain }) => [
      quote("Question", after.question),
      after.system_prompt && quote("System prompt", after.system_prompt),
      h("div", { class: "columns" }, plain && answer("Unsteered", plain), answer(arm, after)),
    ],
    orders: {
      change: { label: "change", key: (item) => item.change },
      score: { label: "score", key: (item) => item.after.trait.value },
      coherence: { label: "coherence", key: (item) => item.after.coherence?.value },
    },
  });
}

const change = (after, before) =>
  after.trait.value === null || !before || before.trait.value === null ? null : after.trait.value - before.trait.value;

const answer = (name, row) =>
  h(
    "div",
    { class: "stack" },
    quote(name, row.response),
    chips([
      ["trait", scored(row.trait)],
      ["coherence", row.coherence && scored(row.coherence)],
      ["judge said", row.trait.detail],
    ]),
  );

const scored = ({ value, state }) => (value === null ? state : number(value, 0));
