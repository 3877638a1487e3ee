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
  const response = await reach(url, { headers: { Accept: "application/json" } });
  const body = await response.json().catch(() => null);
  if (body === null) throw new DataError("The server's answer is not JSON.", response.status);
  return body;
}

/** Return an answer that is no error. */
async function reach(url, options) {
  let response;
  try {
    response = await fetch(url, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new DataError("The server does not answer. Is visualization/serve.py still running?", 0);
  }
  if (response.ok) return response;
  const { detail } = (await response.json().catch(() => null)) ?? {};
  const said = typeof detail === "string" ? detail : detail?.[0]?.msg;
  throw new DataError(said ?? `The server answered ${response.status}.`, response.status);
}

/** Yield every line of an answer as soon as it is there. */
async function* lines(response) {
  const decoder = new TextDecoder();
  let held = "";
  for await (const part of chunks(response.body.getReader())) {
    const whole = (held + decoder.decode(part, { stream: true })).split("\n");
    held = whole.pop();
    for (const line of whole) yield JSON.parse(line);
  }
}

async function* chunks(reader) {
  for (let part = await reader.read(); !part.done; part = await reader.read()) yield part.value;
}

/** Forget every answer: files may have changed. */
export const forget = () => answers.clear();

const of = (experiment) => `experiments/${encodeURIComponent(experiment)}`;

export const experiments = () => get("experiments");
export const experiment = (name) => get(of(name));
export const card = (name, trait) => get(`${of(name)}/card`, { trait });
export const vetting = (name, trait) => get(`${of(name)}/vetting`, { trait });
export const vectors = (name, trait) => get(`${of(name)}/vectors`, { trait });
export const methodSimilarity = (name, trait, layer) => get(`${of(name)}/similarity/methods`, { trait, layer });
export const traitSimilarity = (name, method, layer) => get(`${of(name)}/similarity/traits`, { method, layer });
export const training = (name, trait) => get(`${of(name)}/training`, { trait });
export const steering = (name, trait) => get(`${of(name)}/steering`, { trait });
export const texts = (name, trait, part, arm) => get(`${of(name)}/steering/texts`, { trait, part, arm });
export const judging = (name, trait) => get(`${of(name)}/steering/judging`, { trait });
export const rollouts = (name, trait) => get(`${of(name)}/rollouts`, { trait });
export const rolledOut = (name, trait, variant) => get(`${of(name)}/rollouts/texts`, { trait, variant });
export const promptSets = (name) => get(`${of(name)}/prompt-sets`);
export const prompts = (name, set) => get(`${of(name)}/prompts`, { prompt_set: set });
export const course = (name, set, how) => get(`${of(name)}/course`, { prompt_set: set, ...how });
export const comparison = (name, set, other, how) => get(`${of(name)}/comparison`, { prompt_set: set, other, ...how });
export const storedGroups = (name, set, by) => get(`${of(name)}/groups/stored`, { prompt_set: set, by });
export const groupsByField = (name, set, how) => get(`${of(name)}/groups/by-field`, { prompt_set: set, ...how });
export const groupValues = (name, set, how) => get(`${of(name)}/groups/values`, { prompt_set: set, ...how });
export const chat = (name) => get(`${of(name)}/chat`);

/** Yield a reply token by token, {text, scores}, and {end} at last; `signal` stops it. */
export async function* reply(name, asked, signal) {
  const headers = { "Content-Type": "application/json" };
  yield* lines(await reach(`api/${of(name)}/chat`, { method: "POST", headers, body: JSON.stringify(asked), signal }));
}

export const description = () => get("openapi.json");
