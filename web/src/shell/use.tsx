// What the parts of the page have in common: the texts, who is signed in, the clock, and notices.

import { createContext, type ReactNode, useCallback, useContext, useEffect, useMemo, useState, useSyncExternalStore } from 'react';
import type { Client } from '../api/client';
import { serverNow } from '../api/clock';
import { Problem, Unreachable } from '../api/problem';
import type { Me, Verb } from '../api/types';
import { onPreferences, type Preferences, preferences } from '../look/preferences';
import type { Auth, AuthState } from '../signin/auth';
import type { Texts } from '../texts/en';
import { type Spoken, spoken } from '../texts/texts';

const SpokenContext = createContext<Spoken>(null as unknown as Spoken);
const AuthContext = createContext<Auth>(null as unknown as Auth);

export function usePreferences(): Preferences {
  return useSyncExternalStore(onPreferences, preferences);
}

export function SpokenProvider({ children }: { children: ReactNode }) {
  const { language } = usePreferences();
  const value = useMemo(() => spoken(language), [language]);
  useEffect(() => {
    document.documentElement.lang = value.language;
  }, [value]);
  return <SpokenContext.Provider value={value}>{children}</SpokenContext.Provider>;
}

export function useSpoken(): Spoken {
  return useContext(SpokenContext);
}

export function useTexts(): Texts {
  return useContext(SpokenContext).texts;
}

export const AuthProvider = AuthContext.Provider;

export function useAuth(): Auth {
  return useContext(AuthContext);
}

export function useAuthState(): AuthState {
  const auth = useAuth();
  return useSyncExternalStore(
    useCallback((listener) => auth.listen(listener), [auth]),
    () => auth.state,
  );
}

/** Who is signed in; only below a page that needs it. */
export function useMe(): Me {
  const state = useAuthState();
  // While one is signed out these parts are about to go.
  const [last, setLast] = useState<Me | null>(state.stage === 'signed_in' ? state.me : null);
  const me = state.stage === 'signed_in' ? state.me : last;
  useEffect(() => {
    if (state.stage === 'signed_in') setLast(state.me);
  }, [state]);
  if (me === null) throw new Error('nobody is signed in');
  return me;
}

export function useMay(verb: Verb): boolean {
  const me = useMe();
  // How the whole system runs is for those who look after all shops.
  return me.verbs.includes(verb) && (me.all_shops || (verb !== 'inspect' && verb !== 'operate'));
}

export function useClient(): Client {
  return useAuth().client;
}

// One clock for all ages on the page, so that a hundred rows have one timer.
const tickers = new Set<() => void>();
let ticked = serverNow();
let timer: ReturnType<typeof setInterval> | null = null;

function onTick(listener: () => void): () => void {
  tickers.add(listener);
  if (timer === null) {
    ticked = serverNow();
    timer = setInterval(() => {
      ticked = serverNow();
      for (const one of tickers) one();
    }, 1000);
  }
  return () => {
    tickers.delete(listener);
    if (tickers.size === 0 && timer !== null) {
      clearInterval(timer);
      timer = null;
    }
  };
}

/** The service's time, each second anew. */
export function useNow(): number {
  return useSyncExternalStore(onTick, () => ticked);
}

export function useMedia(query: string): boolean {
  const subscribe = useCallback(
    (listener: () => void) => {
      const media = matchMedia(query);
      media.addEventListener('change', listener);
      return () => media.removeEventListener('change', listener);
    },
    [query],
  );
  return useSyncExternalStore(subscribe, () => matchMedia(query).matches);
}

/** What to tell a person about an error, in their language. */
export function tell(error: unknown, texts: Texts): string {
  if (error instanceof Unreachable) return texts.problems.unreachable;
  if (error instanceof Problem) {
    const known = texts.correct.problems[error.code];
    if (known !== undefined) return known;
    if (error.status === 429) return texts.problems.tooMany;
    if (error.status === 503 || error.status === 504) return texts.problems.unavailable;
    if (error.status === 403) return texts.problems.forbidden;
    if (error.status === 404) return texts.problems.notFound;
    // What the service says in words is English; where the page has a text of its own for it, that is told.
    const details = error.body.errors?.map((one) => texts.correct.problems[one.code] ?? one.detail).join('; ');
    return `${texts.problems.other} ${details ?? error.body.detail ?? ''}`.trim();
  }
  return texts.problems.other;
}

export function shortOf(session: string): string {
  return session.slice(-6).toUpperCase();
}

/** A name as others are shown it. */
export function nameOf(me: Me, claimed: string | undefined): string | null {
  return claimed ?? (me.subject?.includes('@') ? me.subject : null);
}
