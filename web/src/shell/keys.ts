// Keys that work on every screen. None of them where the focus is on something that has keys of its own.

import { useEffect, useRef } from 'react';
import { preferences } from '../look/preferences';

/** What takes keys itself, so that none of ours may come between: Space works a button, arrows choose in a list. */
const HAS_KEYS = 'a, button, summary, select, input, textarea, [role=button], [role=menuitem], [role=slider]';
/** Of these only what is written in takes Escape. */
const IS_WRITTEN_IN = 'select, input, textarea';

/** What is scrolled by keys once it has the focus. */
const IS_SCROLLED = '[tabindex="0"]:is([role=group], [role=region], pre)';
const SCROLLS = new Set([' ', 'ArrowUp', 'ArrowDown', 'ArrowLeft', 'ArrowRight', 'Home', 'End', 'PageUp', 'PageDown']);

/** Whether a key is a character, which may also come from somebody who speaks to their device. Space only ever is a button. */
function isCharacter(key: string): boolean {
  return key.length === 1 && key !== ' ';
}

function isTaken(event: KeyboardEvent): boolean {
  const { target } = event;
  if (!(target instanceof HTMLElement)) return false;
  if (SCROLLS.has(event.key) && target.closest(IS_SCROLLED) !== null) return true;
  return target.isContentEditable || target.closest(event.key === 'Escape' ? IS_WRITTEN_IN : HAS_KEYS) !== null;
}

export function useKeys(keys: Record<string, () => void>): void {
  const latest = useRef(keys);
  latest.current = keys;
  useEffect(() => {
    let prefix: { key: string; at: number } | null = null;
    const pressed = (event: KeyboardEvent) => {
      if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || isTaken(event)) return;
      if (isCharacter(event.key) && !preferences().keys) return;
      // An open dialog or menu has its own keys.
      if (document.querySelector('[role=dialog], [role=alertdialog], [role=menu]') !== null) return;
      const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
      const both = prefix !== null && Date.now() - prefix.at < 1500 ? `${prefix.key} ${key}` : null;
      prefix = { key, at: Date.now() };
      const run = (both === null ? undefined : latest.current[both]) ?? latest.current[key];
      if (run === undefined) return;
      event.preventDefault();
      run();
    };
    document.addEventListener('keydown', pressed);
    return () => document.removeEventListener('keydown', pressed);
  }, []);
}
