// Which baskets are shown and in which order: what needs a person first, and without rows jumping under a finger.

import type { Row } from '../live/row';

export type Need = 'parked' | 'diverged' | 'findings' | 'missing' | 'untouched';
export type Filter = 'all' | 'needs' | 'diverged' | 'findings' | 'untouched' | 'mine';
export type Order = 'needs' | 'last' | 'total' | 'opened';

export const FILTERS: Filter[] = ['all', 'needs', 'diverged', 'findings', 'untouched', 'mine'];
export const ORDERS: Order[] = ['needs', 'last', 'total', 'opened'];

/** After so long without an event somebody may want to look where the shopper is. */
export const UNTOUCHED_MS = 10 * 60_000;

/** An action that is late is mostly on its way; one that is missing for so long may not come. */
const ON_ITS_WAY_MS = 15_000;

/** Why a basket needs a person, the most pressing first. */
export function needsOf(row: Row, now: number): Need[] {
  if (row.status !== 'open' || row.endedAt !== null) return [];
  const needs: Need[] = [];
  if (row.parked) needs.push('parked');
  if (row.verdict === 'diverged') needs.push('diverged');
  if (row.findings > 0) needs.push('findings');
  if (row.missing > 0 && now - row.missingSince > ON_ITS_WAY_MS) needs.push('missing');
  if (now - row.touchedAt > UNTOUCHED_MS) needs.push('untouched');
  return needs;
}

export function isHandled(row: Row, now: number): boolean {
  return row.handledBy !== null && row.handledUntil > now;
}

/** 0 is the most pressing. A basket that somebody is on stands behind the others of its kind. */
export function rank(row: Row, now: number, me: string | null): number {
  const first = needsOf(row, now)[0];
  if (first === undefined) return 6;
  const kind = first === 'parked' || first === 'diverged' ? 0 : first === 'findings' ? 2 : 4;
  return kind + (isHandled(row, now) && row.handledBy !== me ? 1 : 0);
}

/** What somebody wants to see of the board. */
export interface View {
  words: string;
  filter: Filter;
  order: Order;
  me: string | null;
  now: number;
}

export interface Arranged {
  sessions: string[];
  /** How many rows stand elsewhere than they would, also new ones that wait at the end. */
  moved: number;
  /** How many of them are open; those that have just ended are shown a little longer. */
  shown: number;
  /** How many are open in all. */
  open: number;
}

/**
 * The sessions to show. While the list is `held`, those of `before` stay where they are, also where they would not be shown any more, and
 * new ones come behind them.
 */
export function arrange(rows: Iterable<Row>, view: View, before: readonly string[], held: boolean): Arranged {
  const words = view.words.trim().toLowerCase().split(/\s+/).filter(Boolean);
  const there = new Set<string>();
  const wanted: { row: Row; key: number }[] = [];
  let open = 0;
  let shown = 0;
  for (const row of rows) {
    there.add(row.session);
    if (row.endedAt === null) open += 1;
    if (!fits(row, view, words)) continue;
    if (row.endedAt === null) shown += 1;
    wanted.push({ row, key: keyOf(row, view) });
  }
  wanted.sort((a, b) => a.key - b.key || a.row.openedAt - b.row.openedAt || (a.row.session < b.row.session ? -1 : 1));
  const sessions = wanted.map(({ row }) => row.session);
  if (!held) return { sessions, moved: 0, shown, open };
  const kept = before.filter((session) => there.has(session));
  const known = new Set(kept);
  const place = new Map(sessions.map((session, at) => [session, at]));
  const shows = [...kept, ...sessions.filter((session) => !known.has(session))];
  const places = shows.map((session) => place.get(session)).filter((at) => at !== undefined);
  return {
    sessions: shows,
    shown,
    moved: shows.length - longestRise(places),
    open,
  };
}

function fits(row: Row, view: View, words: string[]): boolean {
  if (words.length > 0) {
    const text = row.handledBy === null ? row.words : `${row.words}\n${row.handledBy.toLowerCase()}`;
    if (!words.every((word) => text.includes(word))) return false;
  }
  switch (view.filter) {
    case 'all':
      return true;
    case 'mine':
      return isHandled(row, view.now) && row.handledBy === view.me;
    case 'needs':
      return needsOf(row, view.now).length > 0;
    default:
      return needsOf(row, view.now).includes(view.filter);
  }
}

function keyOf(row: Row, view: View): number {
  switch (view.order) {
    case 'needs':
      return rank(row, view.now, view.me);
    case 'last':
      return -row.touchedAt;
    case 'total':
      return -row.total;
    case 'opened':
      return -row.openedAt;
  }
}

/** The length of the longest part that rises: so many rows stand right towards each other, and the others would move. */
function longestRise(places: number[]): number {
  const ends: number[] = [];
  for (const place of places) {
    let low = 0;
    let high = ends.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((ends[middle] ?? 0) < place) low = middle + 1;
      else high = middle;
    }
    ends[low] = place;
  }
  return ends.length;
}
