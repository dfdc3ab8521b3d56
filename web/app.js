// The console: who is signed in, which screen is open, which citation is shown.

import { html, render, useCallback, useEffect, useState } from "./vendor/htm-preact.js";
import { Ask } from "./ask.js";
import { call } from "./api.js";
import { Documents } from "./documents.js";
import { Icon, ProblemNote } from "./elements.js";
import { Jobs } from "./jobs.js";
import * as session from "./session.js";
import { Viewer } from "./viewer.js";

const SCREENS = [
  ["ask", "Ask"],
  ["documents", "Documents"],
  ["jobs", "Jobs"],
];

/** The screen and the rest of a hash route such as `#/documents/handbook`. */
function routeOf(hash) {
  const [screen, ...rest] = hash.replace(/^#\/?/, "").split("/");
  const known = SCREENS.some(([name]) => name === screen);
  let detail = rest.join("/");
  try {
    detail = decodeURIComponent(detail);
  } catch {
    detail = "";
  }
  return { screen: known ? screen : "ask", detail: known ? detail : "" };
}

function App() {
  const [key, setKey] = useState(session.key());
  const [me, setMe] = useState(null);
  const [problem, setProblem] = useState(null);
  const [route, setRoute] = useState(routeOf(location.hash));
  const [shown, setShown] = useState(null);

  useEffect(() => session.onChange(() => setKey(session.key())), []);
  useEffect(() => {
    const changed = () => {
      session.takeKeyFromAddress();
      setRoute(routeOf(location.hash));
    };
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);

  const identify = useCallback(() => {
    setMe(null);
    // Without a key the last problem stays: the panel tells why the key before was refused.
    if (!key) return;
    setProblem(null);
    call("GET", "api/me").then(setMe, setProblem);
  }, [key]);
  useEffect(identify, [identify]);

  if (!key) return html`<${SignIn} problem=${problem} />`;
  if (!me && problem) return html`<main class="center"><${ProblemNote} problem=${problem} again=${identify} /></main>`;
  if (!me) return html`<main class="center quiet" aria-busy="true">Connecting …</main>`;
  return html`
    <${Header} me=${me} screen=${route.screen} />
    <main>
      <div hidden=${route.screen !== "ask"}><${Ask} open=${route.screen === "ask"} show=${setShown} /></div>
      ${route.screen === "documents" && html`<${Documents} chosen=${route.detail} show=${setShown} />`}
      ${route.screen === "jobs" && html`<${Jobs} opened=${route.detail} />`}
    </main>
    ${shown && html`<${Viewer} target=${shown} onClose=${() => setShown(null)} />`}
  `;
}

const Header = ({ me, screen }) => html`
  <header class="top">
    <a class="brand" href="#/ask"><${Mark} />Groundwork</a>
    <nav aria-label="Screens">
      ${SCREENS.map(
        ([name, label]) => html`
          <a href=${`#/${name}`} aria-current=${name === screen ? "page" : undefined}><${Icon} name=${name} />${label}</a>
        `,
      )}
    </nav>
    <div class="who">
      <span title=${`Roles: ${me.roles.join(", ")}`}>${me.user}<span class="tenant"> · ${me.tenant}</span></span>
      <button class="plain" onClick=${session.signOut} title="Sign out"><${Icon} name="out" /><span class="for-reader">Sign out</span></button>
    </div>
  </header>
`;

const Mark = () => html`
  <svg class="mark" viewBox="0 0 32 32" aria-hidden="true">
    <rect width="32" height="32" rx="7" />
    <path d="M7 22.5h18M7 17h12M7 11.5h15" />
    <circle cx="24" cy="17" r="2.2" />
  </svg>
`;

function SignIn({ problem }) {
  const [value, setValue] = useState("");
  const submit = (event) => {
    event.preventDefault();
    if (value.trim()) session.signIn(value);
  };
  return html`
    <main class="sign-in">
      <form class="card" onSubmit=${submit}>
        <h1><${Mark} />Groundwork</h1>
        <p>Ask your documents, and see where each answer comes from.</p>
        ${problem?.status === 401 && html`<div class="note bad" role="alert"><${Icon} name="warning" /><div><p>This key is not valid, or it has expired.</p></div></div>`}
        <label for="key">API key</label>
        <input
          id="key"
          type="password"
          autocomplete="off"
          spellcheck=${false}
          placeholder="gw_…"
          autofocus
          value=${value}
          onInput=${(event) => setValue(event.target.value)}
        />
        <button class="primary" disabled=${!value.trim()}>Sign in</button>
        <p class="fine">The key stays in this tab and is forgotten when you close it.</p>
      </form>
    </main>
  `;
}

session.takeKeyFromAddress();
render(html`<${App} />`, document.getElementById("app"));
