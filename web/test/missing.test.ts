// Which baskets are asked for since their updates do not say everything.

import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { Basket, ListedBasket } from '../src/api/types';
import { watchMissing } from '../src/live/missing';
import { BasketStore } from '../src/live/store';
import { basket, session, update } from './made';

let stop = () => {};

beforeEach(() => {
  vi.useFakeTimers({ now: Date.parse('2026-03-01T10:00:00Z') });
});
afterEach(() => {
  stop();
  vi.useRealTimers();
});

function begin(answer: (session: string) => Partial<Basket> = () => ({}), heldUp: () => number[] = () => []) {
  const store = new BasketStore({ now: Date.now, schedule: (flush) => flush() });
  const asked: string[] = [];
  stop = watchMissing(store, (id) => {
    asked.push(id);
    return Promise.resolve().then(() => basket(0, { session_id: id, version: store.row(id)?.version ?? 1, ...answer(id) }));
  }, () => Promise.resolve({ baskets: heldUp().map((number) => ({ session_id: session(number) }) as ListedBasket), next: null }));
  /** The first two actions of a visit, between which `numbers` are left out. */
  const gapOf = (number: number, numbers = 1) => {
    store.update(update(number, 1, { action_id: 1 }));
    store.update(update(number, 2, { action_id: 2 + numbers }));
  };
  return { store, asked, gapOf };
}

describe('what updates do not say', () => {
  it('is asked for after a gap, and by then, however much goes on', async () => {
    const { store, asked, gapOf } = begin(() => ({ missing: [2] }));
    gapOf(1);
    for (let version = 3; version < 7; version += 1) {
      await vi.advanceTimersByTimeAsync(500);
      store.update(update(1, version, { action_id: version + 1 }));
    }
    expect(asked).toEqual([session(1)]);
    expect(store.row(session(1))?.missing).toBe(1);
  });

  it('is not missing where only the newest of several updates was told', async () => {
    const { store, asked } = begin();
    store.update(update(1, 1, { action_id: 1 }));
    store.update(update(1, 6, { action_id: 6 }));
    store.update(update(1, 7, { action_id: 7 }));
    await vi.advanceTimersByTimeAsync(5_000);
    expect(asked).toEqual([]);
  });

  it('is asked for once where it is not known which action came last', async () => {
    const { store, asked } = begin(() => ({ missing: [20] }));
    store.snapshot([basket(1, { version: 20 })], true, true);
    for (let version = 21; version < 24; version += 1) {
      store.update(update(1, version, { action_id: version }));
      if (version === 21) expect(store.row(session(1))?.missing).toBe(0);
      await vi.advanceTimersByTimeAsync(500);
    }
    await vi.advanceTimersByTimeAsync(5_000);
    expect(asked).toEqual([session(1)]);
    expect(store.row(session(1))?.missing).toBe(1);
  });

  it('is asked for again after a look-up that failed', async () => {
    let fails = true;
    const { store, asked, gapOf } = begin(() => {
      if (fails) throw new Error('away');
      return { missing: [2] };
    });
    gapOf(1);
    await vi.advanceTimersByTimeAsync(2_500);
    expect(store.row(session(1))?.missing).toBe(0);
    fails = false;
    await vi.advanceTimersByTimeAsync(10_000);
    expect(asked).toEqual([session(1), session(1)]);
    expect(store.row(session(1))?.missing).toBe(1);
  });

  it('is whether a basket is held up, with the next thing that happens to it', async () => {
    const { store, asked } = begin(() => ({ parked_since: null }));
    for (const number of [1, 2]) store.update(update(number, 1));
    store.basket(basket(1, { parked_since: 100 }));
    expect(store.row(session(1))?.parked).toBe(true);
    store.update(update(1, 2));
    store.update(update(2, 2));
    await vi.advanceTimersByTimeAsync(2_500);
    expect(asked).toEqual([session(1)]);
    expect(store.row(session(1))?.parked).toBe(false);
  });

  it('is whether a basket is held up, or no more, also where nothing happens to it', async () => {
    let held = [1, 3];
    const { store } = begin((id) => ({ parked_since: held.some((number) => session(number) === id) ? 100 : null }), () => held);
    store.signals({ connection: 'open' });
    store.snapshot([basket(1), basket(2)], true, true);
    const parked = () => [1, 2, 3].map((number) => store.row(session(number))?.parked);
    await vi.advanceTimersByTimeAsync(12_000);
    // One that began with what could not be applied has no update at all.
    expect(parked()).toEqual([true, false, true]);
    held = [3];
    await vi.advanceTimersByTimeAsync(12_000);
    expect(parked()).toEqual([false, false, true]);
  });

  it('is asked for less often in an app that does not number its actions in order, but not never again', async () => {
    const { asked, gapOf } = begin();
    for (let number = 1; number <= 12; number += 1) {
      gapOf(number);
      await vi.advanceTimersByTimeAsync(2_500);
    }
    const before = asked.length;
    expect(before).toBeLessThan(12);
    await vi.advanceTimersByTimeAsync(61_000);
    gapOf(20);
    await vi.advanceTimersByTimeAsync(2_500);
    expect(asked.length).toBe(before + 1);
  });
});
