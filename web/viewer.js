// A document's text with a cited span in its place, beside its page and heading.

import { html, useEffect, useRef, useState } from "./vendor/htm-preact.js";
import { call, documentPath } from "./api.js";
import { Dialog, Icon, ProblemNote } from "./elements.js";
import { nameAndFolder, pages } from "./format.js";

// Characters shown before and after the span at first, and added by each "more": a book stays fluent.
const WINDOW_CHARACTERS = 12_000;
const MORE_CHARACTERS = 40_000;

/** `target`: a citation or passage; or `{collection, document}` alone, to read from the beginning. */
export function Viewer({ target, onClose }) {
  const [shown, setShown] = useState(null);
  const [problem, setProblem] = useState(null);
  useEffect(() => {
    let over = false;
    load(target).then(
      (found) => over || setShown(found),
      (error) => over || setProblem(error),
    );
    return () => {
      over = true;
    };
  }, [target]);

  const [name, folder] = nameAndFolder(target.document);
  const headings = shown?.end ? headingsAt(shown.headings, shown.start) : (target.headings ?? []);
  const place = [pages(target.page, target.page_end), ...headings].filter(Boolean);
  return html`
    <${Dialog} label=${`Document ${name}`} kind="viewer" onClose=${onClose}>
      <div class="viewer-head">
        <div>
          <h2>${shown?.title || target.title || name}</h2>
          <p class="fine">${target.collection} / ${folder ? `${folder}/` : ""}${name}${shown ? ` · version ${shown.version}` : ""}</p>
          ${place.length > 0 && html`<p class="place">${place.join(" › ")}</p>`}
        </div>
        <button class="plain" onClick=${onClose} title="Close"><${Icon} name="close" /><span class="for-reader">Close</span></button>
      </div>
      ${problem && html`<${ProblemNote} problem=${problem} />`}
      ${!problem && !shown && html`<p class="quiet pad" aria-busy="true">Loading …</p>`}
      ${shown && html`<${Reading} shown=${shown} />`}
    <//>
  `;
}

/** The text to show and the span in it: of the cited version, or of the present one if that is gone. */
async function load(target) {
  const path = documentPath(target.collection, target.document);
  const text = (version) => call("GET", path, { query: { view: "text", version } });
  if (target.version === undefined) return prepared(await text());
  const [cited, record] = await Promise.allSettled([text(target.version), call("GET", path)]);
  if (cited.status === "fulfilled") {
    const present = record.value?.visible_version;
    const replaced = present > target.version && `Version ${target.version} is what was cited. The document has been replaced by version ${present} since.`;
    return { ...prepared(cited.value, target.start, target.end), replaced };
  }
  if (cited.reason.status !== 404) throw cited.reason;
  return atSameWords(prepared(await text()), target);
}

/** The present version, at the words that another one was cited for. */
function atSameWords(present, target) {
  const words = target.quote ?? target.text ?? "";
  const start = words ? present.find(words) : -1;
  const gone = `Version ${target.version} was cited, but is no longer kept. This is version ${present.version}`;
  if (start < 0) return { ...present, replaced: `${gone}; the cited words do not stand in it.` };
  return { ...present, start, end: start + [...words].length, replaced: `${gone}, where the same words stand.` };
}

/** The headings above an offset, outermost first. */
function headingsAt(headings, offset) {
  const path = [];
  for (const heading of headings) {
    if (heading.start > offset) break;
    while (path.length && path.at(-1).level >= heading.level) path.pop();
    path.push(heading);
  }
  return path.map((heading) => heading.title);
}

/** Offsets count Unicode characters, JavaScript's strings count UTF-16 units: slice by the former. */
function prepared(document, start = 0, end = 0) {
  const { text } = document;
  const astral = /[\u{10000}-\u{10FFFF}]/u.test(text);
  const characters = astral ? Array.from(text) : null;
  return {
    ...document,
    start,
    end,
    length: astral ? characters.length : text.length,
    slice: (from, to) => (astral ? characters.slice(from, to).join("") : text.slice(from, to)),
    find: (words) => {
      const at = text.indexOf(words);
      return astral && at > 0 ? Array.from(text.slice(0, at)).length : at;
    },
  };
}

function Reading({ shown }) {
  const [from, setFrom] = useState(Math.max(0, shown.start - WINDOW_CHARACTERS));
  const [to, setTo] = useState(Math.min(shown.length, shown.end + WINDOW_CHARACTERS));
  const mark = useRef(null);
  useEffect(() => mark.current?.scrollIntoView({ block: "center" }), []);
  return html`
    ${shown.replaced && html`<div class="note warn"><${Icon} name="warning" /><div><p>${shown.replaced}</p></div></div>`}
    <div class="reading" tabindex="0" role="document" aria-label="Text of the document">
      ${from > 0 && html`<button class="small" onClick=${() => setFrom(Math.max(0, from - MORE_CHARACTERS))}>Show what comes before</button>`}
      ${sections(shown, from, to).map(
        (section) => html`
          <section key=${section.key}>
            ${section.label && html`<h3 class="page-label">${section.label}</h3>`}
            <div class="page-text">${section.parts.map((part) =>
              part.cited ? html`<mark ref=${part.first ? mark : undefined}>${part.text}</mark>` : part.text,
            )}</div>
          </section>
        `,
      )}
      ${to < shown.length && html`<button class="small" onClick=${() => setTo(Math.min(shown.length, to + MORE_CHARACTERS))}>Show what comes after</button>`}
    </div>
  `;
}

/** The text between two offsets, page by page, each cut where the cited span begins and ends. */
function sections(shown, from, to) {
  const inside = shown.pages.filter((page) => page.end > from && page.start < to);
  const labelled = inside.map((page) => ({ ...page, text: page.label ? `${page.number} · ${page.label}` : `Page ${page.number}` }));
  // Without pages, or with pages that leave the cited words out, the text is shown as a whole.
  const paged = labelled.some((page) => page.start <= shown.start && shown.start < page.end);
  const spans = paged ? labelled : [{ number: 0, start: from, end: to, text: "" }];
  return spans.map((page) => {
    const [start, end] = [Math.max(page.start, from), Math.min(page.end, to)];
    const cuts = [start, clamp(shown.start, start, end), clamp(shown.end, start, end), end];
    const parts = [];
    for (let i = 0; i < 3; i++) {
      if (cuts[i + 1] <= cuts[i]) continue;
      const cited = i === 1;
      parts.push({ text: shown.slice(cuts[i], cuts[i + 1]), cited, first: cited && cuts[1] === shown.start });
    }
    return { key: page.number, label: page.text, parts };
  });
}

const clamp = (value, least, most) => Math.min(Math.max(value, least), most);
