// What is shown instead of content: loading, nothing there, something wrong.

import { h, replace } from "./dom.js";

export const loading = (what = "Loading") =>
  h("div", { class: "state", role: "status" }, h("span", { class: "spinner" }), h("p", {}, `${what} …`));

/** There is nothing to show, and what would make it. */
export const empty = (title, text = "", command = "") =>
  h("div", { class: "state empty" }, h("h3", {}, title), text && h("p", {}, text), command && h("code", {}, command));

/** Something went wrong; `retry` is called by the button. */
export const failed = (error, retry) =>
  h(
    "div",
    { class: "state failed", role: "alert" },
    h("h3", {}, "This cannot be shown"),
    h("p", { class: "text" }, error.message),
    h("button", { class: "button", type: "button", onclick: retry }, "Try again"),
  );

/** Fill a node with what `make` resolves to, by way of the loading and error states; an older call never overwrites a newer one. */
export async function fillWith(node, make, what) {
  const turn = Symbol("turn");
  node.turn = turn;
  const spinner = setTimeout(() => node.turn === turn && replace(node, loading(what)), 120);
  node.setAttribute("aria-busy", "true");
  let content;
  try {
    content = await make();
  } catch (error) {
    if (error.status === undefined) console.error(error);
    content = failed(error, () => fillWith(node, make, what));
  }
  clearTimeout(spinner);
  if (node.turn !== turn) return;
  node.removeAttribute("aria-busy");
  replace(node, content);
}
