// Groups: a prompt set split in two, by what compare_groups found or by any field of the prompts.

import * as data from "../data.js";
import { h } from "../dom.js";
import { chips, choice, section, segments } from "../parts.js";
import { address, patch } from "../router.js";
import { empty, fillWith } from "../states.js";
import { SCALES } from "./course.js";
import { distribution } from "./distribution.js";
import { effectMap, effectPlot, nameOf } from "./effects.js";
import { withSet } from "./sets.js";

export const groups = { title: "Groups", keys: ["experiment", "set"], needsExperiment: true, mount };

const SPANS = { response: "Response", prompt: "Prompt", all: "Both" };

function mount(context) {
  const note = "Two groups of prompts, compared on every trait: does a trait tell one outcome from the other?";
  return withSet(context, "Groups", note, (page, place) => {
    const node = h("div");
    let seen = null;
    context.ready((params) => {
      const wanted = JSON.stringify(["split", "first", "second", "over", "scale", "vec"].map((name) => params[name]));
      if (wanted === seen) return;
      seen = wanted;
      fillWith(node, () => shown(place, page, params), "Comparing groups");
    });
    return node;
  });
}

/** Return what the set can be split by: [value, name], those that compare_groups found first. */
function splitsOf({ splits, fields }) {
  const usable = Object.entries(fields).filter(([, counts]) => Object.values(counts).filter((n) => n > 1).length > 1);
  return [...splits.map((s) => [`outcome:${s.by}`, `${s.by} (compare_groups)`]), ...usable.map(([name]) => [`field:${name}`, name])];
}

async function shown(place, page, params) {
  const options = splitsOf(page);
  const command = `python analysis/compare_groups.py --experiment ${place.experiment} --prompt-set ${place.set} --by category/trait`;
  if (!options.length)
    return section(
      "Groups",
      "",
      null,
      empty("Nothing to split by", "No field of these prompts repeats its values. A judge can split the responses by a trait.", command),
    );
  const split = options.some(([value]) => value === params.split) ? params.split : options[0][0];
  const [kind, by] = [split.slice(0, split.indexOf(":")), split.slice(split.indexOf(":") + 1)];
  const how = choices(page, kind, by, params);
  const found = await (kind === "outcome"
    ? data.storedGroups(place.experiment, place.set, by)
    : data.groupsByField(place.experiment, place.set, { by, ...how }));
  const menu = controls(page, options, split, kind === "field" ? { by, ...how } : null);
  if (!found.vectors.length) return section("Split", "", menu, empty("No projections yet", "These responses were not projected on a vector."));
  const chosen = found.vectors.find((v) => nameOf(v) === params.vec) ?? clearest(found);
  return h("div", {}, summary(place, page, found, split, menu), await results(place, page, found, chosen));
}

const clearest = ({ vectors }) => [...vectors].sort((a, b) => a.q - b.q || Math.abs(b.d) - Math.abs(a.d))[0];

function choices({ fields }, kind, by, params) {
  if (kind !== "field") return {};
  const values = Object.entries(fields[by])
    .filter(([, n]) => n > 1)
    .map(([value]) => value);
  const first = values.includes(params.first) ? params.first : values[0];
  const second = values.includes(params.second) && params.second !== first ? params.second : values.find((v) => v !== first);
  return { first, second, over: params.over in SPANS ? params.over : "response", scale: params.scale in SCALES ? params.scale : "centered" };
}

function controls({ fields }, options, split, field) {
  const other = { first: "", second: "" };
  const pick = choice("Split by", options, split, (v) => patch({ split: v, ...other }));
  if (!field) return pick;
  const values = Object.entries(fields[field.by])
    .filter(([, n]) => n > 1)
    .map(([value, n]) => [value, `${value} (${n})`]);
  const rest = values.filter(([value]) => value !== field.first);
  const first = (v) => patch({ first: v, second: v === field.second ? "" : field.second });
  const second = (v) => patch({ first: field.first, second: v });
  return [
    pick,
    ...(values.length > 2 ? [choice("First group", values, field.first, first), choice("Second group", rest, field.second, second)] : []),
    choice("Tokens", Object.entries(SPANS), field.over, (v) => patch({ over: v })),
    segments("Scale", Object.entries(SCALES), field.scale, (v) => patch({ scale: v })),
  ];
}

function summary(place, page, found, split, menu) {
  const names = Object.keys(found.groups);
  const filter = split.startsWith("field:") ? `p.${found.by}` : `p:${found.by}`;
  const link = (name) =>
    h(
      "a",
      { class: "button", href: address("dynamics", { experiment: place.experiment, set: place.set, [filter]: name }) },
      `Read the ${found.groups[name].length} of “${name}” →`,
    );
  const facts = chips([
    ["first over second", names.map((name) => `${name} (${found.groups[name].length})`).join(" over ")],
    ["split", found.how],
    ["mean over", found.over],
    ["scale", found.scale],
    ["left out", found.left_out.length || null],
  ]);
  return section("Split", page.description, menu, h("div", { class: "stack" }, facts, h("div", { class: "controls" }, names.map(link))));
}

async function results(place, page, found, chosen) {
  const how = { trait: chosen.trait, method: chosen.method, layer: chosen.layer, over: found.over, scale: found.scale };
  const { values } = await data.groupValues(place.experiment, place.set, how);
  const isMap = new Set(found.vectors.map((v) => v.layer)).size > 1;
  const note = "A prompt counts once, with its mean. q is the permutation p, adjusted over all vectors.";
  const plots = [isMap ? effectMap(found, chosen) : null, effectPlot(found, chosen)].filter(Boolean);
  return [
    section("Effects", note, null, h("div", { class: plots.length > 1 ? "pair" : "" }, plots)),
    section("Distributions", "Every point is a prompt: choose one to read it token by token.", null, distribution(place, page, found, chosen, values)),
  ];
}
