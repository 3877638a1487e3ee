// What the judge went by, on demand.

import * as data from "../data.js";
import { h } from "../dom.js";
import { number } from "../format.js";
import { chips, section } from "../parts.js";
import { fillWith } from "../states.js";

export function judgingPanel({ experiment, trait }) {
  const body = h("div", { class: "stack" });
  const open = (event) => {
    if (event.target.open && !body.childElementCount)
      fillWith(body, async () => shown(await data.judging(experiment, trait)), "Reading the definition");
  };
  return section(
    "What the judge went by",
    "",
    null,
    h("details", { ontoggle: open, id: "judging" }, h("summary", {}, "Definition and judge prompt"), body),
  );
}

function shown({ definition, eval_prompt: own, direction, judge, coherence_judge: coherence, prompts }) {
  const facts = chips([
    ["judge", judge.judge],
    ["scores", judge.mode],
    ["accuracy, cross-validated", judge.cross_validated_accuracy === undefined ? null : number(judge.cross_validated_accuracy)],
    ["coherence", coherence.mode],
    ["wanted", direction === "negative" ? "less of the trait" : "more of the trait"],
  ]);
  const asked = prompts.map((p) =>
    h("div", {}, h("span", { class: "label" }, `${p.kind} prompt, ${p.id}`), h("pre", {}, p.text ?? "Its wording has changed since.")),
  );
  const embedded =
    "The embedded judge asks nothing: it compares what two small models make of a text with the trait's own contrasting text, by logistic regression.";
  return [
    facts,
    h(
      "div",
      {},
      h("span", { class: "label" }, "Definition"),
      h("pre", {}, definition || "This trait has no definition of its own; its judge prompt says what it is."),
    ),
    own &&
      !prompts.some((p) => p.text === own) &&
      h("div", {}, h("span", { class: "label" }, "The trait's own judge prompt"), h("pre", {}, own)),
    asked.length ? asked : h("p", { class: "notes" }, embedded),
  ];
}
