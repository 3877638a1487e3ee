// A list of texts that stays usable with thousands of them: pages of 50, search, filters, an order, the chosen one in full.

import { announce, h, replace } from "./dom.js";
import { plural } from "./format.js";
import { choice } from "./parts.js";
import { patch } from "./router.js";

export const PAGE = 50;

/**
 * Return {node, update(params)}: a picker whose state is in the address, under `prefix`.
 *
 * spec: {prefix, label, items, id(item), words(item), row(item) → nodes, detail(item) → nodes, filters: {name: {label, options, keep(item, value)}},
 * orders: {name: {label, key(item)}}}. Items without a key come last in either direction.
 */
export function picker(spec) {
  const list = h("ul", { class: "picker-list", role: "listbox", tabindex: "0", "aria-label": spec.label });
  const parts = {
    bar: h("div", { class: "picker-bar" }),
    list,
    foot: h("div", { class: "picker-foot" }),
    detail: h("div", { class: "picker-detail", "aria-live": "off" }),
  };
  const words = new Map(spec.items.map((item) => [item, spec.words(item).toLowerCase()]));
  const self = { spec, parts, words, params: {}, shown: [], page: 0, chosen: null };
  list.addEventListener("keydown", (event) => onKey(self, event));
  list.addEventListener("click", (event) => {
    const row = event.target.closest("[data-index]");
    if (row) choose(self, Number(row.dataset.index));
  });
  const node = h("div", { class: "picker" }, parts.bar, h("div", {}, list, parts.foot), parts.detail);
  return { node, update: (params) => update(self, params) };
}

const key = (self, name) => `${self.spec.prefix}${name}`;

function update(self, params) {
  const wanted = JSON.stringify(ofInterest(self, params));
  if (self.wanted === wanted) return;
  const isFirst = self.wanted === undefined;
  self.wanted = wanted;
  self.params = params;
  if (isFirst) replace(self.parts.bar, controls(self));
  self.shown = ordered(
    self,
    self.spec.items.filter((item) => keeps(self, item)),
  );
  const index = self.shown.findIndex((item) => self.spec.id(item) === params[key(self, "id")]);
  self.chosen = index >= 0 ? index : self.shown.length ? 0 : null;
  const page = params[key(self, "page")];
  self.page = index >= 0 ? Math.floor(index / PAGE) : Math.min(Math.max(Number(page) || 1, 1), pages(self)) - 1;
  if (index < 0 && self.shown.length) self.chosen = self.page * PAGE;
  drawRows(self);
  drawDetail(self);
  requestAnimationFrame(() => reveal(self)); // a shared address may name a text far down its page
}

const ofInterest = (self, params) =>
  Object.entries(params)
    .filter(([name]) => name.startsWith(self.spec.prefix))
    .sort();
const pages = (self) => Math.max(1, Math.ceil(self.shown.length / PAGE));

function keeps(self, item) {
  const search = (self.params[key(self, "q")] ?? "").trim().toLowerCase();
  if (search && !search.split(/\s+/).every((word) => self.words.get(item).includes(word))) return false;
  return Object.entries(self.spec.filters ?? {}).every(([name, filter]) => {
    const value = self.params[key(self, name)];
    return !value || filter.keep(item, value);
  });
}

function ordered(self, items) {
  const [name, direction] = (self.params[key(self, "sort")] ?? "").split(":");
  const order = self.spec.orders?.[name];
  if (!order) return items;
  const sign = direction === "down" ? -1 : 1;
  const known = (item) => order.key(item) !== null && order.key(item) !== undefined;
  const compare = (a, b) => sign * (order.key(a) < order.key(b) ? -1 : order.key(a) > order.key(b) ? 1 : 0);
  return [...items.filter(known).sort(compare), ...items.filter((item) => !known(item))];
}

function controls(self) {
  const set = (name, value) => patch({ [key(self, name)]: value, [key(self, "page")]: "", [key(self, "id")]: "" }, { quiet: true });
  const field = h("input", {
    type: "search",
    value: self.params[key(self, "q")] ?? "",
    placeholder: "Words in the text",
    oninput: (event) => set("q", event.target.value),
  });
  const filters = Object.entries(self.spec.filters ?? {}).map(([name, f]) =>
    choice(f.label, [["", "all"], ...f.options], self.params[key(self, name)] ?? "", (v) => set(name, v)),
  );
  const orders = Object.entries(self.spec.orders ?? {}).flatMap(([name, o]) => [
    [`${name}:down`, `${o.label}, highest first`],
    [`${name}:up`, `${o.label}, lowest first`],
  ]);
  const order = orders.length
    ? choice("Order", [["", "as in the file"], ...orders], self.params[key(self, "sort")] ?? "", (v) => set("sort", v))
    : null;
  return [h("label", { class: "field search" }, h("span", {}, "Search"), field), filters, order];
}

function drawRows(self) {
  const { list, foot } = self.parts;
  const from = self.page * PAGE;
  const rows = self.shown.slice(from, from + PAGE).map((item, i) => row(self, item, from + i));
  replace(list, rows.length ? rows : h("li", { class: "state" }, "Nothing matches."));
  markChosen(self);
  const turn = (step, text) =>
    h(
      "button",
      { class: "button small", type: "button", disabled: !inRange(self, self.page + step), onclick: () => turnTo(self, self.page + step) },
      text,
    );
  const said = self.shown.length ? `${from + 1}–${Math.min(from + PAGE, self.shown.length)} of ${self.shown.length}` : plural(0, "text");
  replace(foot, turn(-1, "← Earlier"), h("span", { class: "picker-count" }, said), turn(1, "Later →"));
}

const inRange = (self, page) => page >= 0 && page < pages(self);
const turnTo = (self, page) => patch({ [key(self, "page")]: page + 1, [key(self, "id")]: "" });

const row = (self, item, index) =>
  h("li", { class: "picker-row", role: "option", id: `${self.spec.prefix}row${index}`, "data-index": index }, self.spec.row(item));

function markChosen(self) {
  const { list } = self.parts;
  for (const node of list.querySelectorAll("[data-index]")) {
    const isChosen = Number(node.dataset.index) === self.chosen;
    node.setAttribute("aria-selected", String(isChosen));
    if (isChosen) list.setAttribute("aria-activedescendant", node.id);
  }
}

function drawDetail(self) {
  const item = self.chosen === null ? null : self.shown[self.chosen];
  replace(self.parts.detail, item ? self.spec.detail(item) : null);
}

function choose(self, index) {
  if (index < 0 || index >= self.shown.length) return;
  patch({ [key(self, "id")]: self.spec.id(self.shown[index]), [key(self, "page")]: "" }, { quiet: true });
  announce(`${index + 1} of ${self.shown.length}`);
}

/** Scroll the list, and nothing else, so that the chosen text is in sight. */
function reveal(self) {
  const { list } = self.parts;
  const node = list.querySelector(`[data-index="${self.chosen}"]`);
  if (!node) return;
  const [frame, box] = [list.getBoundingClientRect(), node.getBoundingClientRect()];
  list.scrollTop += Math.min(0, box.top - frame.top) + Math.max(0, box.bottom - frame.bottom);
}

function onKey(self, event) {
  const at = self.chosen ?? 0;
  const to = {
    ArrowDown: at + 1,
    ArrowUp: at - 1,
    Home: 0,
    End: self.shown.length - 1,
    PageDown: Math.min(at + PAGE, self.shown.length - 1),
    PageUp: Math.max(at - PAGE, 0),
  }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  choose(self, to);
}
