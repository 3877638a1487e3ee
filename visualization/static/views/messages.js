// The messages of a conversation: replies coloured token by token, questions that can be said otherwise.

import { h, replace } from "../dom.js";
import { signed, traitParts } from "../format.js";

const ENDS = { length: "the length limit", time: "the time limit", stopped: "stopped", failed: "failed", "cut off": "cut off" };

/** Return {node, draw(conversation), grow(answer)}; spec: {painted() → trait, edit(message, text), turn(message, step)}. */
export function messageList(spec) {
  const node = h("ol", { class: "messages", "aria-label": "Conversation" });
  const shown = new Map();
  const draw = (talk) => {
    shown.clear();
    const path = talk.path();
    const items = path.map((message) => {
      const item = message.role === "user" ? question(message, spec) : reply(message, spec);
      shown.set(message, item);
      return item;
    });
    replace(node, items.length ? items : h("li", { class: "state" }, "Ask something. The model is loaded with the first message."));
    node.scrollTop = node.scrollHeight;
  };
  const grow = (answer) => {
    const text = shown.get(answer)?.querySelector(".reply");
    if (!text) return;
    text.querySelector(".waiting")?.remove();
    text.append(token(answer.tokens.at(-1), spec.painted()));
    node.scrollTop = node.scrollHeight;
  };
  return { node, draw, grow };
}

function question(message, spec) {
  const item = h("li", { class: "message user" });
  const edit = h("button", { class: "button small", type: "button", onclick: () => replace(item, editor(message, spec, show)) }, "Edit");
  const bottom = () => h("div", { class: "message-foot" }, branches(message, spec), edit);
  const show = () => replace(item, h("div", { class: "bubble text" }, message.content), bottom());
  show();
  return item;
}

function editor(message, spec, cancel) {
  const field = h("textarea", { rows: 3, "aria-label": "Say it otherwise" });
  field.value = message.content;
  const submit = (event) => {
    event.preventDefault();
    if (field.value.trim()) spec.edit(message, field.value.trim());
  };
  setTimeout(() => field.focus());
  const buttons = [
    h("button", { class: "button primary", type: "submit" }, "Ask again"),
    h("button", { class: "button", type: "button", onclick: cancel }, "Cancel"),
  ];
  return h("form", { class: "compose", onsubmit: submit }, field, h("div", { class: "controls" }, buttons));
}

function branches(message, { turn }) {
  const { children } = message.parent;
  if (children.length < 2) return null;
  const at = children.indexOf(message);
  const step = (by, text, name) =>
    h(
      "button",
      { class: "button small", type: "button", "aria-label": name, disabled: !children[at + by], onclick: () => turn(message, by) },
      text,
    );
  return h("span", { class: "branches" }, step(-1, "‹", "Earlier branch"), `${at + 1}/${children.length}`, step(1, "›", "Later branch"));
}

function reply(message, spec) {
  const trait = spec.painted();
  const text = h("div", { class: "reply text" }, message.tokens.map((t) => token(t, trait)));
  if (!message.tokens.length) text.append(h("span", { class: "waiting note" }, message.ended ? "(nothing)" : "thinking …"));
  return h("li", { class: "message assistant" }, text, h("div", { class: "message-foot" }, foot(message)));
}

function foot(message) {
  const steered = Object.entries(message.doses).map(([trait, dose]) => `${traitParts(trait)[1]} ${signed(dose, 2)}`);
  const scores = Object.keys(message.tokens[0]?.scores ?? {}).map((trait) => {
    const values = message.tokens.map((t) => t.scores[trait]);
    return h("span", {}, `${traitParts(trait)[1]} `, h("b", {}, signed(values.reduce((a, b) => a + b, 0) / values.length, 2)));
  });
  return [
    steered.length ? h("span", { class: "badge" }, `steered: ${steered.join(", ")}`) : null,
    message.ended ? scores : null,
    message.ended in ENDS ? h("span", { class: "note" }, ENDS[message.ended]) : null,
  ];
}

function token({ text, scores }, trait) {
  const score = scores[trait.trait];
  const node = h("span", { class: `token ${score >= 0 ? "pos" : "neg"}`, title: `${traitParts(trait.trait)[1]} ${signed(score, 2)}` }, text);
  node.style.setProperty("--t", (0.55 * Math.min(1, Math.abs(score) / trait.norm)).toFixed(3)); // full at twice the mean of a side
  return node;
}
