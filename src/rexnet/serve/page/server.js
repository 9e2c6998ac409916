/** What the page asks of its server. Addresses are relative: the page may lie below any path. */

/** Why there is no answer, in one sentence for the reader. */
export class ServerError extends Error {
  constructor(sentence, status) {
    super(sentence);
    this.status = status;
  }
}

let key = "";

/** The API key that later requests carry. */
export function useKey(text) {
  key = text;
}

export async function fetchModels() {
  return (await ask("models")).models;
}

/** What `model` says about a picture, and how long that took from here: `result` and `milliseconds`. */
export async function predict(file, { model, minScore }) {
  const started = performance.now();
  const answer = await ask("predict", { model, min_score: minScore }, file);
  const [result] = answer.results;
  if (result.error) throw new ServerError(result.error, 400);
  return { result, milliseconds: performance.now() - started };
}

/** Where `model` sees the class of that name in a picture. */
export function explain(file, { model, name }) {
  return ask("explain", { model, class: name }, file);
}

async function ask(path, query = {}, file = null) {
  const parameters = new URLSearchParams(query).toString();
  const request = { headers: key ? { Authorization: `Bearer ${key}` } : {} };
  if (file) {
    request.method = "POST";
    request.body = new FormData();
    request.body.append("image", file, file.name || "picture");
  }
  const response = await sent(parameters ? `${path}?${parameters}` : path, request);
  const content = await response.json().catch(() => null);
  if (response.ok && content) return content;
  throw new ServerError(content?.error ?? `The server answered with status ${response.status}.`, response.status);
}

async function sent(address, request) {
  try {
    return await fetch(address, request);
  } catch {
    throw new ServerError("The server cannot be reached, or it ended the connection.", 0);
  }
}
