// The page's state lives in the address after #, so that every view can be shared: #/steering?experiment=demo&trait=epistemic/optimism

const listeners = new Set();

/** Return {view, params} of the address. */
export function state() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?", 2);
  return { view: path, params: Object.fromEntries(new URLSearchParams(query ?? "")) };
}

/** Return the address of a view with these parameters; empty ones are left out. */
export function address(view, params) {
  const kept = Object.entries(params).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const query = new URLSearchParams(kept).toString().replaceAll("%2F", "/");
  return `#/${view}${query ? `?${query}` : ""}`;
}

/** Change some parameters of this view; the browser's history keeps the old ones unless `quiet`. */
export function patch(changes, { quiet = false } = {}) {
  const { view, params } = state();
  const next = address(view, { ...params, ...changes });
  if (next === location.hash) return;
  history[quiet ? "replaceState" : "pushState"](null, "", next);
  tell();
}

/** Call `listener` with the state whenever it changes. */
export function onChange(listener) {
  listeners.add(listener);
}

function tell() {
  for (const listener of listeners) listener(state());
}

window.addEventListener("hashchange", tell);
window.addEventListener("popstate", tell);
