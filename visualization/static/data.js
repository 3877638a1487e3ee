// The one module that asks the server. Everything it returns is described by /api/openapi.json.

const FRESH = 20_000; // milliseconds for which an answer is not asked for again

const answers = new Map();

/** An answer that is not there, or a server that is not. */
export class DataError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

function get(path, query = {}) {
  const url = `api/${path}${Object.keys(query).length ? `?${new URLSearchParams(query)}` : ""}`;
  const known = answers.get(url);
  if (known && performance.now() - known.at < FRESH) return known.promise;
  const promise = ask(url);
  answers.set(url, { at: performance.now(), promise });
  promise.catch(() => answers.delete(url));
  return promise;
}

async function ask(url) {
  let response;
  try {
    response = await fetch(url, { headers: { Accept: "application/json" } });
  } catch {
    throw new DataError("The server does not answer. Is visualization/serve.py still running?", 0);
  }
  const body = await response.json().catch(() => null);
  if (body === null) throw new DataError("The server's answer is not JSON.", response.status);
  if (!response.ok)
    throw new DataError(typeof body.detail === "string" ? body.detail : `The server answered ${response.status}.`, response.status);
  return body;
}

/** Forget every answer: files may have changed. */
export const forget = () => answers.clear();

const of = (experiment) => `experiments/${encodeURIComponent(experiment)}`;

export const experiments = () => get("experiments");
export const experiment = (name) => get(of(name));
export const vetting = (name, trait) => get(`${of(name)}/vetting`, { trait });
export const vectors = (name, trait) => get(`${of(name)}/vectors`, { trait });
export const methodSimilarity = (name, trait, layer) => get(`${of(name)}/similarity/methods`, { trait, layer });
export const traitSimilarity = (name, method, layer) => get(`${of(name)}/similarity/traits`, { method, layer });
export const steering = (name, trait) => get(`${of(name)}/steering`, { trait });
export const texts = (name, trait, part, arm) => get(`${of(name)}/steering/texts`, { trait, part, arm });
export const judging = (name, trait) => get(`${of(name)}/steering/judging`, { trait });
export const description = () => get("openapi.json");
