// The top of a view of a captured prompt set: the choice of experiment and set.

import * as data from "../data.js";
import { h } from "../dom.js";
import { choice } from "../parts.js";
import { patch } from "../router.js";
import { empty } from "../states.js";
import { experimentChoice, pageHead } from "./head.js";

const FRESH_SET = { pid: "", ppage: "", split: "", first: "", second: "", vec: "", other: "" };

/** Call `make(page, place)` with the chosen prompt set, below the head; say so where there is none. */
export async function withSet(context, title, note, make) {
  const { experiment, params } = context;
  const sets = await data.promptSets(experiment.name);
  const chosen = params.set ? sets.find((s) => s.name === params.set) : (sets.find((s) => !s.problem) ?? sets[0]);
  const options = sets.map((s) => [s.name, `${s.name} (${s.problem ? "cannot be read" : s.prompts})`]);
  const pick = sets.length ? choice("Prompt set", options, chosen?.name, (set) => patch({ ...FRESH_SET, set })) : null;
  const head = pageHead(title, note, [experimentChoice(context), pick]);
  const command = (set) => `python inference/capture_raw_activations.py --experiment ${experiment.name} --prompt-set ${set}`;
  if (!sets.length) return h("div", {}, head, empty("No prompts yet", "No prompt set was captured in this experiment.", command("general")));
  if (!chosen)
    return h(
      "div",
      {},
      head,
      empty(`“${params.set}” was not captured here`, "Choose another prompt set, or capture this one.", command(params.set)),
    );
  if (chosen.problem) return h("div", {}, head, empty("This prompt set cannot be read", chosen.problem));
  const page = await data.prompts(experiment.name, chosen.name);
  if (!page.prompts.length) return h("div", {}, head, empty("No responses yet", "The capture has not answered a prompt.", command(chosen.name)));
  return h("div", {}, head, make(page, { experiment: experiment.name, set: chosen.name }));
}
