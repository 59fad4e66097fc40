// An update does not say which actions are missing, only a basket does. Where the number of an action does not follow the one before,
// the basket is asked for, a moment later, since a late action is mostly on its way.

import type { Basket, Update } from '../api/types';
import type { Row } from './row';
import type { BasketStore } from './store';

const WAIT_MS = 1_500;
/** Most baskets that are asked for at a time. */
const AT_ONCE = 2;
/** Gaps that were none until this app's actions are taken for not numbered in order. */
const GAPS_IN_VAIN = 8;

export function watchMissing(store: BasketStore, ask: (session: string) => Promise<Basket>): () => void {
  const waiting = new Map<string, number>();
  let asking = 0;
  let inVain = 0;

  const stopListening = store.onUpdate((update: Update, before: Row | undefined) => {
    if (update.action_id === 0 || update.basket.status !== 'open' || inVain >= GAPS_IN_VAIN) return;
    const gap = before !== undefined && before.lastActionId !== 0 && update.action_id > before.lastActionId + 1;
    if (gap || (before?.missing ?? 0) > 0) waiting.set(update.session_id, Date.now() + WAIT_MS);
  });
  const timer = setInterval(() => {
    const now = Date.now();
    for (const [session, at] of waiting) {
      if (asking >= AT_ONCE) return;
      if (at > now) continue;
      waiting.delete(session);
      if (store.row(session) === undefined) continue;
      asking += 1;
      ask(session)
        .then((basket) => {
          inVain = basket.missing.length > 0 || (store.row(session)?.late ?? 0) > 0 ? 0 : inVain + 1;
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
