import { describe, expect, it } from 'vitest';
import type { Basket, Changed, Explanation } from '../src/api/types';
import { differencesOf } from '../src/basket/moved';
import { indexAt, momentsOf, pauseAfter } from '../src/basket/moments';
import { newId } from '../src/api/ids';
import { stateOf } from '../src/basket/corrections';
import { Attempt } from '../src/basket/attempt';
import { totalAfter } from '../src/basket/preview';
import { formatsOf } from '../src/look/money';
import { de } from '../src/texts/de';
import { en } from '../src/texts/en';
import { basket } from './made';

const formats = formatsOf('en-GB', 'EUR', 'UTC');

describe('what a basket has moved on by', () => {
  const changed: Changed = {
    since: 3,
    events: 2,
    status: { from: 'open', to: 'paid' },
    total: { from: 2.5, to: 8.25 },
    lines: [
      { product_id: 500400, product_name: 'Milk', quantity: { from: 2, to: 1 }, amount: { from: 2.5, to: 1.25 } },
      { product_id: 500100, product_name: null, quantity: { from: 0, to: 2 }, amount: { from: 0, to: 7 } },
    ],
  };

  it('is shown with the largest change of money first, then total and status', () => {
    expect(differencesOf(changed, en, formats)).toEqual([
      { key: 'line 500100', what: 'Product 500100', from: '0× = €0.00', to: '2× = €7.00' },
      { key: 'line 500400', what: 'Milk', from: '2× = €2.50', to: '1× = €1.25' },
      { key: 'total', what: 'Total', from: '€2.50', to: '€8.25' },
      { key: 'status', what: 'Status', from: 'Open', to: 'Paid' },
    ]);
  });

  it('is nothing where lines, total and status are as they were', () => {
    expect(differencesOf({ since: 3, events: 1, status: null, total: null, lines: [] }, en, formats)).toEqual([]);
  });
});

describe('a correction', () => {
  const applied = { id: 'a', state: 'applied' as const, sequence: 7 };
  const listed = (counts: boolean) => [{ id: 'a', sequence: 7, counts }] as unknown as Basket['corrections'];
  it.each([
    ['in effect where the basket has it', 7, listed(true), 'applied'],
    ['undone where it counts no more', 9, listed(false), 'undone'],
    ['undone where the basket has gone on without it', 9, [], 'undone'],
    ['not undone only since the basket is from before it', 6, [], 'applied'],
  ] as const)('is %s', (_, sequence, corrections, state) => {
    expect(stateOf(applied, { sequence, corrections: [...corrections] })).toBe(state);
    expect(stateOf({ ...applied, state: 'rejected' }, { sequence, corrections: [...corrections] })).toBe('rejected');
  });
});

