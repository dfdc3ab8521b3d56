// Ask: a question, an answer that arrives as it is written, and the passages that it rests on.

import { html, useEffect, useRef, useState } from "./vendor/htm-preact.js";
import { call, events, Problem } from "./api.js";
import { AnswerText } from "./citations.js";
import { Icon, ProblemNote } from "./elements.js";
import { milliseconds, nameAndFolder, number, pages, plural } from "./format.js";

// Earlier turns that go along with a question; the service takes 100 messages.
const TURNS_SENT = 10;
// The service searches at most this many collections at once.
const MAX_COLLECTIONS = 16;

export function Ask({ open, show }) {
  const [collections, setCollections] = useState(null);
  const [left, setLeft] = useState(new Set());
  const [turns, setTurns] = useState([]);
  const [problem, setProblem] = useState(null);
  const running = useRef(null);

  const load = () => {
    setProblem(null);
    call("GET", "api/collections").then((found) => setCollections(found.items.map((one) => one.name)), setProblem);
  };
  useEffect(() => {
    if (open) load();
  }, [open]);
  useEffect(() => () => running.current?.abort(), []);

  const chosen = (collections ?? []).filter((name) => !left.has(name)).slice(0, MAX_COLLECTIONS);
  const busy = turns.some((turn) => turn.state === "running");
  const changeLast = (change) => setTurns((all) => [...all.slice(0, -1), { ...all.at(-1), ...change(all.at(-1)) }]);

  async function ask(question) {
    const body = { collections: chosen, messages: conversation(turns, question), stream: true };
    const began = performance.now();
    const abort = new AbortController();
    running.current = abort;
    setTurns([...turns, { question, text: "", passages: [], state: "running" }]);
    try {
      for await (const { name, data } of events("POST", "api/chat", { body, signal: abort.signal })) {
        if (name === "sources") changeLast(() => ({ passages: data.passages }));
        else if (name === "delta") changeLast((turn) => ({ text: turn.text + data.text }));
        else if (name === "error") throw new Problem(data);
        else if (name === "done") {
          const elapsed = performance.now() - began;
          changeLast(() => ({ answer: data, text: data.text, elapsed, state: "done" }));
          return;
        }
      }
      throw new Problem({ code: "stream_interrupted", detail: "The answer ended before it was complete." });
    } catch (error) {
      const stopped = error.name === "AbortError";
      changeLast(() => ({ state: stopped ? "stopped" : "failed", problem: stopped ? null : error }));
    }
  }

  if (problem) return html`<${ProblemNote} problem=${problem} again=${load} />`;
  if (collections && !collections.length) return html`<${NothingToAsk} />`;
  return html`
    <div class=${turns.length ? "ask talking" : "ask"}>
      ${!turns.length && html`<${Welcome} />`}
      ${turns.map(
        (turn, index) => html`
          <${Turn}
            key=${index}
            turn=${turn}
            show=${show}
            again=${index === turns.length - 1 && turn.problem ? () => ask(turn.question) : null}
          />
        `,
      )}
      <${QuestionBox}
        collections=${collections ?? []}
        chosen=${chosen}
        toggle=${(name) => setLeft((all) => toggled(all, name))}
        busy=${busy}
        ask=${ask}
        stop=${() => running.current?.abort()}
        clear=${turns.length && !busy ? () => setTurns([]) : null}
        open=${open}
      />
    </div>
  `;
}

/** The messages of the last turns that were answered, and the question. */
function conversation(turns, question) {
  const earlier = turns.filter((turn) => turn.answer?.found).slice(-TURNS_SENT);
  const said = earlier.flatMap((turn) => [
    { role: "user", content: turn.question },
    { role: "assistant", content: turn.text },
  ]);
  return [...said, { role: "user", content: question }];
}

function toggled(all, name) {
  const changed = new Set(all);
  if (!changed.delete(name)) changed.add(name);
  return changed;
}

const Welcome = () => html`
  <section class="welcome">
    <h1>What would you like to know?</h1>
    <p>Answers come from your documents alone, and every statement leads to the place where it stands.</p>
  </section>
`;

const NothingToAsk = () => html`
  <section class="welcome">
    <h1>There is nothing to ask yet</h1>
    <p>Create a collection and add documents to it; then ask them questions here.</p>
    <a class="button primary" href="#/documents">Add documents</a>
  </section>
`;

function QuestionBox({ collections, chosen, toggle, busy, ask, stop, clear, open }) {
  const [question, setQuestion] = useState("");
  const field = useRef(null);
  useEffect(() => {
    // On a touch screen the focus would raise the keyboard over half of the page.
    if (open && matchMedia("(pointer: fine)").matches) field.current?.focus();
  }, [open]);
  const ready = question.trim() && chosen.length && !busy;
  const submit = (event) => {
    event.preventDefault();
    if (!ready) return;
    ask(question.trim());
    setQuestion("");
  };
  const typed = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
  };
  return html`
    <form class="question-box" onSubmit=${submit}>
      <div class="question-field">
        <label class="for-reader" for="question">Question</label>
        <textarea
          id="question"
          ref=${field}
          rows="2"
          placeholder="Ask a question …"
          value=${question}
          onInput=${(event) => setQuestion(event.target.value)}
          onKeyDown=${typed}
        ></textarea>
        ${busy
          ? html`<button type="button" onClick=${stop}><${Icon} name="stop" />Stop</button>`
          : html`<button class="primary" disabled=${!ready}>Ask<${Icon} name="send" /></button>`}
      </div>
      <div class="row">
        <fieldset class="choices">
          <legend>Collections</legend>
          ${collections.map(
            (name) => html`
              <label class="choice">
                <input type="checkbox" checked=${chosen.includes(name)} onChange=${() => toggle(name)} />
                <span>${name}</span>
              </label>
            `,
          )}
        </fieldset>
        ${clear && html`<button type="button" class="plain" onClick=${clear}>New conversation</button>`}
      </div>
    </form>
  `;
}

