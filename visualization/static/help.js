// The keys, on demand.

import { h, replace } from "./dom.js";

const KEYS = [
  ["1 … 9", "go to a view"],
  ["/", "search in the list of texts"],
  ["↑ ↓", "next and previous text in a list; Page Up and Down move 50, Home and End to its ends"],
  ["← →", "move among the views when one has the focus"],
  ["← → in a text", "the token before and after, with its values"],
  ["Enter, Shift+Enter", "in a chat: send, new line"],
  ["t", "light or dark"],
  ["r", "read the files again"],
  ["?", "this help"],
  ["Esc", "close"],
];

export function showHelp() {
  const dialog = document.getElementById("help");
  const close = h("button", { class: "button", type: "button", onclick: () => dialog.close() }, "Close");
  const keys = h(
    "div",
    { class: "keys" },
    KEYS.map(([key, does]) => [h("span", {}, h("kbd", {}, key)), h("span", {}, does)]),
  );
  const note = h(
    "p",
    { class: "notes" },
    "The address holds what you see: copy it to share a view. Every plot saves as PNG or SVG, and its data as CSV.",
  );
  replace(dialog, h("h2", { id: "help-title" }, "Keys"), keys, note, h("p", {}, close));
  if (!dialog.open) dialog.showModal();
}
