// Jobs: everything that takes long, newest first, live while it runs.

import { html, useEffect, useState } from "./vendor/htm-preact.js";
import { call, events, jobPath } from "./api.js";
import { Bar, Icon, ProblemNote, State, usePolling } from "./elements.js";
import { ago, duration, moment, nameAndFolder, number, plural } from "./format.js";

const PAGE_JOBS = 30;
const POLL_SECONDS = 3;
// Event streams hold a connection each, of the six that a browser keeps to a host.
const LIVE_STREAMS = 3;
const RECONNECT_SECONDS = 2;
const FINAL = new Set(["succeeded", "partial", "failed", "cancelled"]);

export function Jobs({ opened }) {
  const [jobs, setJobs] = useState(null);
  const [next, setNext] = useState(null);
  const [older, setOlder] = useState([]);
  const [problem, setProblem] = useState(null);

  const load = async () => {
    try {
      const page = await call("GET", "api/jobs", { query: { limit: PAGE_JOBS } });
      const linked = opened && !page.items.some((job) => job.id === opened) ? [await call("GET", jobPath(opened))] : [];
      setJobs([...linked, ...page.items]);
      setNext((known) => known ?? page.next);
      setProblem(null);
    } catch (error) {
      setProblem(error);
    }
  };
  useEffect(() => void load(), [opened]);
  usePolling(load, POLL_SECONDS, true);

  const more = async () => {
    const page = await call("GET", "api/jobs", { query: { after: next, limit: PAGE_JOBS } });
    setOlder([...older, ...page.items]);
    setNext(page.next ?? "");
  };

  if (problem && !jobs) return html`<${ProblemNote} problem=${problem} again=${load} />`;
  if (!jobs) return html`<p class="quiet" aria-busy="true">Loading …</p>`;
  const ids = new Set(jobs.map((job) => job.id));
  const all = [...jobs, ...older.filter((job) => !ids.has(job.id))];
  const open = all.filter((job) => !FINAL.has(job.state)).sort((one, other) => (other.state === "running") - (one.state === "running"));
  const live = new Set(open.slice(0, LIVE_STREAMS).map((job) => job.id));
  return html`
    <section class="main-column">
      <div class="title-row"><h1>Jobs</h1></div>
      ${problem && html`<${ProblemNote} problem=${problem} again=${load} />`}
      ${!all.length && html`<p class="quiet pad">Nothing has run yet. <a href="#/documents">Add documents</a> to start the first job.</p>`}
      <ul class="job-list">
        ${all.map((job) => html`<${JobRow} key=${job.id} job=${job} live=${live.has(job.id)} open=${job.id === opened} changed=${load} />`)}
      </ul>
      ${next && html`<button onClick=${more}>Show older jobs</button>`}
    </section>
  `;
}

/** The latest status of a job: from the list, or from the job's own events while it is live. */
function useStatus(job, live) {
  const [status, setStatus] = useState(job);
  useEffect(() => {
    if (!live) return undefined;
    const abort = new AbortController();
    const follow = async () => {
      while (!abort.signal.aborted) {
        try {
          for await (const { name, data } of events("GET", `${jobPath(job.id)}/events`, { signal: abort.signal })) {
            if (name === "status") setStatus(data);
            if (FINAL.has(data.state)) return;
          }
        } catch (error) {
          if (error.name === "AbortError" || error.status === 404) return;
        }
        await new Promise((resolve) => setTimeout(resolve, RECONNECT_SECONDS * 1000));
      }
    };
    follow();
    return () => abort.abort();
  }, [job.id, live]);
  // The list may be newer (another attempt), and it may be older than the events: the later one counts.
  return status.updated > job.updated || (live && status.progress) ? status : job;
}

function JobRow({ job, live, open, changed }) {
  const status = useStatus(job, live);
  const [expanded, setExpanded] = useState(open);
  const [problem, setProblem] = useState(null);
  const running = !FINAL.has(status.state);
  const act = async (action) => {
    setProblem(null);
    try {
      await call("POST", `${jobPath(job.id)}/${action}`);
      await changed();
    } catch (error) {
      setProblem(error);
    }
  };
  return html`
    <li class="card job" data-job=${job.id}>
      <div class="job-head">
        <button class="plain unfold" aria-expanded=${expanded} onClick=${() => setExpanded(!expanded)} title="Details">
          <${Icon} name="open" /><span class="for-reader">Details of ${status.title}</span>
        </button>
        <div class="job-title">
          <strong>${status.title || status.kind}</strong>
          <span class="fine">
            ${status.kind} · ${status.collection} · <span title=${moment(status.created)}>${ago(status.created)}</span>${status.attempt > 1 ? ` · attempt ${status.attempt}` : ""}
          </span>
        </div>
        <${State} state=${status.state} />
        ${running && html`
          <button class="small" disabled=${status.cancel_requested} onClick=${() => act("cancel")}>${status.cancel_requested ? "Cancelling …" : "Cancel"}</button>
        `}
        ${["failed", "partial", "cancelled"].includes(status.state) && html`<button class="small" onClick=${() => act("retry")}>Retry</button>`}
      </div>
      ${running && html`<${Progress} progress=${status.progress} state=${status.state} title=${status.title} />`}
      <${Counts} counts=${status.counts} />
      ${problem && html`<${ProblemNote} problem=${problem} />`}
      ${expanded && html`<${Details} status=${status} />`}
    </li>
  `;
}

