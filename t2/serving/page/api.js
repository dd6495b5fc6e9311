// Requests to the server that this page came from. Paths are relative, so that a proxy may put the server in a folder.

let key = null; // kept in memory alone: a reload asks again

/** What the server answered instead: `message` is its own sentence, `status` that of HTTP (0: there is no answer). */
export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Send this API key with every request from now on. */
export function useKey(text) {
  if (!/^[\x21-\x7e]+$/.test(text)) {
    throw new Refusal(401, "An API key is letters, digits and signs of ASCII, without spaces.");
  }
  key = text;
}

/** GET a path: the parsed JSON. */
export async function get(path) {
  return (await send(path, {})).json();
}

/** POST a chat that is to be streamed: its chunks, as they come, until `[DONE]`. */
export async function* chat(body, signal) {
  const response = await send("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Refusal(0, chunk.error.message);
    yield chunk;
  }
  throw new Refusal(0, "The answer broke off before its end. Is the server still running?");
}

/** The data of server-sent events of one line each. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await read(reader);
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data: ")) yield line.slice("data: ".length);
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // of a stream that has failed, which the loop has said already
  }
}

/** The next piece; a connection that is lost counts as an end. */
async function read(reader) {
  try {
    return await reader.read();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    return { done: true };
  }
}

async function send(path, options) {
  const headers = { ...options.headers };
  if (key !== null) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "The server does not answer. Is it still running?");
  }
  if (!response.ok) throw new Refusal(response.status, await sentence(response));
  return response;
}

/** The server's own sentence of an error; of something else that answered in its place, the status. */
async function sentence(response) {
  const text = await response.text();
  try {
    return JSON.parse(text).error.message;
  } catch {
    return `The server answered with status ${response.status}, and said nothing more.`;
  }
}
