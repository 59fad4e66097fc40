// The moments of a visit, each an event in the order of the journal, and how long to stay at each when they are played.

import type { Explanation } from '../api/types';
import { time } from '../live/row';

export interface Moment {
  sequence: number;
  at: number;
  action: string;
  actionId: number | null;
  product: string | null;
  kind: 'action' | 'correction' | 'abandonment';
  /** Whether the totals differ from here on, and did not before. */
  diverges: boolean;
}

/** What is worth a mark on the time line. */
export const MARKS = ['diverges', 'correction', 'abandonment'] as const;

export function markOf(moment: Moment): (typeof MARKS)[number] | null {
  if (moment.diverges) return 'diverges';
  return moment.kind === 'action' ? null : moment.kind;
}

/** Longest pause between two events when played at the pace of the visit, before it is sped up. */
const PAUSE_MS_MAX = 5_000;
/** Shortest, so that an eye can follow. */
const PAUSE_MS_MIN = 60;
export const SPEEDS = [1, 2, 5, 10, 25, 100];

export function momentsOf(explanation: Explanation): Moment[] {
  const found = new Map<number, Moment>();
  const put = (moment: Moment) => {
    const before = found.get(moment.sequence);
    found.set(moment.sequence, before === undefined ? moment : { ...before, product: before.product ?? moment.product });
  };
  const action = (one: { sequence: number; action_id: number; create_time: string; action: string }, product: string | null) =>
    put({ sequence: one.sequence, at: time(one.create_time), action: one.action, actionId: one.action_id, product, kind: 'action', diverges: false });
  for (const line of explanation.lines) {
    for (const effect of line.because) action(effect, line.product_name);
  }
  for (const claim of explanation.claims) action(claim, null);
  for (const event of explanation.without_effect) action(event, null);
  for (const one of explanation.corrections) {
    put({ sequence: one.sequence, at: time(one.recorded_at), action: 'CORRECTION', actionId: null, product: null, kind: 'correction', diverges: false });
  }
  for (const one of explanation.abandonments) {
    put({ sequence: one.sequence, at: time(one.recorded_at), action: 'ABANDONED', actionId: null, product: null, kind: 'abandonment', diverges: false });
  }
  const all = [...found.values()].sort((a, b) => a.sequence - b.sequence);
  const diverged = new Map(explanation.claims.map((claim) => [claim.sequence, claim.diverged]));
  let before = false;
  for (const moment of all) {
    const now = diverged.get(moment.sequence);
    if (now === undefined) continue;
    moment.diverges = now && !before;
    before = now;
  }
  return all;
}

/** The moment that shows all events up to a place in the journal; -1 if that is before the first. */
export function indexAt(moments: readonly Moment[], sequence: number): number {
  let at = -1;
  for (const [index, moment] of moments.entries()) {
    if (moment.sequence > sequence) break;
    at = index;
  }
  return at;
}

/** How long to show a moment before the next one, in milliseconds. */
export function pauseAfter(moments: readonly Moment[], index: number, speed: number): number {
  const here = moments[index];
  const next = moments[index + 1];
  if (here === undefined || next === undefined) return 0;
  // Events that came late have earlier times; they follow at once.
  const pause = Math.min(PAUSE_MS_MAX, Math.max(0, next.at - here.at));
  return Math.max(PAUSE_MS_MIN, pause / speed);
}
