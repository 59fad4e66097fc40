// The open baskets of a shop, outside of React. Whoever shows one basket is told when that one changes, once a frame at most, so that
// a hundred changes a second on a thousand baskets draw only what changed and is on screen.

import { serverNow } from '../api/clock';
import type { Basket, Handling, Update } from '../api/types';
import { type Freshness, firstSignals, freshness, type Signals } from './freshness';
import { type Row, rowAfter, rowOf, time } from './row';
import type { Ending, Sink } from './source';

type Listener = () => void;

/** How long a basket that ended is still shown. */
export const LINGER_MS = 4_000;

export interface Options {
  now?: () => number;
  /** Calls back when it is time to show what came in. */
  schedule?: (flush: () => void) => void;
}

/** Once a frame; a page that nobody sees has no frames and is told twice a second, for its title and its sound. */
function nextFrame(flush: () => void): void {
  if (typeof document === 'undefined' || document.hidden) setTimeout(flush, 500);
  else requestAnimationFrame(flush);
}

export class BasketStore implements Sink {
  private readonly now: () => number;
  private readonly schedule: (flush: () => void) => void;
  private readonly rows = new Map<string, Row>();
  private readonly handled = new Map<string, { by: string; until: number }>();
  private seen = new Set<string>();
  private dirty = new Set<string>();
  private touched = new Set<string>();
  private allDirty = false;
  private scheduled = false;
  private readonly rowListeners = new Map<string, Set<Listener>>();
  private readonly touchListeners = new Map<string, Set<Listener>>();
  private readonly listeners = new Set<Listener>();
  private readonly signalListeners = new Set<Listener>();
  private readonly updateListeners = new Set<(update: Update, before: Row | undefined) => void>();
  private current: Signals;
  private version_ = 0;
  private ending: Ending | null = null;

  constructor(options: Options = {}) {
    this.now = options.now ?? serverNow;
    this.schedule = options.schedule ?? nextFrame;
    this.current = firstSignals(Date.now());
  }

  // What is shown.

  row(session: string): Row | undefined {
    return this.rows.get(session);
  }

  all(): IterableIterator<Row> {
    return this.rows.values();
  }

  get size(): number {
    return this.rows.size;
  }

  /** Goes up whenever any row changed, came or went. */
  get revision(): number {
    return this.version_;
  }

  freshness(now = Date.now()): Freshness {
    return freshness(this.current, now);
  }

  get signalled(): Signals {
    return this.current;
  }

  get endedWith(): Ending | null {
    return this.ending;
  }

  handlingOf(session: string): { by: string; until: number } | undefined {
    return this.handled.get(session);
  }

  /** Tells of one basket of the board. */
  onRow(session: string, listener: Listener): () => void {
    return listen(this.rowListeners, session, listener);
  }

  /** Tells whenever anything happened to a session, open or not. */
  onTouch(session: string, listener: Listener): () => void {
    return listen(this.touchListeners, session, listener);
  }

  /** Tells when any row changed. */
  onChange(listener: Listener): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  onSignals(listener: Listener): () => void {
    this.signalListeners.add(listener);
    return () => this.signalListeners.delete(listener);
  }

  /** Tells of each update that counted, at once. */
  onUpdate(listener: (update: Update, before: Row | undefined) => void): () => void {
    this.updateListeners.add(listener);
    return () => this.updateListeners.delete(listener);
  }

  // What comes in.

  snapshot(baskets: Basket[], first: boolean, last: boolean): void {
    if (first) this.seen = new Set();
    for (const basket of baskets) {
      this.seen.add(basket.session_id);
      const before = this.rows.get(basket.session_id);
      // What came since the page was taken is newer.
      if (before !== undefined && before.version > basket.version) continue;
      this.put({ ...rowOf(basket, before, this.now()), toldOf: basket.version, endedAt: null });
    }
    if (!last) return;
    for (const session of [...this.rows.keys()]) {
      if (!this.seen.has(session)) this.drop(session);
    }
    this.seen = new Set();
    this.signals({ loaded: true });
  }

