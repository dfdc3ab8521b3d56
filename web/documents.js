// Documents: collections, what is in them and in which state, and new files by drag and drop.

import { html, useEffect, useRef, useState } from "./vendor/htm-preact.js";
import { call, collectionPath, documentPath } from "./api.js";
import { Confirm, Icon, ProblemNote, State, usePolling } from "./elements.js";
import { ago, bytes, moment, nameAndFolder, number, plural } from "./format.js";
import { UploadList, useUploads } from "./uploads.js";

const PAGE_DOCUMENTS = 200;
const POLL_SECONDS = 2;
const NAME_PATTERN = "[a-z0-9]([a-z0-9\\-]{0,61}[a-z0-9])?";

export function Documents({ chosen, show }) {
  const [collections, setCollections] = useState(null);
  const [problem, setProblem] = useState(null);
  const load = () => {
    setProblem(null);
    return call("GET", "api/collections").then((found) => setCollections(found.items), setProblem);
  };
  useEffect(() => void load(), []);

  if (problem) return html`<${ProblemNote} problem=${problem} again=${load} />`;
  if (!collections) return html`<p class="quiet" aria-busy="true">Loading …</p>`;
  const current = collections.find((one) => one.name === chosen) ?? collections[0];
  return html`
    <div class="split">
      <aside class="side">
        <h2>Collections</h2>
        <ul class="collection-list">
          ${collections.map(
            (one) => html`
              <li>
                <a href=${`#/documents/${encodeURIComponent(one.name)}`} aria-current=${one === current ? "true" : undefined}>
                  ${one.name}
                </a>
              </li>
            `,
          )}
        </ul>
        <${NewCollection} none=${!collections.length} onMade=${load} />
      </aside>
      ${current
        ? html`<${CollectionView} key=${current.name} collection=${current} show=${show} onDeleted=${load} />`
        : html`<section class="welcome"><h1>No collections yet</h1><p>A collection holds documents that are searched together, under one access list. Name the first one to begin.</p></section>`}
    </div>
  `;
}

function NewCollection({ none, onMade }) {
  const [open, setOpen] = useState(none);
  const [name, setName] = useState("");
  const [description, setDescription] = useState("");
  const [problem, setProblem] = useState(null);
  const submit = async (event) => {
    event.preventDefault();
    setProblem(null);
    try {
      await call("PUT", collectionPath(name), { body: { description } });
      await onMade();
      location.hash = `#/documents/${encodeURIComponent(name)}`;
      setName("");
      setDescription("");
      setOpen(false);
    } catch (error) {
      setProblem(error);
    }
  };
  if (!open) return html`<button class="small" onClick=${() => setOpen(true)}>New collection</button>`;
  return html`
    <form class="stack" onSubmit=${submit}>
      <label for="collection-name">Name</label>
      <input
        id="collection-name"
        required
        pattern=${NAME_PATTERN}
        title="1 to 63 lower-case letters, digits and inner hyphens"
        placeholder="handbook"
        value=${name}
        onInput=${(event) => setName(event.target.value)}
      />
      <label for="collection-description">What is in it <span class="fine">(optional)</span></label>
      <input id="collection-description" value=${description} onInput=${(event) => setDescription(event.target.value)} />
      ${problem && html`<${ProblemNote} problem=${problem} />`}
      <div class="row">
        <button class="primary small">Create</button>
        ${!none && html`<button type="button" class="plain small" onClick=${() => setOpen(false)}>Cancel</button>`}
      </div>
    </form>
  `;
}

function CollectionView({ collection, show, onDeleted }) {
  const [documents, setDocuments] = useState(null);
  const [next, setNext] = useState(null);
  const [problem, setProblem] = useState(null);
  const [asked, setAsked] = useState(null);
  const loaded = useRef(PAGE_DOCUMENTS);

  // All that has been paged in so far is read again: states change under way.
  const reload = async () => {
    try {
      const page = await documentsUpTo(collection.name, loaded.current);
      setDocuments(page.items);
      setNext(page.next);
      setProblem(null);
    } catch (error) {
      setProblem(error);
    }
  };
  const more = () => {
    loaded.current += PAGE_DOCUMENTS;
    return reload();
  };
  useEffect(() => void reload(), []);
  const uploads = useUploads(collection.name, reload);
  const underWay = documents?.some((one) => one.state === "accepted") || uploads.busy;
  usePolling(reload, POLL_SECONDS, Boolean(underWay));

  async function remove(path, after) {
    setAsked(null);
    try {
      await call("DELETE", path);
      await after();
    } catch (error) {
      setProblem(error);
    }
  }
  const removeDocument = (id) =>
    setAsked({
      title: "Delete this document?",
      text: `${id} will no longer be found by searches and answers.`,
      confirm: () => remove(documentPath(collection.name, id), reload),
    });
  const removeCollection = () =>
    setAsked({
      title: `Delete the collection ${collection.name}?`,
      text: "All of its documents go with it. This cannot be undone.",
      confirm: () => remove(collectionPath(collection.name), onDeleted),
    });

  return html`
    <section class="main-column">
      <div class="title-row">
        <div>
          <h1>${collection.name}</h1>
          <p class="fine">${[collection.description, `embedding model: ${collection.embedding_model}`].filter(Boolean).join(" · ")}</p>
        </div>
        <button class="plain" onClick=${removeCollection}><${Icon} name="trash" />Delete</button>
      </div>
      <${DropZone} onFiles=${(files) => uploads.add(files)} />
      <${UploadList} uploads=${uploads} />
      ${problem && html`<${ProblemNote} problem=${problem} again=${reload} />`}
      ${documents && html`
        <${DocumentTable}
          documents=${documents}
          show=${(id) => show({ collection: collection.name, document: id })}
          remove=${removeDocument}
        />
      `}
      ${next && html`<button onClick=${more}>Show more documents</button>`}
      ${asked && html`
        <${Confirm} title=${asked.title} text=${asked.text} action="Delete" onConfirm=${asked.confirm} onClose=${() => setAsked(null)} />
      `}
    </section>
  `;
}

