// The service's HTTP API: calls, event streams, uploads. Every failure is a Problem.

import { key, signOut } from "./session.js";

const BASE = new URL(".", document.baseURI).pathname;
// Uploads that the service refuses for now (429, 503) are tried again this often.
const UPLOAD_TRIES = 6;
const DEFAULT_WAIT_SECONDS = 2;
const MAX_WAIT_SECONDS = 60;

/** An error as the service tells it: `code` is stable, `detail` is for people. */
export class Problem extends Error {
  constructor({ status = 0, code = "", detail = "", title = "", correlation_id = "", retryable = false, retry_after }) {
    super(detail || title || "The service did not say what went wrong.");
    this.status = status;
    this.code = code || (status ? `http_${status}` : "no_connection");
    this.correlationId = correlation_id;
    this.retryable = retryable;
    this.retryAfterSeconds = retry_after;
  }
}

/** The path of a collection's document; ids are paths whose parts are escaped one by one. */
export const documentPath = (collection, id) =>
  `api/collections/${encodeURIComponent(collection)}/documents/${id.split("/").map(encodeURIComponent).join("/")}`;

export const collectionPath = (collection) => `api/collections/${encodeURIComponent(collection)}`;

export const jobPath = (id) => `api/jobs/${encodeURIComponent(id)}`;

/** The JSON answer of one call. */
export async function call(method, path, { body, query, signal } = {}) {
  const response = await send(method, path, { body, query, signal });
  const text = await response.text();
  return text ? JSON.parse(text) : null;
}

/** The server-sent events of one call as `{name, data}`, data parsed from JSON. */
export async function* events(method, path, { body, signal } = {}) {
  const response = await send(method, path, { body, signal, accept: "text/event-stream" });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((error) => {
        throw error.name === "AbortError" ? error : brokenConnection();
      });
      if (done) return;
      // The service ends lines with LF alone.
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const event = parseEvent(block);
        if (event) yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parseEvent(block) {
  let name = "message";
  const data = [];
  for (const line of block.split("\n")) {
    if (line.startsWith("event:")) name = line.slice(6).trim();
    else if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
  }
  return data.length ? { name, data: JSON.parse(data.join("\n")) } : null;
}

/** Send a file as a document; `onProgress` gets the share that has been sent. Gives the job. */
export async function upload(collection, id, file, onProgress) {
  for (let attempt = 1; ; attempt++) {
    try {
      return await uploadOnce(documentPath(collection, id), file, onProgress);
    } catch (problem) {
      const wait = problem.retryAfterSeconds ?? DEFAULT_WAIT_SECONDS;
      const refused = problem.status === 429 || problem.status === 503;
      if (!refused || attempt === UPLOAD_TRIES || wait > MAX_WAIT_SECONDS) throw problem;
      await new Promise((resolve) => setTimeout(resolve, wait * 1000));
    }
  }
}

// fetch() cannot tell how much of a body has been sent; XMLHttpRequest can.
function uploadOnce(path, file, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("PUT", BASE + path);
    request.setRequestHeader("Authorization", `Bearer ${key()}`);
    request.setRequestHeader("Content-Type", file.type || "application/octet-stream");
    request.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
    request.onerror = () => reject(brokenConnection());
    request.onload = () => {
      if (request.status < 400) resolve(JSON.parse(request.responseText));
      else reject(problemOf(request.status, request.responseText, request.getResponseHeader("Retry-After")));
    };
    request.send(file);
  });
}

async function send(method, path, { body, query, signal, accept = "application/json" }) {
  const given = Object.entries(query ?? {}).filter(([, value]) => value !== undefined && value !== null);
  const search = given.length ? `?${new URLSearchParams(given)}` : "";
  const headers = { Authorization: `Bearer ${key()}`, Accept: accept };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(BASE + path + search, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
      cache: "no-store",
    });
  } catch (error) {
    throw error.name === "AbortError" ? error : brokenConnection();
  }
  if (response.ok) return response;
  throw problemOf(response.status, await response.text(), response.headers.get("Retry-After"));
}

function problemOf(status, text, retryAfter) {
  if (status === 401) signOut();
  let problem = {};
  try {
    problem = JSON.parse(text) ?? {};
  } catch {
    // A proxy's page says nothing of use.
  }
  const seconds = Number(retryAfter ?? NaN);
  return new Problem({ retry_after: Number.isFinite(seconds) ? seconds : undefined, ...problem, status });
}

const brokenConnection = () =>
  new Problem({ detail: "The connection to the service broke, or there is none.", retryable: true });