function Turn({ turn, show, again }) {
  const heading = useRef(null);
  useEffect(() => heading.current?.scrollIntoView({ block: "start" }), []);
  return html`
    <article class="turn">
      <h2 ref=${heading}>${turn.question}</h2>
      <div class="turn-body">
        <div class="answer" aria-live="polite" aria-busy=${turn.state === "running"}>
          <${AnswerBody} turn=${turn} show=${show} />
          ${turn.problem && html`<${ProblemNote} problem=${turn.problem} again=${again} />`}
          ${turn.state === "stopped" && html`<p class="fine">Stopped.</p>`}
          ${turn.answer && html`<${Timings} answer=${turn.answer} elapsed=${turn.elapsed} />`}
        </div>
        <${SourcePanel} turn=${turn} show=${show} />
      </div>
    </article>
  `;
}

function AnswerBody({ turn, show }) {
  const { answer } = turn;
  if (answer && !answer.found) {
    return html`
      <div class="note plain-note">
        <${Icon} name="search" />
        <div>
          <p><strong>Not found in the documents.</strong></p>
          <p>The chosen collections do not answer this. ${turn.passages.length ? "What comes nearest is listed with the sources." : ""}</p>
        </div>
      </div>
      <${Withheld} places=${answer?.withheld ?? []} />
    `;
  }
  if (!turn.text && turn.state === "running") {
    const read = turn.passages.length;
    return html`<p class="thinking">${read ? `Reading ${plural(read, "passage")}` : "Searching"}<span class="dots"></span></p>`;
  }
  return html`
    <${AnswerText} text=${turn.text} citations=${answer?.citations ?? []} show=${show} writing=${turn.state === "running"} />
    ${answer && answer.grounded === false && html`
      <div class="note warn"><${Icon} name="warning" /><div><p>This answer does not rest on the passages that were found. Check it before you use it.</p></div></div>
    `}
    <${Withheld} places=${answer?.withheld ?? []} />
  `;
}

/** Passages that screening took for attacks on the model: not in the answer, but somebody should look. */
function Withheld({ places }) {
  if (!places.length) return null;
  const documents = [...new Set(places.map((place) => place.document))].join(", ");
  return html`
    <div class="note warn"><${Icon} name="warning" /><div>
      <p><strong>${plural(places.length, "passage")} left out.</strong> They read like orders to the assistant: ${documents}</p>
    </div></div>
  `;
}

function Timings({ answer, elapsed }) {
  const steps = Object.entries(answer.timings_ms ?? {}).filter(([name]) => name !== "total");
  const used = (answer.usage?.prompt_tokens ?? 0) + (answer.usage?.completion_tokens ?? 0);
  const parts = [
    `${milliseconds(elapsed)} in all`,
    ...steps.map(([name, value]) => `${name.replaceAll("_", " ")} ${milliseconds(value)}`),
    answer.model && `model ${answer.model}`,
    answer.strategy,
    used > 0 && `${number(used)} tokens`,
  ];
  return html`<p class="fine timings">${parts.filter(Boolean).join(" · ")}</p>`;
}

function SourcePanel({ turn, show }) {
  const cited = turn.answer?.citations ?? [];
  const isCited = (passage) =>
    cited.some(
      (one) =>
        one.document === passage.document &&
        one.collection === passage.collection &&
        one.start >= passage.start &&
        one.end <= passage.end,
    );
  const others = turn.passages.filter((passage) => !isCited(passage));
  if (!cited.length && !others.length) return html`<aside class="sources"></aside>`;
  const list = html`
    <ol class="source-list">
      ${others.map((passage) => html`<${Source} source=${passage} text=${passage.text} show=${show} />`)}
    </ol>
  `;
  return html`
    <aside class="sources" aria-label="Sources">
      ${cited.length > 0 && html`
        <h3>Sources</h3>
        <ol class="source-list">
          ${cited.map((one) => html`<${Source} source=${one} label=${one.number} text=${one.quote} show=${show} />`)}
        </ol>
      `}
      ${others.length > 0 && html`
        <details open=${turn.answer?.found === false}>
          <summary>${cited.length ? "Also read" : "Passages read"} (${others.length})</summary>
          ${list}
        </details>
      `}
    </aside>
  `;
}

function Source({ source, label, text, show }) {
  const [name, folder] = nameAndFolder(source.document);
  const place = [pages(source.page, source.page_end), source.headings?.at(-1)].filter(Boolean).join(" · ");
  return html`
    <li>
      <button class="source" onClick=${() => show(source)}>
        <span class="source-title">
          ${label && html`<span class="number" aria-hidden="true">${label}</span>`}
          <span>${source.title || name}</span>
        </span>
        <span class="fine">${folder ? `${folder}/` : ""}${name}${place ? ` · ${place}` : ""}</span>
        <span class="quote">${text}</span>
      </button>
    </li>
  `;
}
