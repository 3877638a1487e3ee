// Trait extraction: what the judge said of scenarios and responses, and how well the vectors separate.

import { h } from "../dom.js";
import { hasRun, withTrait } from "./head.js";
import { similarityPanel } from "./similarity.js";
import { vectorPanel } from "./vectors.js";
import { vettingPanel } from "./vetting.js";

export const extraction = { title: "Trait extraction", keys: ["experiment", "trait"], needsExperiment: true, mount };

function mount(context) {
  const note = "Scores of the texts that were generated, and how well each method's vector separates texts it was not fitted on.";
  return withTrait(context, "Trait extraction", note, (card) => {
    const place = { experiment: context.experiment, trait: card.trait };
    const panels = [vettingPanel(place), vectorPanel(place, hasRun(card, 4)), similarityPanel(place, hasRun(card, 4))];
    context.ready((params) => panels.forEach((panel) => panel.update(params)));
    return h(
      "div",
      {},
      panels.map((panel) => panel.node),
    );
  });
}
