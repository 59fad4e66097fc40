// A basket that needs somebody asks for attention: the number in the title of the page, words for a screen reader, and a sound where it
// is switched on. Each basket asks once for each thing, not as long as it lasts.

import { useEffect, useRef } from 'react';
import { useLocation } from 'wouter';
import { serverNow } from '../api/clock';
import { preferences } from '../look/preferences';
import { useNotices } from '../shell/notices';
import { useShop } from '../shell/shop';
import { titleOf } from '../shell/title';
import { shortOf, useTexts } from '../shell/use';
import type { Texts } from '../texts/en';
import { isHandled, type Need, needsOf } from './ordering';
import { ring } from './sound';

const LOOK_EVERY_MS = 1_000;
/** So long a row that has begun to need somebody stands out more than the others that do. */
export const FRESH_MS = 8_000;

const begun = new Map<string, number>();

/** Whether it has only just begun to need somebody. */
export function hasJustBegun(session: string, now: number): boolean {
  const at = begun.get(session);
  return at !== undefined && now - at < FRESH_MS;
}

/** What a screen of a shop is called, by its address below the shop's. */
export function screenOf(path: string, texts: Texts): string {
  const session = /^\/baskets\/([^/]+)/.exec(path)?.[1];
  if (session !== undefined) return texts.basket.title(`#${shortOf(session)}`);
  return path.startsWith('/history') ? texts.history.title : texts.board.title;
}

export function useAttention(): void {
  const texts = useTexts();
  const { store, shop } = useShop();
  const { announce } = useNotices();
  const [path] = useLocation();
  const known = useRef<Map<string, Set<Need>> | null>(null);
  useEffect(() => {
    known.current = null;
    begun.clear();
  }, [store]);
  useEffect(() => {
    const board = `/shops/${shop.shop_id}`;
    const rest = titleOf(screenOf(path.slice(board.length), texts), shop.name, texts.appName);
    const look = () => {
      const now = serverNow();
      // The board does it by itself, and not under a finger.
      if (path !== board) store.sweep();
      const before = known.current;
      const seen = new Map<string, Set<Need>>();
      let waiting = 0;
      const news: string[] = [];
      for (const row of store.all()) {
        const needs = needsOf(row, now);
        if (needs.length === 0) continue;
        seen.set(row.session, new Set(needs));
        if (isHandled(row, now)) continue;
        waiting += 1;
        const fresh = needs.find((need) => !before?.get(row.session)?.has(need));
        if (before === null || fresh === undefined) continue;
        begun.set(row.session, now);
        const why = {
          parked: texts.board.parked,
          diverged: texts.verdict.diverged ?? '',
          findings: texts.board.findings(row.findings),
          missing: texts.board.missing(row.missing),
          untouched: texts.board.untouched(texts.age((now - row.touchedAt) / 1000)),
        }[fresh];
        news.push(texts.board.attention(shortOf(row.session), why));
      }
      for (const session of begun.keys()) if (!hasJustBegun(session, now)) begun.delete(session);
      if (store.signalled.loaded) known.current = seen;
      document.title = texts.board.titleCount(waiting, rest);
      if (news.length > 0) {
        announce(news.length > 3 ? texts.board.needs(waiting) : news.join('. '));
        if (preferences().sound) ring();
      }
    };
    look();
    const timer = setInterval(look, LOOK_EVERY_MS);
    return () => {
      clearInterval(timer);
      document.title = texts.appName;
    };
  }, [store, shop.name, shop.shop_id, texts, announce, path]);
}
