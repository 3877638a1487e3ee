// Live chat: the experiment's model answers, and every token is drawn with its trait scores as it comes.

import * as data from "../data.js";
import { announce, h, replace } from "../dom.js";
import { signed, traitParts } from "../format.js";
import { choice, section } from "../parts.js";
import { patch } from "../router.js";
import { empty, fillWith } from "../states.js";
import { Conversation } from "./conversation.js";
import { experimentChoice, pageHead } from "./head.js";
import { livePlot } from "./live.js";
import { messageList } from "./messages.js";

export const chat = { title: "Live chat", keys: ["experiment"], needsExperiment: true, mount };

const LARGEST = 0.6; // dose at the ends of the sliders
const LENGTHS = [50, 100, 200, 400];
const talks = new Map(); // experiment → its conversation, for as long as the page is open

function mount(context) {
  const note = "Talk to the experiment's model: every token shows how strongly each trait is in it, and traits can be pushed while you talk.";
  const node = h("div");
  fillWith(node, () => room(context), "Looking for the model");
  return h("div", {}, pageHead("Live chat", note, [experimentChoice(context)]), node);
}

async function room(context) {
  const { experiment } = context;
  const state = await data.chat(experiment.name);
  if (state.why_not) return empty("There is no model to talk to here", state.why_not);
  const self = { experiment: experiment.name, state, talk: talkOf(experiment.name), params: context.params, stop: null, error: "" };
  self.plot = livePlot(self);
  self.messages = messageList({
    painted: () => painted(self),
    edit: (message, text) => ask(self, text, message),
    turn: (message, step) => {
      self.talk.turn(message, step);
      draw(self);
    },
  });
  self.compose = composer(self);
  self.side = h("div", { class: "stack" });
  context.ready((params) => {
    self.params = params;
    drawSide(self);
    draw(self);
  });
  return h("div", { class: "chat" }, h("div", { class: "talk" }, self.messages.node, self.compose.node), self.side);
}

function talkOf(experiment, isNew = false) {
  if (isNew || !talks.has(experiment)) talks.set(experiment, new Conversation());
  return talks.get(experiment);
}

/** Return the doses of the address: dose=category/name:0.3,… */
function dosesOf({ params, state }) {
  const known = new Map(state.traits.filter((t) => t.can_steer).map((t) => [t.trait, t]));
  const pairs = (params.dose ?? "").split(",").map((part) => part.split(":"));
  return Object.fromEntries(pairs.filter(([trait, dose]) => known.has(trait) && Number(dose)).map(([trait, dose]) => [trait, clamp(Number(dose))]));
}

const clamp = (dose) => Math.min(LARGEST, Math.max(-LARGEST, dose));
export const painted = ({ params, state }) => state.traits.find((t) => t.trait === params.colour) ?? state.traits[0];

function drawSide(self) {
  const { state, params } = self;
  const doses = dosesOf(self);
  const key = JSON.stringify([doses, params.colour, params.length]);
  if (self.sideKey === key) return;
  self.sideKey = key;
  if (self.side.contains(document.activeElement) && document.activeElement.type === "range") return; // it is being moved
  const names = state.traits.map((t) => [t.trait, traitParts(t.trait)[1]]);
  const options = h(
    "div",
    { class: "controls" },
    choice("Colour", names, painted(self).trait, (v) => patch({ colour: v })),
    choice("At most", LENGTHS.map((n) => [n, `${n} tokens`]), lengthOf(self), (v) => patch({ length: v })),
  );
  const note = "A dose is a share of the mean residual norm at the vector's layer. Scores include the push itself.";
  const problems = Object.entries(state.problems).map(([trait, why]) => h("p", { class: "notes" }, `${trait}: ${why}`));
  replace(
    self.side,
    section("Steering", note, null, h("div", { class: "stack" }, state.traits.map((t) => slider(self, t, doses[t.trait] ?? 0)), problems)),
    section("Scores", "", options, self.plot),
  );
}

