// Numbers and names for people.

export const number = (x, digits = 2) => (x === null || x === undefined ? "–" : x.toFixed(digits).replace("-", "−"));
export const signed = (x, digits = 1) => (x === null || x === undefined ? "–" : (x >= 0 ? "+" : "−") + Math.abs(x).toFixed(digits));
export const percent = (x) => (x === null || x === undefined ? "–" : `${Math.round(100 * x)} %`);
export const range = (low, high, show = number) => (low === null || low === undefined ? "" : `[${show(low)}, ${show(high)}]`);
export const interval = (found) => (found ? `${signed(found.mean)} ${range(found.low, found.high, signed)}` : "–");
export const layerName = (layer) => (Array.isArray(layer) ? layer.join("+") : String(layer));
export const doseName = (dose) => String(Number(dose.toPrecision(3)));
export const stageName = (stage) => stage.slice(2).replaceAll("_", " ");
export const plural = (n, one, many = `${one}s`) => `${n} ${n === 1 ? one : many}`;

/** Return [category, name] of a trait. */
export function traitParts(trait) {
  const cut = Math.max(0, trait.lastIndexOf("/")); // the name of a folder in the wrong place may have no /
  return [trait.slice(0, cut), trait.slice(cut && cut + 1).replaceAll("_", " ")];
}

export function when(iso) {
  if (!iso) return "–";
  const date = new Date(iso.replace(/([+-]\d\d)(\d\d)$/, "$1:$2"));
  return date.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

/** Return a prompt, which may be chat messages, as one text. */
export function promptText(prompt) {
  return typeof prompt === "string" ? prompt : prompt.map((m) => (prompt.length > 1 ? `[${m.role}] ${m.content}` : m.content)).join("\n\n");
}

export const verdictTone = (verdict) => ({ works: "good", "not proven": "warn", "breaks the text": "bad" })[verdict] ?? "";
