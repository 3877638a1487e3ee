// Trait dynamics: a captured prompt set, and any of its prompts and responses token by token.

import { h } from "../dom.js";
import { promptText } from "../format.js";
import { chips, section } from "../parts.js";
import { picker } from "../picker.js";
import { coursePanel } from "./course.js";
import { withSet } from "./sets.js";

export const dynamics = { title: "Trait dynamics", keys: ["experiment", "set"], needsExperiment: true, mount };

function mount(context) {
  const note = "How strongly each trait shows on every token of a prompt and of the model's response.";
  return withSet(context, "Trait dynamics", note, (page, place) => {
    let shown = null;
    let params = context.params;
    const list = promptPicker(page, (item) => {
      shown = coursePanel(place, page, item);
      shown.update(params);
      return shown.node;
    });
    context.ready((now) => {
      params = now;
      list.update(now);
      shown?.update(now);
    });
    return section("Prompts", page.description, null, list.node);
  });
}

function promptPicker(page, course) {
  return picker({
    prefix: "p",
    label: "Prompts",
    items: page.prompts,
    id: (p) => p.id,
    words: (p) => `${p.id} ${promptText(p.prompt)} ${p.response} ${Object.values(p.metadata).join(" ")}`,
    row: (p) => [
      h("span", { class: "line" }, promptText(p.prompt)),
      h("span", { class: "note line" }, p.metadata.note ?? p.response.trim()),
      h("span", { class: "value note" }, p.is_finished ? `${p.n_tokens}` : `${p.n_tokens} …`),
    ],
    detail: (p) => [about(p), course(p)],
    filters: { ...fieldFilters(page), ...outcomeFilters(page) },
    orders: { length: { label: "tokens", key: (p) => p.n_tokens } },
  });
}

const about = (p) =>
  chips([
    ["prompt", p.id],
    ...Object.entries(p.metadata).map(([name, value]) => [name, typeof value === "string" ? value : JSON.stringify(value)]),
    ["response", p.is_finished ? null : "cut at the length limit"],
  ]);

/** Fields whose values repeat, by which prompts can be filtered. */
function fieldFilters({ fields }) {
  const filter = (name, counts) => ({
    label: name,
    options: Object.entries(counts).map(([value, n]) => [value, `${value} (${n})`]),
    keep: (p, value) => p.values[name] === value,
  });
  return Object.fromEntries(Object.entries(fields).map(([name, counts]) => [`.${name}`, filter(name, counts)]));
}

/** What compare_groups said of the responses. */
function outcomeFilters({ splits }) {
  const filter = ({ by, groups }) => {
    const members = Object.fromEntries(Object.entries(groups).map(([name, ids]) => [name, new Set(ids)]));
    const options = Object.entries(groups).map(([name, ids]) => [name, `${name} (${ids.length})`]);
    return { label: `outcome: ${by}`, options, keep: (p, value) => members[value]?.has(p.id) ?? false };
  };
  return Object.fromEntries(splits.map((split) => [`:${split.by}`, filter(split)]));
}
