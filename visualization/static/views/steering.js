// The steering sweep: the verdict, the search, the null, and the texts.

import * as data from "../data.js";
import { h } from "../dom.js";
import { section } from "../parts.js";
import { empty, fillWith } from "../states.js";
import { hasRun, withTrait } from "./head.js";
import { judgingPanel } from "./judging.js";
import { sweepPanel } from "./sweep.js";
import { textsPanel } from "./texts.js";
import { verdictPanel } from "./verdict.js";

export const steering = { title: "Steering sweep", keys: ["experiment", "trait"], needsExperiment: true, mount };

function mount(context) {
  const note = "Does adding the vector change what the model writes, more than chance would, and at what cost?";
  return withTrait(context, "Steering sweep", note, (card) => {
    const command = `python extraction/5_steer_evaluate.py --experiment ${context.experiment.name} --traits ${card.trait}`;
    if (!hasRun(card, 5))
      return section("Steering", "", null, empty("Not steered yet", "Stage 5 has not run for this trait in this experiment.", command));
    const node = h("div");
    fillWith(node, () => panels(context, card), "Reading the sweep");
    return node;
  });
}

async function panels(context, card) {
  const place = { experiment: context.experiment.name, trait: card.trait };
  const results = await data.steering(place.experiment, place.trait);
  const sweep = sweepPanel(results);
  const texts = textsPanel(place, results);
  context.ready((params) => {
    sweep.update(params);
    texts.update(params);
  });
  return h("div", {}, verdictPanel(results), sweep.node, texts.node, judgingPanel(place));
}
