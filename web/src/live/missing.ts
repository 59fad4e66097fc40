// An update does not say which actions are missing, only a basket does. Where the number of an action does not follow the one before,
// the basket is asked for, a moment later, since a late action is mostly on its way. So is one that was held up, and to which something
// happens again: an update does not say that it is not held up any more.

import type { Basket, Update } from '../api/types';
import type { Row } from './row';
import type { BasketStore } from './store';

const WAIT_MS = 1_500;
/** Most baskets that are asked for at a time. */
const AT_ONCE = 2;
/** Gaps that were none until this app's actions are taken for not numbered in order, and how long it takes until one is forgotten. */
const GAPS_IN_VAIN = 8;
const FORGET_MS = 60_000;

export function watchMissing(store: BasketStore, ask: (session: string) => Promise<Basket>): () => void {
  const waiting = new Map<string, { at: number; isOfGap: boolean }>();
  let asking = 0;
  let inVain = 0;
  let forgottenAt = Date.now();

  const stopListening = store.onUpdate((update: Update, before: Row | undefined) => {
    if (before === undefined || update.basket.status !== 'open') return;
    // Between versions that do not follow each other there are actions of which only the last one is told.
    const follows = update.basket.version === before.version + 1;
    const gap = follows && update.action_id !== 0 && before.lastActionId !== 0 && update.action_id > before.lastActionId + 1 && inVain < GAPS_IN_VAIN;
    if (!gap && before.missing === 0 && !before.parked) return;
    // One that waits already is not put off by what goes on happening to it.
    if (!waiting.has(update.session_id)) waiting.set(update.session_id, { at: Date.now() + WAIT_MS, isOfGap: gap });
  });
  const timer = setInterval(() => {
    const now = Date.now();
    if (now - forgottenAt > FORGET_MS) {
      forgottenAt = now;
      inVain = Math.max(0, inVain - 1);
    }
    for (const [session, { at, isOfGap }] of waiting) {
      if (asking >= AT_ONCE) return;
      if (at > now) continue;
      waiting.delete(session);
      if (store.row(session) === undefined) continue;
      asking += 1;
      ask(session)
        .then((basket) => {
          if (basket.missing.length > 0 || (store.row(session)?.late ?? 0) > 0) inVain = 0;
          else if (isOfGap) inVain += 1;
          store.basket(basket);
        })
        .catch(() => {})
        .finally(() => {
          asking -= 1;
        });
    }
  }, 500);
  return () => {
    stopListening();
    clearInterval(timer);
  };
}
