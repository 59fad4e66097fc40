import { describe, expect, it } from 'vitest';
import { LINGER_MS, BasketStore } from '../src/live/store';
import { difference } from '../src/live/row';
import { basket, session, update } from './made';

/** A store whose frames come when the test says so. */
function made() {
  let waiting: (() => void)[] = [];
  let now = 1_000_000;
  const store = new BasketStore({ now: () => now, schedule: (flush) => waiting.push(flush) });
  return {
    store,
    frame: () => {
      const due = waiting;
      waiting = [];
      for (const flush of due) flush();
      return due.length;
    },
    pass: (ms: number) => {
      now += ms;
    },
  };
}

describe('the store of baskets', () => {
  it('takes a snapshot page by page and forgets what is not in it', () => {
    const { store } = made();
    store.snapshot([basket(1), basket(2)], true, true);
    store.snapshot([basket(2)], true, false);
    expect(store.row(session(1))).toBeDefined();
    store.snapshot([basket(3)], false, true);
    expect([...store.all()].map((row) => row.session).sort()).toEqual([session(2), session(3)]);
    expect(store.signalled.loaded).toBe(true);
  });

  it('is told what happened also where the basket as a whole came first, and once', () => {
    const { store } = made();
    store.snapshot([basket(1, { version: 4 })], true, true);
    let heard = 0;
    store.onUpdate(() => (heard += 1));
    store.basket(basket(1, { version: 5, total: 9 }));
    for (let time = 0; time < 2; time += 1) store.update(update(1, 5, { product_name: 'Figs' }, { total: 9 }));
    expect(store.row(session(1))?.lastProduct).toBe('Figs');
    expect(heard).toBe(1);
    // What the snapshot has, it has whole.
    store.snapshot([basket(1, { version: 6 })], true, true);
    store.update(update(1, 6, { product_name: 'Dates' }));
    expect(heard).toBe(1);
  });

  it('names no product for an action of which only the basket is known', () => {
    const { store } = made();
    const named = () => [store.row(session(1))?.lastAction, store.row(session(1))?.lastProduct];
    // The last line is not what the last action was about.
    store.snapshot([basket(1, { version: 4, last_action: 'REMOVE' })], true, true);
    expect(named()).toEqual(['REMOVE', null]);
    store.update(update(1, 5, { product_name: 'Figs' }));
    store.basket(basket(1, { version: 5 }));
    expect(named()).toEqual(['ADD', 'Figs']);
    store.basket(basket(1, { version: 7, last_action: 'REMOVE' }));
    expect(named()).toEqual(['REMOVE', null]);
  });

  it('does not go back to an older basket of a snapshot page', () => {
    const { store } = made();
    store.snapshot([basket(1, { version: 4 })], true, true);
    store.update(update(1, 5, {}, { total: 9 }));
    store.snapshot([basket(1, { version: 4 })], true, true);
    expect(store.row(session(1))?.total).toBe(9);
  });

  it('counts an update once', () => {
    const { store } = made();
    const told: number[] = [];
    store.onUpdate((one) => told.push(one.basket.version));
    store.update(update(1, 1));
    store.update(update(1, 2));
    store.update(update(1, 2));
    store.update(update(1, 1));
    expect(told).toEqual([1, 2]);
    expect(store.row(session(1))?.version).toBe(2);
  });

  it('tells of a hundred changes of one basket once a frame, and only those who show it', () => {
    const { store, frame } = made();
    store.snapshot([basket(1), basket(2)], true, true);
    frame();
    const told = { first: 0, second: 0, all: 0 };
    store.onRow(session(1), () => (told.first += 1));
    store.onRow(session(2), () => (told.second += 1));
    store.onChange(() => (told.all += 1));
    for (let version = 2; version < 102; version += 1) store.update(update(1, version));
    expect(told).toEqual({ first: 0, second: 0, all: 0 });
    expect(frame()).toBe(1);
    expect(told).toEqual({ first: 1, second: 0, all: 1 });
    expect(frame()).toBe(0);
  });

  it('keeps the row of a basket that did not change', () => {
    const { store } = made();
    store.snapshot([basket(1), basket(2)], true, true);
    const before = store.row(session(2));
    store.update(update(1, 2));
    expect(store.row(session(2))).toBe(before);
  });

  it('shows a basket that ended a little longer, and then no more', () => {
    const { store, pass } = made();
    store.snapshot([basket(1)], true, true);
    store.update(update(1, 2, { action: 'CHECKOUT' }, { status: 'paid' }));
    store.sweep();
    expect(store.row(session(1))?.status).toBe('paid');
    pass(LINGER_MS + 1);
    store.sweep();
    expect(store.row(session(1))).toBeUndefined();
  });

  it('has a basket open again with the next action after it was abandoned', () => {
    const { store } = made();
    store.snapshot([basket(1)], true, true);
    store.update(update(1, 2, { action: 'ABANDONED', action_id: 0 }, { status: 'abandoned' }));
    expect(store.row(session(1))?.endedAt).not.toBeNull();
    store.update(update(1, 3));
    expect(store.row(session(1))?.endedAt).toBeNull();
  });

  it('counts what came late, and keeps the newest action as the last one', () => {
    const { store } = made();
    store.update(update(1, 1, { create_time: '2026-03-01 10:00:20.000000+00:00', product_name: 'Milk' }));
    store.update(update(1, 2, { create_time: '2026-03-01 10:00:10.000000+00:00', product_name: 'Bread' }));
    expect(store.row(session(1))).toMatchObject({ late: 1, lastProduct: 'Milk', version: 2 });
  });

  it('says who handles a basket, also one that comes later, and forgets who does not any more', () => {
    const { store } = made();
    const until = '2026-03-01T10:10:00Z';
    store.handlings([{ session_id: session(1), handled_by: 'Mia', handled_until: until }]);
    store.snapshot([basket(1)], true, true);
    expect(store.row(session(1))?.handledBy).toBe('Mia');
    store.update(update(1, 2));
    expect(store.row(session(1))?.handledBy).toBe('Mia');
    store.handlings([]);
    expect(store.row(session(1))?.handledBy).toBeNull();
  });

  it('tells of events of a session that is not on the board', () => {
    const { store, frame } = made();
    let touched = 0;
    store.onTouch(session(9), () => (touched += 1));
    store.update(update(9, 7, { correction: { id: 'c', author: 'Ada', reason: 'r', changes: [] }, action: 'CORRECTION', action_id: 0 }, { status: 'paid' }));
    frame();
    expect(touched).toBe(1);
    expect(store.row(session(9))).toBeUndefined();
  });

  it('keeps little of a name of ten thousand characters, and cuts no character in two', () => {
    const { store } = made();
    store.update(update(1, 1, { product_name: `${'x'.repeat(119)}🍎${'y'.repeat(10_000)}` }));
    const row = store.row(session(1));
    expect(row?.lastProduct).toBe(`${'x'.repeat(119)}…`);
    expect(row?.words.length).toBeLessThan(200);
  });

  it('says by how much the totals differ', () => {
    const { store } = made();
    store.update(update(1, 1, {}, { total: 15.26, claimed_total: 17.84, verdict: 'diverged' }));
    const row = store.row(session(1));
    expect(row === undefined ? null : difference(row)).toBe(2.58);
  });
});
