// The frame: which view is shown for which experiment, the keys, the theme.

import * as data from "./data.js";
import { h, replace } from "./dom.js";
import { showHelp } from "./help.js";
import { arrowKeys } from "./parts.js";
import { sweep } from "./plots.js";
import { address, onChange, state } from "./router.js";
import { empty, fillWith } from "./states.js";
import { toggle } from "./theme.js";
import { unreadable } from "./views/head.js";
import { VIEWS } from "./views/index.js";

const main = document.getElementById("main");
let shown = { key: null, update: null };

/** Show what the address says: mount its view, or let the mounted one know what changed. */
function show({ view: name, params }) {
  const view = VIEWS[name] ?? VIEWS.overview;
  drawNav(VIEWS[name] ? name : "overview", params);
  const key = JSON.stringify([name, ...view.keys.map((k) => params[k] ?? "")]);
  if (key === shown.key) {
    shown.update?.(params);
    return;
  }
  mount(view, key, params);
}

function mount(view, key, params) {
  const isFirst = shown.key === null;
  shown = { key, update: null };
  document.title = `${view.title} · traitscope`;
  fillWith(main, () => content(view, key, params)).then(() => {
    sweep();
    if (!isFirst) window.scrollTo(0, 0);
  });
}

async function content(view, key, params) {
  if (!view.needsExperiment) return view.mount({ params, ready: (update) => ready(key, update) });
  const experiments = await data.experiments();
  if (!experiments.length) return empty("No experiments yet", "Results appear here as soon as a stage has completed.", "make demo");
  const known = experiments.find((e) => e.name === params.experiment);
  if (params.experiment && !known)
    return empty(`There is no experiment “${params.experiment}”`, `There are: ${experiments.map((e) => e.name).join(", ")}.`);
  const context = { params, experiments, experiment: known ?? latest(experiments), ready: (update) => ready(key, update) };
  return context.experiment.problem ? unreadable(view.title, context) : view.mount(context);
}

/** Return the experiment whose last stage finished last, of those that can be read. */
function latest(experiments) {
  const readable = experiments.filter((e) => !e.problem);
  return [...(readable.length ? readable : experiments)].sort((a, b) => ((a.updated ?? "") < (b.updated ?? "") ? 1 : -1))[0];
}

/** A mounted view says how it is told of changes; what changed while it was being made is told at once. */
function ready(key, update) {
  if (shown.key !== key) return;
  shown.update = update;
  update(state().params);
}

/** What one view hands on to another. */
const carried = ({ experiment, trait, set }) => ({ experiment, trait, set });

function drawNav(current, params) {
  const links = Object.entries(VIEWS).map(([name, view]) =>
    h("a", { href: address(name, carried(params)), "aria-current": name === current ? "page" : null }, view.title),
  );
  const nav = replace(document.getElementById("nav"), links);
  const chosen = links.find((link) => link.hasAttribute("aria-current"));
  nav.scrollLeft = chosen.offsetLeft - nav.offsetLeft - (nav.clientWidth - chosen.offsetWidth) / 2; // on a phone not all fit
}

function refresh() {
  data.forget();
  shown = { key: null, update: null };
  show(state());
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  const names = Object.keys(VIEWS);
  if (event.key === "?") showHelp();
  else if (event.key === "/") document.querySelector("input[type=search]")?.focus();
  else if (event.key === "t") toggle();
  else if (event.key === "r") refresh();
  else if (Number(event.key) >= 1 && names[Number(event.key) - 1])
    location.hash = address(names[Number(event.key) - 1], carried(state().params));
  else return;
  event.preventDefault();
}

const tool = (text, title, onclick) => h("button", { class: "button", type: "button", title, "aria-label": title, onclick }, text);
replace(
  document.getElementById("tools"),
  tool("↻", "Read the files again (r)", refresh),
  tool("◐", "Light or dark (t)", toggle),
  tool("?", "Keys (?)", showHelp),
);
arrowKeys(document.getElementById("nav"));
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
document.addEventListener("keydown", onKey);
onChange(show);
show(state());
