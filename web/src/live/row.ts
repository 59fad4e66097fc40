// A basket as the board has it, and how it follows from what the service says. Rows never change; a changed basket is another row.

import type { Basket, Status, Update, Verdict } from '../api/types';

export interface Row {
  readonly session: string;
  readonly shopper: string | null;
  readonly status: Status;
  readonly version: number;
  /** The version up to which what happened last is known; a basket as a whole does not say it. */
  readonly toldOf: number;
  readonly items: number;
  readonly total: number;
  /** What the app last claimed it to cost. */
  readonly claimed: number | null;
  readonly verdict: Verdict;
  readonly findings: number;
  /** Actions that should be there and are not. */
  readonly missing: number;
  /** Since when there are any, by the service's clock. */
  readonly missingSince: number;
  /** Actions that came after later ones, as far as this page has seen. */
  readonly late: number;
  readonly parked: boolean;
  readonly openedAt: number;
  readonly lastAction: string | null;
  readonly lastProduct: string | null;
  readonly lastActionId: number;
  /** The last action by the phone's clock; only good to see which of two is the later one. */
  readonly phoneTime: number;
  /** When something last happened, by the service's clock. */
  readonly touchedAt: number;
  /** When it left the open baskets; it is shown a little longer, so that nothing vanishes under a finger. */
  readonly endedAt: number | null;
  readonly handledBy: string | null;
  readonly handledUntil: number;
  /** What is searched in, in lower case. */
  readonly words: string;
}

/** Longest part of a product's name that is kept for searching, and of how many products. */
const WORD_MAX = 40;
const WORDS_MAX = 1_200;
/** Longest name that a row keeps; a hostile one may have any length. */
const NAME_MAX = 120;

export function time(text: string | null): number {
  if (text === null) return 0;
  // The original's form has a blank between day and time, and six decimals.
  const parsed = Date.parse(text.replace(' ', 'T').replace(/(\.\d{3})\d+/, '$1'));
  return Number.isNaN(parsed) ? 0 : parsed;
}

export function clipped(name: string | null, max = NAME_MAX): string | null {
  if (name === null || name.length <= max) return name;
  // Not between the halves of a surrogate pair.
  const end = (name.charCodeAt(max - 1) & 0xfc00) === 0xd800 ? max - 1 : max;
  return `${name.slice(0, end)}…`;
}

/** The row of a whole basket. What only the page knows is taken from the row before; what happened last may still be told. */
export function rowOf(basket: Basket, before: Row | undefined, now: number): Row {
  const open = basket.status === 'open';
  return {
    session: basket.session_id,
    shopper: basket.shopper_id,
    status: basket.status,
    version: basket.version,
    toldOf: before?.toldOf ?? basket.version,
    items: basket.item_count,
    total: basket.total,
    claimed: basket.claimed_total,
    verdict: basket.verdict,
    findings: basket.finding_count,
    missing: basket.missing.length,
    missingSince: basket.missing.length === 0 ? 0 : before?.missingSince || now,
    late: before?.late ?? 0,
    parked: basket.parked_since !== null,
    openedAt: time(basket.opened_at) || before?.openedAt || now,
    lastAction: basket.last_action,
    // Which action brought it to another version, and of which product it was, is not said.
    lastProduct: before?.version === basket.version ? before.lastProduct : null,
    lastActionId: before?.version === basket.version ? before.lastActionId : 0,
    phoneTime: time(basket.last_action_at),
    touchedAt: time(basket.updated_at) || now,
    endedAt: open ? null : (before?.endedAt ?? now),
    handledBy: before?.handledBy ?? null,
    handledUntil: before?.handledUntil ?? 0,
    words: words(basket.session_id, basket.shopper_id, basket.lines.map((line) => line.product_name)),
  };
}

/** The row after an update; undefined if it tells of nothing that a board shows. */
export function rowAfter(update: Update, before: Row | undefined, now: number): Row | undefined {
  const state = update.basket;
  const open = state.status === 'open';
  if (before === undefined && !open) return undefined;
  const byPhone = update.action_id !== 0 || (update.correction === undefined && update.action !== 'ABANDONED');
  const at = time(update.create_time);
  const late = byPhone && before !== undefined && at < before.phoneTime;
  const isNewest = byPhone && !late;
  // Paying names a product as well, which says nothing.
  const isOfProduct = ['ADD', 'REMOVE'].includes(update.action.toUpperCase());
  const name = isOfProduct ? clipped(update.product_name) : null;
  const said = before?.words ?? words(update.session_id, update.shopper_id, []);
  return {
    session: update.session_id,
    shopper: update.shopper_id ?? before?.shopper ?? null,
    status: state.status,
    version: state.version,
    toldOf: state.version,
    items: state.item_count,
    total: state.total,
    claimed: state.claimed_total,
    verdict: state.verdict,
    findings: state.finding_count,
    missing: before?.missing ?? 0,
    missingSince: before?.missingSince ?? 0,
    late: (before?.late ?? 0) + (late ? 1 : 0),
    parked: before?.parked ?? false,
    openedAt: before?.openedAt ?? (at || now),
    lastAction: isNewest ? update.action : (before?.lastAction ?? update.action),
    lastProduct: isNewest ? name : (before?.lastProduct ?? null),
    lastActionId: isNewest ? update.action_id : (before?.lastActionId ?? 0),
    phoneTime: isNewest ? at : (before?.phoneTime ?? at),
    touchedAt: now,
    endedAt: open ? null : (before?.endedAt ?? now),
    handledBy: before?.handledBy ?? null,
    handledUntil: before?.handledUntil ?? 0,
    words: name === null ? said : withWord(said, name),
  };
}

function words(session: string, shopper: string | null, names: (string | null)[]): string {
  let text = `${session} ${shopper ?? ''}`.toLowerCase();
  for (const name of names) if (name !== null) text = withWord(text, name);
  return text;
}

function withWord(text: string, name: string): string {
  const word = (clipped(name, WORD_MAX) ?? '').toLowerCase();
  return text.length > WORDS_MAX || text.includes(word) ? text : `${text}\n${word}`;
}

/** What claimed and computed total differ by; 0 where they do not. */
export function difference(row: Row): number {
  return row.verdict === 'diverged' && row.claimed !== null ? Math.round((row.claimed - row.total) * 10_000) / 10_000 : 0;
}