function Progress({ progress, state, title }) {
  if (!progress?.total) return html`<${Bar} label=${`Progress of ${title}`} />`;
  const rate = progress.rate ? `${number(Number(progress.rate.toPrecision(2)))} ${progress.unit}/s` : "";
  const left = progress.eta_seconds != null ? `about ${duration(progress.eta_seconds)} left` : "";
  return html`
    <div class="progress">
      <${Bar} share=${overall(progress)} label=${`Progress of ${title}`} />
      <div class="row between fine">
        <span>${number(progress.done)} of ${plural(progress.total, one(progress.unit), progress.unit)}</span>
        <span>${[rate, left].filter(Boolean).join(" · ") || (state === "queued" ? "waiting to start" : "")}</span>
      </div>
      ${progress.stages.length > 0 && html`
        <ol class="stages">
          ${progress.stages.map((stage) => html`
            <li class=${stage.total && stage.done >= stage.total ? "done" : stage.done ? "now" : ""}>
              <span>${stage.name}</span>
              <span class="fine">${stage.total ? `${number(stage.done)} / ${plural(stage.total, one(stage.unit), stage.unit)}` : "–"}</span>
            </li>
          `)}
        </ol>
      `}
    </div>
  `;
}

const one = (unit) => unit.replace(/s$/, "");

/** One share for all stages: documents count as done only at the very end, when their shard is published. */
function overall({ done, total, stages }) {
  const known = stages.filter((stage) => stage.total);
  if (!known.length) return done / total;
  return known.reduce((sum, stage) => sum + Math.min(1, stage.done / stage.total), 0) / stages.length;
}

function Counts({ counts }) {
  const known = Object.entries(counts ?? {});
  if (!known.length) return null;
  return html`<p class="counts">${known.map(([name, count]) => html`<span><strong>${number(count)}</strong> ${name}</span>`)}</p>`;
}

function Details({ status }) {
  const final = FINAL.has(status.state);
  return html`
    <div class="details">
      <p class="fine">job <code>${status.id}</code> · created ${moment(status.created)} · changed ${moment(status.updated)}</p>
      ${status.errors.filter((error) => !error.item).map((error) => html`<p class="reason">${error.message} <code>${error.code}</code></p>`)}
      ${final && status.kind === "ingestion" && html`<${Outcomes} key=${`${status.id}-${status.attempt}`} id=${status.id} />`}
      ${!final && status.errors.length > 0 && html`<${OutcomeTable} outcomes=${status.errors.map((error) => ({ ...error, id: error.item, state: "failed" }))} />`}
    </div>
  `;
}

function Outcomes({ id }) {
  const [outcomes, setOutcomes] = useState(null);
  const [next, setNext] = useState(null);
  const [problem, setProblem] = useState(null);
  const load = async (page) => {
    setProblem(null);
    try {
      const result = await call("GET", `${jobPath(id)}/result`, { query: { page } });
      setOutcomes((known) => [...(page ? known : []), ...result.items]);
      setNext(result.next);
    } catch (error) {
      setProblem(error);
    }
  };
  useEffect(() => void load(), []);
  return html`
    ${problem && html`<${ProblemNote} problem=${problem} again=${() => load(next ?? undefined)} />`}
    ${!problem && !outcomes && html`<p class="quiet" aria-busy="true">Loading …</p>`}
    ${outcomes?.length > 0 && html`<${OutcomeTable} outcomes=${outcomes} />`}
    ${next && html`<button class="small" onClick=${() => load(next)}>Show more</button>`}
  `;
}

// What needs attention first.
const ORDER = { failed: 0, cancelled: 1 };

function OutcomeTable({ outcomes }) {
  const sorted = [...outcomes].sort((one, other) => (ORDER[one.state] ?? 2) - (ORDER[other.state] ?? 2));
  return html`
    <div class="table-frame">
      <table class="outcomes">
        <thead><tr><th>Document</th><th>Outcome</th><th class="num">Version</th><th class="num">Chunks</th><th class="num">Fresh after</th></tr></thead>
        <tbody>
          ${sorted.map((one) => {
            const [name, folder] = nameAndFolder(one.id);
            const missing = one.pages_without_text ?? [];
            return html`
              <tr key=${one.id}>
                <td class="name">
                  <span>${name}</span>
                  ${folder && html`<span class="fine folder">${folder}</span>`}
                  ${one.code && html`<span class="reason">${one.message} <code>${one.code}</code></span>`}
                  ${missing.length > 0 && html`<span class="reason warn">No text on page ${missing.slice(0, 12).join(", ")} of ${one.pages}</span>`}
                </td>
                <td><${State} state=${one.state} /></td>
                <td class="num" data-label="Version">${one.version || "–"}</td>
                <td class="num" data-label="Chunks">${one.chunks ? number(one.chunks) : "–"}</td>
                <td class="num" data-label="Fresh after">${one.freshness_seconds != null ? `${number(Math.round(one.freshness_seconds * 10) / 10)} s` : "–"}</td>
              </tr>
            `;
          })}
        </tbody>
      </table>
    </div>
  `;
}