describe('the total after a correction', () => {
  const two = {
    ...basket(1),
    total: 11,
    lines: [{ product_id: 1, product_name: 'Milk', UPC: null, category_id: null, quantity: 4, amount: 11, prices: [{ price: 2, quantity: 2 }, { price: 3.5, quantity: 2 }] }],
  };
  it.each([
    [{ kind: 'quantity', product: 1, quantity: 3 }, 7.5],
    [{ kind: 'quantity', product: 1, quantity: 1 }, 2],
    [{ kind: 'quantity', product: 1, quantity: 5 }, 14.5],
    [{ kind: 'quantity', product: 1, quantity: 5, price: 1 }, 12],
    [{ kind: 'price', product: 1, price: 3 }, 12],
    [{ kind: 'remove', product: 1 }, 0],
    [{ kind: 'adjustment', by: -0.5 }, 10.5],
    [{ kind: 'remove', product: 2 }, null],
  ] as const)('%j makes it %s', (wish, total) => {
    expect(totalAfter(two, wish)).toBe(total);
  });

  it('is asked for under an id of its own, also where the browser makes none', () => {
    const { randomUUID } = crypto;
    try {
      Object.defineProperty(crypto, 'randomUUID', { value: undefined, configurable: true });
      const ids = new Set(Array.from({ length: 100 }, newId));
      expect(ids.size).toBe(100);
      for (const id of ids) expect(id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
    } finally {
      Object.defineProperty(crypto, 'randomUUID', { value: randomUUID, configurable: true });
    }
  });
});

describe('the moments of a visit', () => {
  const effect = { quantity: 1, price: 1, quantity_change: 1, amount_change: 1, why_not: null, findings: [] };
  const claim = { claimed: 1, total: 1, difference: 0, diverged: false };
  const explanation = {
    lines: [
      { product_id: 1, product_name: 'Milk', quantity: 2, amount: 2, because: [
        { ...effect, sequence: 5, action_id: 1, create_time: '2026-03-01T10:00:00Z', action: 'ADD' },
        { ...effect, sequence: 9, action_id: 3, create_time: '2026-03-01T10:00:30Z', action: 'ADD' },
      ] },
    ],
    claims: [
      { ...claim, sequence: 5, action_id: 1, create_time: '2026-03-01T10:00:00Z', action: 'ADD' },
      { ...claim, sequence: 9, action_id: 3, create_time: '2026-03-01T10:00:30Z', action: 'ADD', diverged: true },
      { ...claim, sequence: 12, action_id: 2, create_time: '2026-03-01T10:00:10Z', action: 'REMOVE', diverged: true },
    ],
    without_effect: [{ sequence: 7, action_id: 9, create_time: '2026-03-01T10:00:05Z', action: 'DANCE', product_id: null, quantity: 1, price: null, why_not: 'unknown_action', counts_instead: null }],
    corrections: [{ sequence: 14, correction_id: 'c', author: 'Ada', reason: 'r', recorded_at: '2026-03-01T10:01:00Z', base_sequence: 12, counts: true, changes: [], effect: null }],
    abandonments: [],
  } as unknown as Explanation;
  const moments = momentsOf(explanation);

  it('are all events in the order of the journal, each once', () => {
    expect(moments.map((one) => [one.sequence, one.action, one.product])).toEqual([
      [5, 'ADD', 'Milk'],
      [7, 'DANCE', null],
      [9, 'ADD', 'Milk'],
      [12, 'REMOVE', null],
      [14, 'CORRECTION', null],
    ]);
  });

  it('say where the totals began to differ', () => {
    expect(moments.filter((one) => one.diverges).map((one) => one.sequence)).toEqual([9]);
  });

  it('are found for any place in the journal', () => {
    expect([4, 5, 6, 9, 100].map((sequence) => indexAt(moments, sequence))).toEqual([-1, 0, 0, 2, 4]);
  });

  it('are played at the pace of the visit, without its long pauses, and what came late at once', () => {
    expect(pauseAfter(moments, 0, 1)).toBe(5_000);
    expect(pauseAfter(moments, 1, 1)).toBe(5_000);
    expect(pauseAfter(moments, 1, 10)).toBe(500);
    expect(pauseAfter(moments, 2, 1)).toBe(60);
    expect(pauseAfter(moments, 4, 1)).toBe(0);
  });
});

describe('the catalogue', () => {
  it('has the same texts in each language, and none is empty', () => {
    const shape = (texts: object): string[] =>
      Object.entries(texts).flatMap(([key, value]) =>
        typeof value === 'object' && value !== null ? shape(value as object).map((one) => `${key}.${one}`) : [`${key}:${typeof value}`],
      );
    expect(shape(de)).toEqual(shape(en));
    const empty = (texts: object): boolean => Object.values(texts).some((value) => (typeof value === 'object' && value !== null ? empty(value as object) : value === ''));
    expect(empty(en) || empty(de)).toBe(false);
  });
});

describe('a correction that is sent again', () => {
  const proposed = { author: 'Ada', reason: 'scanned twice', base_sequence: 100, quantity: { product_id: 1, quantity: 2 } };

  it('is the same one for as long as nothing in it is otherwise', () => {
    const attempt = new Attempt();
    const first = attempt.of(proposed);
    expect(first).toEqual({ ...proposed, id: first.id });
    expect(attempt.of({ ...proposed })).toEqual(first);
  });

  it.each([{ author: 'Sam' }, { reason: 'put back' }, { base_sequence: 101 }, { quantity: { product_id: 1, quantity: 3 } }])('is another one with %j', (other) => {
    const attempt = new Attempt();
    const first = attempt.of(proposed);
    const second = attempt.of({ ...proposed, ...other });
    expect(second.id).not.toBe(first.id);
    expect(attempt.of({ ...proposed, ...other })).toEqual(second);
  });

  it('is another one after an answer', () => {
    const attempt = new Attempt();
    const first = attempt.of(proposed);
    attempt.answered();
    expect(attempt.of(proposed).id).not.toBe(first.id);
  });
});
