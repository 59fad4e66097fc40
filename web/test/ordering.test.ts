import { describe, expect, it } from 'vitest';
import { arrange, needsOf, UNTOUCHED_MS, type View } from '../src/board/ordering';
import { type Row, rowOf } from '../src/live/row';
import { basket, session } from './made';

const NOW = Date.parse('2026-03-01T10:00:30Z');
const asked: View = { words: '', filter: 'all', order: 'needs', me: 'Mia', now: NOW };

function row(number: number, more: Partial<Row> = {}): Row {
  return { ...rowOf(basket(number), undefined, NOW), openedAt: NOW - 100_000 + number, touchedAt: NOW, ...more };
}

function order(rows: Row[], more: Partial<View> = {}, before: string[] = [], held = false) {
  const arranged = arrange(rows, { ...asked, ...more }, before, held);
  return { ...arranged, numbers: arranged.sessions.map((one) => Number(one.slice(-12))) };
}

describe('the order of the board', () => {
  it('has first what needs a person', () => {
    const rows = [
      row(1),
      row(2, { touchedAt: NOW - UNTOUCHED_MS - 1 }),
      row(3, { findings: 1 }),
      row(4, { verdict: 'diverged', claimed: 9 }),
      row(5, { parked: true }),
    ];
    expect(order(rows).numbers).toEqual([4, 5, 3, 2, 1]);
  });

  it('has what somebody else is on behind the others of its kind, and not what I am on', () => {
    const until = NOW + 60_000;
    const rows = [1, 2, 3].map((number) => row(number, { verdict: 'diverged' as const, claimed: 9 }));
    const handled = rows.map((one, at) => (at === 0 ? { ...one, handledBy: 'Sam', handledUntil: until } : at === 1 ? { ...one, handledBy: 'Mia', handledUntil: until } : one));
    expect(order(handled).numbers).toEqual([2, 3, 1]);
    const over = handled.map((one) => ({ ...one, handledUntil: NOW - 1 }));
    expect(order(over).numbers).toEqual([1, 2, 3]);
  });

  it('does not move a row when only its total or its last action changes', () => {
    const rows = [row(1), row(2), row(3)];
    const changed = [row(1), row(2, { total: 99, touchedAt: NOW + 5_000 }), row(3)];
    expect(order(changed).sessions).toEqual(order(rows).sessions);
  });

  it('moves nothing while it is held, and says how many would move', () => {
    const before = order([row(1), row(2), row(3)]).sessions;
    const changed = [row(1), row(2), row(3, { verdict: 'diverged', claimed: 9 }), row(4)];
    const held = order(changed, {}, before, true);
    expect(held.numbers).toEqual([1, 2, 3, 4]);
    expect(held.moved).toBe(1);
    expect(order(changed, {}, before).numbers).toEqual([3, 1, 2, 4]);
  });

  it('counts new rows that belong further up than at the end', () => {
    const before = order([row(1), row(2)]).sessions;
    const held = order([row(1), row(2), row(3), row(4, { verdict: 'diverged', claimed: 9 })], {}, before, true);
    expect(held.numbers).toEqual([1, 2, 4, 3]);
    expect(held.moved).toBe(1);
    expect(order([row(1), row(2), row(3)], {}, before, true).moved).toBe(0);
  });

  it('keeps a row that no longer fits while it is held', () => {
    const before = [session(1), session(2)];
    expect(order([row(1), row(2)], { filter: 'diverged' }, before, true).numbers).toEqual([1, 2]);
    expect(order([row(1), row(2)], { filter: 'diverged' }, before).numbers).toEqual([]);
  });

  it.each([
    ['last', [3, 1, 2]],
    ['total', [2, 3, 1]],
    ['opened', [3, 2, 1]],
  ] as const)('is by %s when asked', (by, numbers) => {
    const rows = [row(1, { total: 1, touchedAt: NOW - 5 }), row(2, { total: 3, touchedAt: NOW - 9 }), row(3, { total: 2, touchedAt: NOW - 1 })];
    expect(order(rows, { order: by }).numbers).toEqual(numbers);
  });

  it('finds by product, by basket and by who handles it, all words of them', () => {
    const rows = [row(1), row(2, { words: `${session(2)}\nwhole milk`, handledBy: 'Sam', handledUntil: NOW + 1 })];
    expect(order(rows, { words: 'MILK' }).numbers).toEqual([2]);
    expect(order(rows, { words: 'milk sam' }).numbers).toEqual([2]);
    expect(order(rows, { words: 'milk mia' }).numbers).toEqual([]);
    expect(order(rows, { words: 'apples' }).numbers).toEqual([1]);
    expect(order(rows, { words: '000000000001' }).numbers).toEqual([1]);
  });

  it('does not call for somebody for an action that is most likely on its way', () => {
    expect(needsOf(row(1, { missing: 1, missingSince: NOW - 5_000 }), NOW)).toEqual([]);
    expect(needsOf(row(1, { missing: 1, missingSince: NOW - 20_000 }), NOW)).toEqual(['missing']);
  });

  it('does not count what has ended as open', () => {
    const arranged = order([row(1), row(2, { endedAt: NOW, status: 'paid' })]);
    expect(arranged).toMatchObject({ open: 1, shown: 1, numbers: [1, 2] });
    expect(needsOf(row(2, { endedAt: NOW, status: 'paid', verdict: 'diverged' }), NOW)).toEqual([]);
  });
});
