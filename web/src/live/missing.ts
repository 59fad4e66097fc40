// An update does not say which actions are missing, only a basket does. Where the number of an action does not follow the one before,
// the basket is asked for, a moment later, since a late action is mostly on its way. So is one of which it is not known which action came
// last, once, and one that was held up, and to which something
// happens again: an update does not say that it is not held up any more. Nor does any say that one is: the few that are held up are asked
// for now and then.

import type { Basket, BasketPage, Update } from '../api/types';
import type { Row } from './row';
import type { BasketStore } from './store';

const WAIT_MS = 1_500;
/** How long a look-up that failed waits at most until it is made again. */
const WAIT_AGAIN_MS_MAX = 60_000;
/** How often the baskets that are held up are asked for. */
const HELD_UP_EVERY_MS = 10_000;
/** Most baskets that are asked for at a time. */
const AT_ONCE = 2;
/** Gaps that were none until this app's actions are taken for not numbered in order, and how long it takes until one is forgotten. */
const GAPS_IN_VAIN = 8;
const FORGET_MS = 60_000;

export function watchMissing(store: BasketStore, ask: (session: string) => Promise<Basket>, heldUp: () => Promise<Pick<BasketPage, 'baskets' | 'next'>>): () => void {
  const waiting = new Map<string, { at: number; isOfGap: boolean; isNew?: boolean; failures: number }>();
  let asking = 0;
  let inVain = 0;
  let forgottenAt = Date.now();

  const stopListening = store.onUpdate((update: Update, before: Row | undefined) => {
    if (before === undefined || update.basket.status !== 'open') return;
    // Between versions that do not follow each other there are actions of which only the last one is told.
    const follows = update.basket.version === before.version + 1;
    const gap = follows && update.action_id !== 0 && before.lastActionId !== 0 && update.action_id > before.lastActionId + 1 && inVain < GAPS_IN_VAIN;
    // A basket as a whole does not say which of its actions was the last.
    const isUnknown = update.action_id !== 0 && before.lastActionId === 0;
    if (!gap && !isUnknown && before.missing === 0 && !before.parked) return;
    // One that waits already is not put off by what goes on happening to it.
    if (!waiting.has(update.session_id)) waiting.set(update.session_id, { at: Date.now() + WAIT_MS, isOfGap: gap, failures: 0 });
  });
  const timer = setInterval(() => {
    const now = Date.now();
    if (now - forgottenAt > FORGET_MS) {
      forgottenAt = now;
      inVain = Math.max(0, inVain - 1);
    }
    for (const [session, { at, isOfGap, isNew, failures }] of waiting) {
      if (asking >= AT_ONCE) return;
      if (at > now) continue;
      waiting.delete(session);
      if (store.row(session) === undefined && !isNew) continue;
      asking += 1;
      ask(session)
        .then((basket) => {
          if (basket.missing.length > 0 || (store.row(session)?.late ?? 0) > 0) inVain = 0;
          else if (isOfGap) inVain += 1;
          store.basket(basket);
        })
        .catch(() => {
          // It is still not known; what happened meanwhile may be waiting already.
          const pause = Math.min(WAIT_AGAIN_MS_MAX, WAIT_MS * 2 ** (failures + 1));
          if (!waiting.has(session)) waiting.set(session, { at: Date.now() + pause, isOfGap, isNew, failures: failures + 1 });
        })
        .finally(() => {
          asking -= 1;
        });
    }
  }, 500);
  const look = async () => {
    if (store.signalled.connection !== 'open' || !store.signalled.loaded) return;
    const { baskets, next } = await heldUp();
    const held = new Set(baskets.map((one) => one.session_id));
    const turn = (session: string, isNew: boolean) => {
      if (!waiting.has(session)) waiting.set(session, { at: 0, isOfGap: false, isNew, failures: 0 });
    };
    for (const session of held) if (store.row(session)?.parked !== true) turn(session, true);
    // Where there are more than were told, one that was not told may be among them.
    if (next === null) for (const row of store.all()) if (row.parked && row.endedAt === null && !held.has(row.session)) turn(row.session, false);
  };
  // What cannot be asked now is asked the next time.
  const looking = setInterval(() => void look().catch(() => {}), HELD_UP_EVERY_MS);
  return () => {
    stopListening();
    clearInterval(timer);
    clearInterval(looking);
  };
}
