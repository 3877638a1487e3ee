// The top of a view: its title, and the choice of experiment and trait.

import * as data from "../data.js";
import { h } from "../dom.js";
import { choice } from "../parts.js";
import { patch } from "../router.js";
import { empty } from "../states.js";

export function pageHead(title, note, controls) {
  return h(
    "div",
    { class: "page-head" },
    h("div", {}, h("h1", {}, title), note && h("p", {}, note)),
    h("div", { class: "controls" }, controls),
  );
}

export function experimentChoice({ experiments, experiment }) {
  return choice(
    "Experiment",
    experiments.map((e) => [e.name, e.problem ? `${e.name} (cannot be read)` : e.name]),
    experiment.name,
    (name) => patch({ experiment: name, trait: "", set: "", pid: "" }),
  );
}

const traitChoice = ({ experiment }, trait) =>
  choice(
    "Trait",
    experiment.traits,
    trait,
    (name) => patch({ trait: name }),
  );

/** Call `make(card)` with the chosen trait's card, below the head; say so where there is no such trait. */
export async function withTrait(context, title, note, make) {
  const { experiment, params } = context;
  const trait = params.trait ? experiment.traits.find((name) => name === params.trait) : experiment.traits[0];
  const head = pageHead(title, note, [experimentChoice(context), experiment.traits.length ? traitChoice(context, trait) : null]);
  if (!experiment.traits.length)
    return h("div", {}, head, noResults(experiment));
  if (!trait)
    return h(
      "div",
      {},
      head,
      empty(
        `“${params.trait}” has no results here`,
        "Choose another trait, or run the pipeline for this one.",
        `python extraction/run_pipeline.py --experiment ${experiment.name} --traits ${params.trait}`,
      ),
    );
  const card = await data.card(experiment.name, trait);
  if (card.problem) return h("div", {}, head, empty("This trait's files cannot be read", card.problem));
  return h("div", {}, head, make(card));
}

/** What stands in every view of an experiment that cannot be read. */
export const unreadable = (title, context) =>
  h("div", {}, pageHead(title, "", [experimentChoice(context)]), empty("This experiment cannot be read", context.experiment.problem));

/** Tell whether a stage has left results, stale ones included. */
export const hasRun = (card, number) => (card.stages[number]?.state ?? "missing") !== "missing";

/** What stands where an experiment has no results. */
export function noResults(experiment) {
  const command = `python extraction/run_pipeline.py --experiment ${experiment.name} --traits category/name`;
  return empty("No results yet", "No stage has completed in this experiment.", command);
}
