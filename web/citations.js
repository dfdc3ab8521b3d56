// An answer's text with its citations as buttons. The text is a model's: it only ever becomes text nodes.

import { html } from "./vendor/htm-preact.js";
import { nameAndFolder, pages } from "./format.js";

// [2] and [2, 3], as the service writes them.
const MARK = /\[(\d{1,3}(?:\s*,\s*\d{1,3})*)\]/g;

/** `text` in pieces: strings, and lists of the numbers that a mark names. */
export function pieces(text) {
  const found = [];
  let end = 0;
  for (const mark of text.matchAll(MARK)) {
    if (mark.index > end) found.push(text.slice(end, mark.index));
    found.push(mark[1].split(",").map(Number));
    end = mark.index + mark[0].length;
  }
  if (end < text.length) found.push(text.slice(end));
  return found;
}

export function AnswerText({ text, citations, show, writing }) {
  const byNumber = new Map(citations.map((citation) => [citation.number, citation]));
  const paragraphs = text.split(/\n+/).filter((paragraph) => paragraph.trim());
  return html`
    <div class=${writing ? "answer-text writing" : "answer-text"}>
      ${paragraphs.map(
        (paragraph) => html`
          <p>${pieces(paragraph).map((piece) =>
            typeof piece === "string"
              ? piece
              : piece.map((number) => html`<${Mark} number=${number} citation=${byNumber.get(number)} show=${show} writing=${writing} />`),
          )}</p>
        `,
      )}
    </div>
  `;
}

function Mark({ number, citation, show, writing }) {
  if (!citation) return writing ? html`<span class="number pending">${number}</span>` : `[${number}]`;
  const name = citation.title || nameAndFolder(citation.document)[0];
  const place = [name, pages(citation.page, citation.page_end)].filter(Boolean).join(", ");
  return html`
    <button class="number" title=${place} aria-label=${`Source ${number}: ${place}`} onClick=${() => show(citation)}>${number}</button>
  `;
}
