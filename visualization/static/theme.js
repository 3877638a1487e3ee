// Light and dark: what the system wants unless the reader chose.

const KEY = "traitscope-theme";
const system = matchMedia("(prefers-color-scheme: dark)");
const listeners = new Set();

export const current = () => document.documentElement.dataset.theme;

function apply() {
  const chosen = localStorage.getItem(KEY);
  document.documentElement.dataset.theme = chosen ?? (system.matches ? "dark" : "light");
  for (const listener of listeners) listener();
}

export function toggle() {
  localStorage.setItem(KEY, current() === "dark" ? "light" : "dark");
  apply();
}

export const onChange = (listener) => listeners.add(listener);

system.addEventListener("change", apply);
apply();
