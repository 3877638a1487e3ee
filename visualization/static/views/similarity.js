// Cosines between the methods' vectors of a trait, and between the traits' vectors of a method.

import * as data from "../data.js";
import { h } from "../dom.js";
import { traitParts } from "../format.js";
import { section } from "../parts.js";
import { colourBar, plot } from "../plots.js";
import { empty, fillWith } from "../states.js";
import { chosenVector } from "./vectors.js";

export function similarityPanel(place, hasVectors) {
  const node = h("div");
  let seen = null;
  const update = (params) => {
    const wanted = JSON.stringify([params.method, params.layer]);
    if (wanted === seen || !hasVectors) return;
    seen = wanted;
    fillWith(node, () => shown(place, params), "Comparing vectors");
  };
  return { node, update };
}

async function shown({ experiment, trait }, params) {
  const { method, layer } = chosenVector(await data.vectors(experiment.name, trait), params);
  const [methods, traits] = await Promise.all([
    data.methodSimilarity(experiment.name, trait, layer),
    data.traitSimilarity(experiment.name, method, layer),
  ]);
  const between =
    traits.labels.length > 1
      ? matrix(traits, `Between traits: ${method}, layer ${layer}`, "traits_similarity")
      : empty("One trait has this vector", "Two are needed to compare.");
  const problems = Object.entries(traits.problems).map(([name, why]) => h("p", { class: "notes" }, `${name} is left out: ${why}`));
  return section(
    "Similarity",
    "Cosine between vectors at the chosen layer: 1 is the same direction, 0 unrelated, −1 opposite.",
    null,
    h("div", { class: "pair" }, matrix(methods, `Between methods: layer ${layer}`, "methods_similarity"), between),
    problems,
  );
}

function matrix({ labels, cosines }, title, name) {
  const short = labels.map((label) => (label.includes("/") ? traitParts(label)[1] : label));
  const unique = new Set(short).size === short.length ? short : labels;
  const isSmall = labels.length <= 8;
  const traces = (c) => [
    {
      type: "heatmap",
      z: cosines,
      x: unique,
      y: unique,
      zmin: -1,
      zmax: 1,
      xgap: 1,
      ygap: 1,
      colorscale: c.diverging,
      colorbar: colourBar("cosine"),
      ...(isSmall ? { texttemplate: "%{z:.2f}" } : {}),
      hovertemplate: "%{y} and %{x}<br>cosine %{z:.3f}<extra></extra>",
    },
  ];
  const layout = () => ({
    xaxis: { showgrid: false, type: "category", ...(isSmall ? {} : { tickangle: -45 }) },
    yaxis: { autorange: "reversed", showgrid: false, type: "category" },
  });
  const table = { columns: ["", ...labels], rows: labels.map((label, i) => [label, ...cosines[i]]) };
  return plot({ name, title, height: Math.max(280, 60 + 22 * labels.length), traces, layout, table });
}
