// A text token by token, coloured by a score; the mouse or the arrow keys show any token's values.

import { h, replace } from "../dom.js";
import { number, signed, traitParts } from "../format.js";
import { choice } from "../parts.js";
import { patch } from "../router.js";

/**
 * Return {node, mark(i)}; `onpoint(i)` is called for the token that is pointed at, `mark` shows one that was pointed at elsewhere.
 */
export function tokenText(found, painted, scale, onpoint) {
  const spans = found.tokens.map((text, i) => span(text, i, painted, scale));
  decorate(spans, painted, found);
  const readout = h("p", { class: "readout", role: "status" }, "Point at a token, or use ← and → in the text, to read its values.");
  const text = h("div", { class: "tokens", tabindex: "0", role: "group", "aria-label": "Tokens of prompt and response" }, turns(found, spans));
  let at = null;
  const mark = (i) => {
    if (i === at || !spans[i]) return;
    spans[at]?.classList.remove("hot");
    spans[i].classList.add("hot");
    at = i;
    replace(readout, reading(found, scale, i));
  };
  const point = (i) => {
    mark(i);
    onpoint(i);
  };
  text.addEventListener("mouseover", (event) => event.target.dataset.token && point(Number(event.target.dataset.token)));
  text.addEventListener("click", (event) => event.target.dataset.token && point(Number(event.target.dataset.token)));
  text.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    point(Math.min(Math.max((at ?? found.prompt_tokens - step) + step, 0), spans.length - 1));
  });
  return { node: h("div", {}, head(found, painted), readout, text), mark };
}

function head(found, painted) {
  const traits = found.courses.map((c) => [c.trait, traitParts(c.trait)[1]]);
  const key = h(
    "span",
    { class: "paint-key" },
    h("span", { class: "token neg", style: "--t: 0.5" }, "less"),
    h("span", { class: "token pos", style: "--t: 0.5" }, "more"),
    traitParts(painted.trait)[1],
  );
  const pick = traits.length > 1 ? choice("Colour", traits, painted.trait, (v) => patch({ colour: v })) : null;
  return h("div", { class: "section-head" }, h("div", {}, h("h3", {}, "Text"), key), pick && h("div", { class: "controls" }, pick));
}

function span(text, i, painted, scale) {
  const score = painted.smoothed[i];
  if (score === null) return h("span", { class: "token blank", "data-token": i }, text);
  const from = score - (scale === "raw" ? painted.centre : 0);
  const node = h("span", { class: `token ${from >= 0 ? "pos" : "neg"}`, "data-token": i }, text);
  node.style.setProperty("--t", (0.6 * Math.min(1, Math.abs(from) / reach(painted, scale))).toFixed(3));
  return node;
}

/** The score at which the colour is full: what nineteen of twenty tokens stay below. */
function reach(painted, scale) {
  painted.reach ??= {};
  painted.reach[scale] ??= (() => {
    const sizes = painted.smoothed.filter((x) => x !== null).map((x) => Math.abs(x - (scale === "raw" ? painted.centre : 0)));
    return sizes.sort((a, b) => a - b)[Math.floor(0.95 * (sizes.length - 1))] || 1;
  })();
  return painted.reach[scale];
}

function decorate(spans, painted, found) {
  const { commitment } = painted.response ?? {};
  if (commitment !== null && commitment !== undefined) {
    const node = spans[firstOf(found) + commitment];
    node?.classList.add("committed");
    node?.setAttribute("title", "committed from here on");
  }
  if (painted.known_point) {
    const node = spans[painted.known_point.token];
    node?.classList.add("known");
    node?.setAttribute("title", `${painted.known_point.expect} expected from here on`);
  }
}

/** The first token that counts as the response's. */
export const firstOf = (found) => Math.max(1, found.prompt_tokens);

/** Blocks, one a turn; what the template writes between them is faint. */
function turns(found, spans) {
  const blocks = [];
  let block = null;
  spans.forEach((node, i) => {
    const turn = found.turns.find((t) => t.start === i);
    if (turn || !block) {
      block = h("div", { class: `turn ${turn?.role ?? "template"}` }, turn && h("span", { class: "label" }, turn.role));
      blocks.push(block);
    }
    if (!found.turns.some((t) => t.start <= i && i < t.end)) node.classList.add("template");
    block.append(node);
  });
  return blocks;
}

function reading(found, scale, i) {
  const turn = found.turns.find((t) => t.start <= i && i < t.end);
  const show = scale === "cosine" ? (x) => number(x, 3) : (x) => signed(x, 2);
  const values = found.courses.map((c) => h("span", {}, `${traitParts(c.trait)[1]} `, h("b", {}, show(c.smoothed[i])), one(c, i, show)));
  return [h("span", {}, `token ${i}, ${turn?.role ?? "template"}: `, h("code", {}, JSON.stringify(found.tokens[i]))), values];
}

const one = (course, i, show) => (course.scores[i] === course.smoothed[i] ? "" : ` (token alone ${show(course.scores[i])})`);