  basket(basket: Basket): void {
    const before = this.rows.get(basket.session_id);
    if (before !== undefined && before.version > basket.version) return;
    if (before === undefined && basket.status !== 'open') return;
    this.put(rowOf(basket, before, this.now()));
  }

  update(update: Update): void {
    const before = this.rows.get(update.session_id);
    this.touch(update.session_id);
    // One that came twice, or that the snapshot has already. One whose basket came before it as a whole still says what happened.
    if (before !== undefined && (update.basket.version < before.version || update.basket.version <= before.toldOf)) return;
    const row = rowAfter(update, before, this.now());
    if (row !== undefined) this.put(row);
    for (const listener of this.updateListeners) listener(update, before);
  }

  gone(session: string): void {
    const before = this.rows.get(session);
    this.touch(session);
    if (before !== undefined && before.endedAt === null) this.put({ ...before, endedAt: this.now() });
  }

  handlings(all: Handling[]): void {
    const before = new Set(this.handled.keys());
    for (const one of all) {
      before.delete(one.session_id);
      this.handling(one);
    }
    for (const session of before) this.handling({ session_id: session, handled_by: null, handled_until: null });
  }

  handling(one: Handling): void {
    const known = this.handled.get(one.session_id);
    const until = time(one.handled_until);
    if (one.handled_by === null) {
      if (known === undefined) return;
      this.handled.delete(one.session_id);
    } else {
      if (known?.by === one.handled_by && known.until === until) return;
      this.handled.set(one.session_id, { by: one.handled_by, until });
    }
    const row = this.rows.get(one.session_id);
    if (row !== undefined) this.put(row);
    else this.touch(one.session_id);
  }

  signals(change: Partial<Signals>): void {
    const next = { ...this.current, ...change };
    if (change.connection !== undefined && change.connection !== this.current.connection) next.since = Date.now();
    this.current = next;
    for (const listener of this.signalListeners) listener();
  }

  ended(ending: Ending): void {
    this.ending = ending;
    for (const listener of this.signalListeners) listener();
  }

  known(session: string): { version: number; isOpen: boolean } | null {
    const row = this.rows.get(session);
    return row === undefined ? null : { version: row.version, isOpen: row.endedAt === null };
  }

  /** Takes away what ended a while ago. Rows that a finger may be on are kept until it is not. */
  sweep(now = this.now()): void {
    for (const row of this.rows.values()) {
      if (row.endedAt !== null && now - row.endedAt > LINGER_MS) this.drop(row.session);
    }
  }

  private put(row: Row): void {
    const handling = this.handled.get(row.session);
    const by = handling?.by ?? null;
    const until = handling?.until ?? 0;
    this.rows.set(row.session, row.handledBy === by && row.handledUntil === until ? row : { ...row, handledBy: by, handledUntil: until });
    this.mark(row.session);
  }

  private drop(session: string): void {
    this.rows.delete(session);
    this.mark(session);
  }

  private mark(session: string): void {
    this.allDirty = true;
    this.dirty.add(session);
    this.touch(session);
  }

  private touch(session: string): void {
    this.touched.add(session);
    if (this.scheduled) return;
    this.scheduled = true;
    this.schedule(() => this.flush());
  }

  private flush(): void {
    this.scheduled = false;
    const { dirty, touched, allDirty } = this;
    this.dirty = new Set();
    this.touched = new Set();
    this.allDirty = false;
    if (allDirty) this.version_ += 1;
    for (const session of dirty) call(this.rowListeners.get(session));
    if (this.touchListeners.size > 0) for (const session of touched) call(this.touchListeners.get(session));
    if (allDirty) call(this.listeners);
  }
}

function listen(all: Map<string, Set<Listener>>, session: string, listener: Listener): () => void {
  let some = all.get(session);
  if (some === undefined) {
    some = new Set();
    all.set(session, some);
  }
  some.add(listener);
  return () => {
    some.delete(listener);
    if (some.size === 0 && all.get(session) === some) all.delete(session);
  };
}

function call(listeners: Set<Listener> | undefined): void {
  if (listeners !== undefined) for (const listener of [...listeners]) listener();
}
