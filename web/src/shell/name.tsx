// Under which name somebody handles and corrects baskets: that of the sign-in, or one that is asked for once.

import { createContext, type ReactNode, useCallback, useContext, useMemo, useRef, useState } from 'react';
import { claimsOf } from '../signin/token';
import { Dialog } from './dialog';
import { giveName, nameGiven } from './left';
import { nameOf, useAuth, useMe, useTexts } from './use';

interface Named {
  name: string | null;
  /** The name, after asking for it where it is not known; null if the person would rather not say. */
  ask: (anew?: boolean) => Promise<string | null>;
}

const Context = createContext<Named>({ name: null, ask: () => Promise.resolve(null) });
/** Longest name in bytes that the service takes. */
const BYTES_MAX = 100;

export function useName(): Named {
  return useContext(Context);
}

export function NameProvider({ children }: { children: ReactNode }) {
  const texts = useTexts();
  const auth = useAuth();
  const me = useMe();
  const signedIn = nameOf(me, claimsOf(auth.token() ?? '').name ?? auth.chosenName ?? undefined);
  const [said, setSaid] = useState<string | null>(() => nameGiven(me.subject));
  const [asking, setAsking] = useState(false);
  /** All who have asked: a second one while the dialog is open has the same answer. */
  const waiting = useRef<((name: string | null) => void)[]>([]);
  const name = said ?? signedIn;

  const answer = useCallback(
    (given: string | null) => {
      if (given !== null) {
        giveName(me.subject, given);
        setSaid(given);
      }
      setAsking(false);
      const asked = waiting.current;
      waiting.current = [];
      for (const one of asked) one(given);
    },
    [me.subject],
  );
  const value = useMemo<Named>(
    () => ({
      name,
      ask: (anew = false) => {
        if (name !== null && !anew) return Promise.resolve(name);
        setAsking(true);
        return new Promise((resolve) => {
          waiting.current.push(resolve);
        });
      },
    }),
    [name],
  );
  return (
    <Context.Provider value={value}>
      {children}
      <Dialog open={asking} onClose={() => answer(null)} title={texts.name.title}>
        <form
          onSubmit={(event) => {
            event.preventDefault();
            event.stopPropagation();
            const given = String(new FormData(event.currentTarget).get('name')).trim();
            if (given !== '' && new TextEncoder().encode(given).length <= BYTES_MAX) answer(given);
          }}
        >
          <p>{texts.name.text}</p>
          <label className="field">
            <span>{texts.name.label}</span>
            <input name="name" required maxLength={60} defaultValue={name ?? me.subject ?? ''} autoComplete="name" autoFocus />
          </label>
          <div className="dialog-foot">
            <button type="submit" className="button primary">
              {texts.name.save}
            </button>
          </div>
        </form>
      </Dialog>
    </Context.Provider>
  );
}
