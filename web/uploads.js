// Files on their way: sent a few at a time, then followed as jobs until each has its outcome.

import { html, useEffect, useRef, useState } from "./vendor/htm-preact.js";
import { call, jobPath, upload } from "./api.js";
import { Bar, State, usePolling } from "./elements.js";
import { bytes, nameAndFolder, plural } from "./format.js";

// Browsers keep six connections to a host (RFC 9112 leaves it to them); some must stay free for the page.
const SENT_AT_ONCE = 3;
const POLL_SECONDS = 1;
const JOBS_ASKED_AT_ONCE = 4;
const LISTED = 200;
const UNDER_WAY = new Set(["waiting", "sending", "queued", "running"]);

/** The uploads to one collection: `items`, `add(files)`, `clear()`, `busy`. */
export function useUploads(collection, onOutcome) {
  const [items, setItems] = useState([]);
  const state = useRef({ items: [], sending: 0, next: 0, gone: false });
  useEffect(() => () => (state.current.gone = true), []);

  const change = (key, changes) => publish(state.current.items.map((one) => (one.key === key ? { ...one, ...changes } : one)));
  const publish = (changed) => {
    state.current.items = changed;
    if (!state.current.gone) setItems(changed);
  };

  const add = (files) => {
    const added = files.map(({ id, file }) => ({ key: state.current.next++, id, file, size: file.size, sent: 0, state: "waiting" }));
    publish([...state.current.items, ...added]);
    for (let i = 0; i < SENT_AT_ONCE; i++) send();
  };

  async function send() {
    const one = state.current.items.find((item) => item.state === "waiting");
    if (!one || state.current.sending >= SENT_AT_ONCE) return;
    state.current.sending++;
    change(one.key, { state: "sending" });
    try {
      const job = await upload(collection, one.id, one.file, (share) => change(one.key, { sent: share }));
      change(one.key, { job: job.id, state: job.state, sent: 1, file: null });
      onOutcome();
    } catch (problem) {
      change(one.key, { state: "failed", problem, file: null });
    } finally {
      state.current.sending--;
      send();
    }
  }

  // Only the oldest few are asked about at a time; those behind them are not done before.
  const follow = async () => {
    const open = state.current.items.filter((one) => one.job && UNDER_WAY.has(one.state)).slice(0, JOBS_ASKED_AT_ONCE);
    const ended = await Promise.all(open.map(followOne));
    if (ended.some(Boolean)) onOutcome();
  };
  async function followOne(one) {
    try {
      const job = await call("GET", jobPath(one.job));
      change(one.key, { state: job.state, progress: job.progress, error: job.errors[0] });
      return !UNDER_WAY.has(job.state);
    } catch (problem) {
      // A break heals at the next look; a job that is gone does not.
      if (problem.status === 404) change(one.key, { state: "failed", problem });
      return false;
    }
  }
  const busy = items.some((one) => UNDER_WAY.has(one.state));
  usePolling(follow, POLL_SECONDS, busy);

  return { items, add, busy, clear: () => publish(state.current.items.filter((one) => UNDER_WAY.has(one.state))) };
}

export function UploadList({ uploads }) {
  const { items, busy, clear } = uploads;
  if (!items.length) return null;
  const done = items.filter((one) => !UNDER_WAY.has(one.state)).length;
  const failed = items.filter((one) => one.state === "failed").length;
  return html`
    <section class="card uploads" aria-label="Uploads">
      <div class="row between">
        <p role="status"><strong>${done} of ${plural(items.length, "file")} done</strong>${failed ? `, ${failed} failed` : ""}</p>
        ${!busy && html`<button class="plain small" onClick=${clear}>Clear</button>`}
      </div>
      <ul>${items.slice(0, LISTED).map((one) => html`<${UploadRow} key=${one.key} one=${one} />`)}</ul>
    </section>
  `;
}

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