const lengthOf = ({ params }) => (LENGTHS.includes(Number(params.length)) ? Number(params.length) : 100);

function slider(self, trait, dose) {
  const said = h("output", {}, dose ? signed(dose, 2) : "0");
  const change = (value) => {
    said.textContent = value ? signed(value, 2) : "0";
    const doses = { ...dosesOf(self), [trait.trait]: value };
    const kept = Object.entries(doses).filter(([, d]) => d);
    patch({ dose: kept.map(([t, d]) => `${t}:${d}`).join(",") }, { quiet: true });
  };
  const attributes = { type: "range", min: -LARGEST, max: LARGEST, step: 0.05, disabled: !trait.can_steer };
  const range = h("input", { ...attributes, "aria-label": `Dose of ${trait.trait}`, oninput: (event) => change(Number(event.target.value)) });
  range.value = dose;
  const reset = h("button", { class: "button small", type: "button", title: "No steering", onclick: () => ((range.value = 0), change(0)) }, "0");
  const place = `${trait.method}, layer ${trait.layer}${trait.can_steer ? "" : ": only watched, the residual norm there is not known"}`;
  return h(
    "div",
    { class: "dose" },
    h("div", {}, h("b", {}, traitParts(trait.trait)[1]), h("span", { class: "note" }, place)),
    h("div", { class: "dose-row" }, range, said, reset),
  );
}

function composer(self) {
  const field = h("textarea", { rows: 2, placeholder: "Say something", "aria-label": "Message", maxlength: self.state.max_characters });
  const send = h("button", { class: "button primary", type: "submit" }, "Send");
  const stop = h("button", { class: "button", type: "button", disabled: true, onclick: () => self.stop?.abort() }, "Stop");
  const clear = h("button", { class: "button", type: "button", onclick: () => startAnew(self) }, "New");
  const trouble = h("p", { class: "trouble", role: "alert" });
  const submit = (event) => {
    event.preventDefault();
    const text = field.value.trim();
    if (!text || self.stop) return;
    field.value = "";
    ask(self, text);
  };
  field.addEventListener("keydown", (event) => event.key === "Enter" && !event.shiftKey && !event.isComposing && submit(event));
  const node = h("form", { class: "compose", onsubmit: submit }, trouble, field, h("div", { class: "controls" }, send, stop, clear));
  const show = () => {
    send.disabled = self.stop !== null;
    stop.disabled = self.stop === null;
    trouble.textContent = self.error;
  };
  return { node, show };
}

function startAnew(self) {
  self.stop?.abort();
  self.talk = talkOf(self.experiment, true);
  self.error = "";
  draw(self);
}

/** Say something, or say it otherwise than in `instead`, and let the model answer. */
async function ask(self, text, instead = null) {
  if (self.stop) return;
  const { talk } = self;
  const doses = dosesOf(self);
  const said = talk.say("user", text, instead);
  const answer = talk.add(said, { role: "assistant", tokens: [], doses, ended: null });
  self.stop = new AbortController();
  self.error = "";
  draw(self);
  try {
    const asked = { messages: talk.upTo(said), doses, max_new_tokens: lengthOf(self) };
    for await (const step of data.reply(self.experiment, asked, self.stop.signal)) take(self, answer, step);
    answer.ended ??= "cut off";
  } catch (error) {
    answer.ended = error.name === "AbortError" ? "stopped" : "failed";
    if (answer.ended === "failed") self.error = error.message;
  }
  self.stop = null;
  announce(`${answer.ended}: ${answer.content}`);
  draw(self);
}

function take(self, answer, step) {
  if (!self.messages.node.isConnected) self.stop.abort(); // the reader went to another view
  if (step.end) answer.ended = step.end;
  else {
    answer.tokens.push(step);
    answer.content += step.text;
    if (self.talk.path().includes(answer)) self.messages.grow(answer);
  }
  self.plot.follow();
}

function draw(self) {
  self.messages.draw(self.talk);
  self.compose.show();
  self.plot.follow();
}
