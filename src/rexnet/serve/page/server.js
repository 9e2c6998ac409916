/** Requests to the server. Addresses are relative: the page may lie below any path. */

/** An error instead of an answer, as a sentence, with its HTTP status; 0 if there is none. */
export class ServerError extends Error {
  constructor(message, status) {
    const sentence = message.charAt(0).toUpperCase() + message.slice(1);
    super(/[.!?]$/.test(sentence) ? sentence : `${sentence}.`);
    this.status = status;
  }
}

let key = "";

/** Set the API key for later requests. */
export function useKey(text) {
  key = text;
}

export async function fetchModels() {
  return (await request("models")).models;
}

/** Predict an image; `query` names the model and its options. Returns `result`, and `milliseconds` including the transfer. */
export async function predict(file, query) {
  const started = performance.now();
  const answer = await request("predict", query, file);
  const [result] = answer.results;
  if (result.error) throw new ServerError(result.error, 400);
  return { result, milliseconds: performance.now() - started };
}

/** Explain where `model` sees the named class in an image. */
export function explain(file, { model, name }) {
  return request("explain", { model, class: name }, file);
}

async function request(path, query = {}, file = null) {
  const parameters = new URLSearchParams(query).toString();
  const options = { headers: key ? { Authorization: `Bearer ${key}` } : {} };
  if (file) {
    options.method = "POST";
    options.body = new FormData();
    options.body.append("image", file, file.name || "image");
  }
  const response = await send(parameters ? `${path}?${parameters}` : path, options);
  const content = await response.json().catch(() => null);
  if (response.ok && content) return content;
  throw new ServerError(content?.error ?? `The server answered with status ${response.status}.`, response.status);
}

async function send(address, options) {
  try {
    return await fetch(address, options);
  } catch {
    throw new ServerError("The server cannot be reached or closed the connection.", 0);
  }
}
