// Short notices that go away by themselves, and what is only said to screen readers.

import { createContext, type ReactNode, useCallback, useContext, useEffect, useMemo, useRef, useState } from 'react';
import { Icon } from '../look/icon';
import { useAuthState, useTexts } from './use';

interface Notice {
  id: number;
  text: string;
  kind: 'good' | 'bad';
  /** What it is about, by which it can be taken back. */
  about?: string;
  action?: { label: string; run: () => void };
}

interface Notices {
  notify: (text: string, more?: { kind?: Notice['kind']; about?: string; action?: Notice['action'] }) => void;
  /** Takes away the notices about something. */
  retract: (about: string) => void;
  /** Says something to screen readers, politely. */
  announce: (text: string) => void;
}

const Context = createContext<Notices>({ notify: () => {}, retract: () => {}, announce: () => {} });
const SHOWN_MS = 7_000;

export function useNotices(): Notices {
  return useContext(Context);
}

export function NoticesProvider({ children }: { children: ReactNode }) {
  const texts = useTexts();
  const [shown, setShown] = useState<Notice[]>([]);
  const [said, setSaid] = useState('');
  const { stage } = useAuthState();
  useEffect(() => {
    // What one person was told, and could undo, is nothing for the next.
    if (stage === 'signed_out') setShown([]);
  }, [stage]);
  const next = useRef(1);
  const remove = useCallback((id: number) => setShown((before) => before.filter((one) => one.id !== id)), []);
  const value = useMemo<Notices>(
    () => ({
      notify: (text, more = {}) => {
        const id = next.current++;
        setShown((before) => [...before.slice(-2), { id, text, kind: more.kind ?? 'good', about: more.about, action: more.action }]);
        setTimeout(() => remove(id), more.action === undefined ? SHOWN_MS : SHOWN_MS * 2);
      },
      retract: (about) => setShown((before) => (before.some((one) => one.about === about) ? before.filter((one) => one.about !== about) : before)),
      announce: setSaid,
    }),
    [remove],
  );
  return (
    <Context.Provider value={value}>
      {children}
      <div className="notices" role="status">
        {shown.map((one) => (
          <div key={one.id} className={`notice ${one.kind}`}>
            <Icon name={one.kind === 'good' ? 'check' : 'alert'} />
            <span>{one.text}</span>
            {one.action === undefined ? null : (
              <button
                type="button"
                className="button small"
                onClick={() => {
                  one.action?.run();
                  remove(one.id);
                }}
              >
                {one.action.label}
              </button>
            )}
            <button type="button" className="button quiet icon-only small" aria-label={texts.close} onClick={() => remove(one.id)}>
              <Icon name="close" />
            </button>
          </div>
        ))}
      </div>
      <div className="unseen" role="log" aria-live="polite">
        {said}
      </div>
    </Context.Provider>
  );
}
