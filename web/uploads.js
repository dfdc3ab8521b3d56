// Files on their way: sent a few at a time, then followed as jobs until each has its outcome.

import { html, useEffect, useState } from "./vendor/htm-preact.js";
import { call, jobPath, upload } from "./api.js";
import { Bar, State, usePolling } from "./elements.js";
import { bytes, nameAndFolder, plural } from "./format.js";

// Browsers keep six connections to a host (RFC 9112 leaves it to them); some must stay free for the page.
const SENT_AT_ONCE = 3;
const POLL_SECONDS = 1;
const JOBS_ASKED_AT_ONCE = 4;
const LISTED = 200;
const UNDER_WAY = new Set(["waiting", "sending", "queued", "running"]);

// The uploads of each collection outlive the screen that shows them: one may look at the jobs meanwhile.
const stores = new Map();

/** The uploads to one collection; `changed` tells a screen that something has. */
class Uploads {
  items = [];
  changed = () => {};
  outcome = () => {};
  #sending = 0;
  #next = 0;

  constructor(collection) {
    this.collection = collection;
  }

  get busy() {
    return this.items.some((one) => UNDER_WAY.has(one.state));
  }

  /** Send files, given as `{id, file}`, a few at a time. */
  add(files) {
    const added = files.map(({ id, file }) => ({ key: this.#next++, id, file, size: file.size, sent: 0, state: "waiting" }));
    this.#publish([...this.items, ...added]);
    for (let i = 0; i < SENT_AT_ONCE; i++) this.#send();
  }

  /** Forget those that have ended. */
  clear() {
    this.#publish(this.items.filter((one) => UNDER_WAY.has(one.state)));
  }

  /** Look at the jobs of what has been sent: the oldest few, since those behind them are not done before. */
  async follow() {
    const open = this.items.filter((one) => one.job && UNDER_WAY.has(one.state)).slice(0, JOBS_ASKED_AT_ONCE);
    const ended = await Promise.all(open.map((one) => this.#followOne(one)));
    if (ended.some(Boolean)) this.outcome();
  }

  async #send() {
    const one = this.items.find((item) => item.state === "waiting");
    if (!one || this.#sending >= SENT_AT_ONCE) return;
    this.#sending++;
    this.#change(one.key, { state: "sending" });
    try {
      const job = await upload(this.collection, one.id, one.file, (share) => this.#change(one.key, { sent: share }));
      this.#change(one.key, { job: job.id, state: job.state, sent: 1, file: null });
      this.outcome();
    } catch (problem) {
      this.#change(one.key, { state: "failed", problem, file: null });
    } finally {
      this.#sending--;
      this.#send();
    }
  }

  async #followOne(one) {
    try {
      const job = await call("GET", jobPath(one.job));
      this.#change(one.key, { state: job.state, progress: job.progress, error: job.errors[0] });
      return !UNDER_WAY.has(job.state);
    } catch (problem) {
      // A break heals at the next look; a job that is gone does not.
      if (problem.status === 404) this.#change(one.key, { state: "failed", problem });
      return false;
    }
  }

  #change(key, changes) {
    this.#publish(this.items.map((one) => (one.key === key ? { ...one, ...changes } : one)));
  }

  #publish(items) {
    this.items = items;
    this.changed();
  }
}

/** The uploads to `collection`, kept up to date on the screen; `onOutcome` is called when one has ended. */
export function useUploads(collection, onOutcome) {
  const [, draw] = useState(0);
  if (!stores.has(collection)) stores.set(collection, new Uploads(collection));
  const uploads = stores.get(collection);
  uploads.outcome = onOutcome;
  useEffect(() => {
    uploads.changed = () => draw((count) => count + 1);
    return () => {
      uploads.changed = uploads.outcome = () => {};
    };
  }, [uploads]);
  usePolling(() => uploads.follow(), POLL_SECONDS, uploads.busy);
  return uploads;
}

export function UploadList({ uploads }) {
  const { items, busy } = uploads;
  if (!items.length) return null;
  const done = items.filter((one) => !UNDER_WAY.has(one.state)).length;
  const failed = items.filter((one) => one.state === "failed").length;
  return html`
    <section class="card uploads" aria-label="Uploads">
      <div class="row between">
        <p role="status"><strong>${done} of ${plural(items.length, "file")} done</strong>${failed ? `, ${failed} failed` : ""}</p>
        ${!busy && html`<button class="plain small" onClick=${() => uploads.clear()}>Clear</button>`}
      </div>
      <ul>${[...items].sort(byUrgency).slice(0, LISTED).map((one) => html`<${UploadRow} key=${one.key} one=${one} />`)}</ul>
    </section>
  `;
}

// What needs attention first, then what is under way, then what is done.
const urgency = (one) => (one.state === "failed" ? 0 : UNDER_WAY.has(one.state) ? 1 : 2);

const byUrgency = (one, other) => urgency(one) - urgency(other) || one.key - other.key;

function UploadRow({ one }) {
  const [name] = nameAndFolder(one.id);
  const reason = one.problem ?? one.error;
  return html`
    <li class="upload" data-upload=${one.id}>
      <span class="upload-name" title=${one.id}>${name}</span>
      <span class="fine">${bytes(one.size)}</span>
      <${State} state=${one.state} />
      ${UNDER_WAY.has(one.state) && html`<${Bar} share=${share(one)} label=${`Progress of ${one.id}`} />`}
      ${reason && html`<span class="reason">${reason.message} <code>${reason.code}</code></span>`}
      ${one.job && html`<a class="fine" href=${`#/jobs/${one.job}`}>job</a>`}
    </li>
  `;
}

/** Sending is the first half of the bar, the job's stages are the second; undefined while nothing is known. */
function share(one) {
  if (one.state === "waiting") return 0;
  if (one.state === "sending") return one.sent / 2;
  const stages = one.progress?.stages ?? [];
  const known = stages.filter((stage) => stage.total);
  if (!known.length) return 0.5;
  const done = known.reduce((sum, stage) => sum + Math.min(1, stage.done / stage.total), 0);
  return 0.5 + done / stages.length / 2;
}
