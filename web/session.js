// The API key of this tab: from the address's fragment at first, then only in the tab's own storage.

const STORED = "groundwork.key";
const listeners = new Set();

/** Take a key out of `#key=…` and remove it from the address bar and the history entry. */
export function takeKeyFromAddress() {
  const given = /^#key=(.+)$/.exec(location.hash);
  if (!given) return;
  history.replaceState(null, "", `${location.pathname}${location.search}#/ask`);
  let key = given[1];
  try {
    key = decodeURIComponent(key);
  } catch {
    // Not percent-encoded after all: take it as it stands.
  }
  signIn(key);
}

export const key = () => sessionStorage.getItem(STORED) ?? "";

export function signIn(value) {
  sessionStorage.setItem(STORED, value.trim());
  for (const listener of listeners) listener();
}

export function signOut() {
  sessionStorage.removeItem(STORED);
  for (const listener of listeners) listener();
}

/** Call `listener` whenever the key has changed; the result ends that. */
export function onChange(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}
