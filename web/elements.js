// The small pieces that all screens are made of.

import { html, useEffect, useRef } from "./vendor/htm-preact.js";

const ICONS = {
  ask: "M4 5h16v11H9l-5 4z",
  documents: "M7 3h7l4 4v14H7zM14 3v4h4",
  jobs: "M4 7h16M4 12h10M4 17h13",
  close: "M6 6l12 12M18 6L6 18",
  upload: "M12 16V5M7 9l5-5 5 5M5 20h14",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  warning: "M12 4l9 16H3zM12 10v5M12 17.5v.5",
  search: "M11 4a7 7 0 100 14 7 7 0 000-14zM16 16l5 5",
  send: "M5 12h14M13 6l6 6-6 6",
  stop: "M7 7h10v10H7z",
  open: "M9 6l6 6-6 6",
  out: "M10 5H5v14h5M14 8l4 4-4 4M18 12H9",
};

export const Icon = ({ name }) => html`
  <svg class="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false"><path d=${ICONS[name]} /></svg>
`;

// What a state means for its colour; the word itself is always there too.
const TONES = {
  succeeded: "good",
  indexed: "good",
  unchanged: "good",
  superseded: "good",
  deleted: "quiet",
  running: "busy",
  accepted: "busy",
  sending: "busy",
  queued: "quiet",
  waiting: "quiet",
  partial: "warn",
  cancelled: "warn",
  failed: "bad",
};

export const State = ({ state }) => html`<span class=${`state ${TONES[state] ?? "quiet"}`}>${state}</span>`;

/** A problem with its code and the id to quote to an operator; `again` offers another try. */
export const ProblemNote = ({ problem, again }) => html`
  <div class="note bad" role="alert">
    <${Icon} name="warning" />
    <div>
      <p>${problem.message}</p>
      <p class="fine">
        <code>${problem.code ?? problem.name}</code>
        ${problem.correlationId && html`<span> · correlation id <code>${problem.correlationId}</code></span>`}
        ${problem.retryAfterSeconds && html`<span> · try again in ${Math.ceil(problem.retryAfterSeconds)} s</span>`}
      </p>
    </div>
    ${again && html`<button class="small" onClick=${again}>Try again</button>`}
  </div>
`;

/** A bar that shows a share from 0 to 1; without one it only says that something happens. */
export const Bar = ({ share, label }) => html`
  <div
    class=${share === undefined ? "bar unknown" : "bar"}
    role="progressbar"
    aria-label=${label}
    aria-valuemin="0"
    aria-valuemax="100"
    aria-valuenow=${share === undefined ? undefined : Math.round(share * 100)}
  >
    <div style=${{ width: share === undefined ? "30%" : `${Math.min(1, share) * 100}%` }}></div>
  </div>
`;

/** A dialog over the page: takes the focus, gives it back, closes with Escape or a click beside it. */
export function Dialog({ label, kind, onClose, children }) {
  const element = useRef(null);
  useEffect(() => {
    const before = document.activeElement;
    element.current.showModal();
    return () => before?.focus?.();
  }, []);
  const beside = (event) => event.target === element.current && onClose();
  return html`
    <dialog class=${kind} aria-label=${label} ref=${element} onClose=${onClose} onClick=${beside}>
      <div class="dialog-body">${children}</div>
    </dialog>
  `;
}

/** Ask before something that cannot be undone. */
export const Confirm = ({ title, text, action, onConfirm, onClose }) => html`
  <${Dialog} label=${title} kind="confirm" onClose=${onClose}>
    <h2>${title}</h2>
    <p>${text}</p>
    <div class="row end">
      <button onClick=${onClose}>Keep</button>
      <button class="danger" onClick=${onConfirm}>${action}</button>
    </div>
  <//>
`;

/** Call `work` every `seconds` while `active` and while the page is seen; never twice at a time. */
export function usePolling(work, seconds, active) {
  const latest = useRef(work);
  latest.current = work;
  useEffect(() => {
    if (!active) return undefined;
    let timer;
    let over = false;
    const tick = async () => {
      if (!document.hidden) await latest.current();
      if (!over) timer = setTimeout(tick, seconds * 1000);
    };
    timer = setTimeout(tick, seconds * 1000);
    return () => {
      over = true;
      clearTimeout(timer);
    };
  }, [seconds, active]);
}
