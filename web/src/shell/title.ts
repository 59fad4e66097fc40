// What the page is called in its tab: the screen first, since that is what tells tabs apart.

import { useEffect } from 'react';
import { useTexts } from './use';

/** The name of a screen, and where it is. */
export function titleOf(...parts: (string | null)[]): string {
  return parts.filter((part) => part !== null && part !== '').join(' – ');
}

/** Names the page after a screen for as long as that is shown. */
export function useTitle(screen: string): void {
  const texts = useTexts();
  useEffect(() => {
    document.title = titleOf(screen, texts.appName);
    return () => {
      document.title = texts.appName;
    };
  }, [screen, texts.appName]);
}
