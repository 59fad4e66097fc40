// Keys that work on every screen. None of them while somebody writes.

import { useEffect, useRef } from 'react';

export function isWriting(target: EventTarget | null): boolean {
  return target instanceof HTMLElement && (target.isContentEditable || ['INPUT', 'TEXTAREA', 'SELECT'].includes(target.tagName));
}

export function useKeys(keys: Record<string, () => void>): void {
  const latest = useRef(keys);
  latest.current = keys;
  useEffect(() => {
    let prefix: { key: string; at: number } | null = null;
    const pressed = (event: KeyboardEvent) => {
      if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || isWriting(event.target)) return;
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