async function documentsUpTo(collection, count) {
  const items = [];
  let next;
  do {
    const query = { after: next, limit: PAGE_DOCUMENTS };
    const page = await call("GET", `${collectionPath(collection)}/documents`, { query });
    items.push(...page.items);
    next = page.next;
  } while (next && items.length < count);
  // The service lists in no order that people know.
  items.sort((one, other) => one.id.localeCompare(other.id));
  return { items, next };
}

function DropZone({ onFiles }) {
  const [over, setOver] = useState(0);
  const input = useRef(null);
  const drop = async (event) => {
    event.preventDefault();
    setOver(0);
    onFiles(await filesOf(event.dataTransfer));
  };
  const picked = (event) => {
    onFiles([...event.target.files].map((file) => ({ id: file.name, file })));
    event.target.value = "";
  };
  return html`
    <div
      class=${over ? "drop over" : "drop"}
      data-drop
      onDragEnter=${(event) => (event.preventDefault(), setOver((n) => n + 1))}
      onDragLeave=${() => setOver((n) => Math.max(0, n - 1))}
      onDragOver=${(event) => event.preventDefault()}
      onDrop=${drop}
    >
      <${Icon} name="upload" />
      <div>
        <p><strong>Drop files or folders here</strong></p>
        <p class="fine">PDF, Word, PowerPoint, Excel, HTML, Markdown, text, CSV, JSON, e-mail</p>
      </div>
      <input type="file" multiple hidden ref=${input} onChange=${picked} />
      <button onClick=${() => input.current.click()}>Choose files</button>
    </div>
  `;
}

/** What was dropped as `{id, file}`; the files of folders are named by their path. */
async function filesOf(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.());
  if (!entries.some((entry) => entry?.isDirectory)) {
    return [...transfer.files].map((file) => ({ id: file.name, file }));
  }
  const found = [];
  for (const entry of entries) if (entry) await walk(entry, found);
  return found;
}

async function walk(entry, found) {
  if (entry.name.startsWith(".")) return;
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    found.push({ id: entry.fullPath.replace(/^\//, ""), file });
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    // A reader gives its entries in portions, an empty one at the end.
    const portion = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!portion.length) return;
    for (const child of portion) await walk(child, found);
  }
}

function DocumentTable({ documents, show, remove }) {
  if (!documents.length) return html`<p class="quiet pad">This collection is empty.</p>`;
  const failed = documents.filter((one) => one.state === "failed").length;
  return html`
    <p class="fine">${plural(documents.length, "document")}${failed ? ` · ${failed} failed` : ""}</p>
    <div class="table-frame">
      <table class="documents">
        <thead>
          <tr><th>Document</th><th>State</th><th class="num">Version</th><th class="num">Chunks</th><th class="num">Size</th><th>Changed</th><th><span class="for-reader">Actions</span></th></tr>
        </thead>
        <tbody>${documents.map((one) => html`<${DocumentRow} key=${one.id} record=${one} show=${show} remove=${remove} />`)}</tbody>
      </table>
    </div>
  `;
}

function DocumentRow({ record, show, remove }) {
  const [name, folder] = nameAndFolder(record.id);
  const missing = record.pages_without_text ?? [];
  const older = record.visible_version && record.visible_version !== record.version;
  return html`
    <tr>
      <td class="name">
        ${record.visible_version
          ? html`<button class="link" onClick=${() => show(record.id)}>${name}</button>`
          : html`<span>${name}</span>`}
        ${folder && html`<span class="fine folder">${folder}</span>`}
        ${record.error && html`<span class="reason">${record.error.message} <code>${record.error.code}</code></span>`}
        ${missing.length > 0 && html`
          <span class="reason warn">No text on ${missing.length === 1 ? "page" : "pages"} ${missing.slice(0, 12).join(", ")}${missing.length > 12 ? " …" : ""} of ${record.pages}</span>
        `}
      </td>
      <td><${State} state=${record.state} /></td>
      <td class="num" data-label="Version">${record.version}${older && html`<span class="fine"> (${record.visible_version} is found)</span>`}</td>
      <td class="num" data-label="Chunks">${number(record.chunks)}</td>
      <td class="num" data-label="Size">${bytes(record.size)}</td>
      <td class="when" title=${moment(record.finished ?? record.accepted)}>${ago(record.finished ?? record.accepted)}</td>
      <td class="actions">
        <button class="plain" title="Delete" onClick=${() => remove(record.id)}><${Icon} name="trash" /><span class="for-reader">Delete ${record.id}</span></button>
      </td>
    </tr>
  `;
}
