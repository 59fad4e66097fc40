// What a person prefers, kept in this browser. No token and nothing about a shop is among it.

export interface Preferences {
  theme: 'system' | 'light' | 'dark';
  language: 'system' | 'en' | 'de';
  sound: boolean;
  /** Whether single characters do something by themselves. */
  keys: boolean;
}

const KEY = 'ezout.preferences';
const DEFAULT: Preferences = { theme: 'system', language: 'system', sound: false, keys: true };

let current: Preferences = read();
const listeners = new Set<() => void>();

function read(): Preferences {
  try {
    const stored = JSON.parse(localStorage.getItem(KEY) ?? '{}') as Partial<Preferences>;
    return {
      theme: stored.theme === 'light' || stored.theme === 'dark' ? stored.theme : DEFAULT.theme,
      language: stored.language === 'en' || stored.language === 'de' ? stored.language : DEFAULT.language,
      sound: stored.sound === true,
      keys: stored.keys !== false,
    };
  } catch {
    return DEFAULT;
  }
}

export function preferences(): Preferences {
  return current;
}

export function prefer(change: Partial<Preferences>): void {
  current = { ...current, ...change };
  try {
    localStorage.setItem(KEY, JSON.stringify(current));
  } catch {
    // A browser that keeps nothing: it holds until the page is closed.
  }
  applyTheme();
  for (const listener of listeners) listener();
}

export function onPreferences(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export function applyTheme(): void {
  const root = document.documentElement;
  if (current.theme === 'system') delete root.dataset.theme;
  else root.dataset.theme = current.theme;
}
