// Live updates as Server-Sent Events, read with fetch, since `EventSource` cannot send a token in a header.

import { createParser, type EventSourceMessage } from 'eventsource-parser';
import { noteServerDate } from '../api/clock';
import { problemOf } from '../api/problem';
import type { Basket, Handling, Update } from '../api/types';
import { HEARTBEAT_MS, type Signals } from './freshness';
import { time } from './row';
import { Seen } from './seen';
import type { Ending, LiveSource, Sink } from './source';

export interface SseOptions {
  url: string;
  headers: () => Record<string, string>;
  /** A newer token after the one was refused or is over; null if there is none. */
  renew: () => Promise<string | null>;
  heartbeatMs?: number;
}

/** Silence after which the connection is taken for dead, in heartbeats; a shorter one than this is none, however often they come. */
const DEAD_AFTER = 3;
const DEAD_AFTER_MS_MIN = 5_000;
const RETRY_MS_MAX = 10_000;

export class SseSource implements LiveSource {
  readonly kind = 'sse';
  private heartbeatMs: number;
  private deadAfterMs: number;
  private readonly seen: Seen;
  private lastId: string | null = null;
  private passedId: string | null = null;
  private sequence = 0;
  private firstPage = true;
  private retryMs = 750;
  private failures = 0;
  private running: AbortController | null = null;
  private connection: AbortController | null = null;
  private wake: (() => void) | null = null;
  private cameAtOnce = false;
  private helloAt = 0;
  private behindSince: number | null = null;
  /** What has to come until we are not behind any more: a place, the end of the snapshot, or a heartbeat that says so. */
  private awaited: string | 'snapshot' | 'heartbeat' | null = null;
  /** When what we had was last known to be all there is. */
  private trueAt: number | null = null;
  private staleSince: number | null = null;
  /** What we had at the last heartbeat that told of something newer. */
  private missedAt: string | null = null;

  constructor(
    private readonly options: SseOptions,
    private readonly sink: Sink,
  ) {
    this.heartbeatMs = options.heartbeatMs ?? HEARTBEAT_MS;
    this.deadAfterMs = this.heartbeatMs * DEAD_AFTER;
    this.seen = new Seen(options.url.replace(/updates$/, 'seen'), options.headers);
  }

  start(): void {
    const running = new AbortController();
    this.running = running;
    if (typeof addEventListener === 'function') {
      addEventListener('online', () => this.comeBack(), { signal: running.signal });
      // A laptop that slept has missed its heartbeats, and its timers too.
      if (typeof document !== 'undefined') {
        document.addEventListener('visibilitychange', () => !document.hidden && this.wake?.(), { signal: running.signal });
      }
    }
    void this.run(running.signal);
  }

  stop(): void {
    this.running?.abort();
    this.connection?.abort();
    this.wake?.();
  }

  /** The network is back: what was connected before is most likely dead. */
  private comeBack(): void {
    this.failures = 0;
    this.connection?.abort();
    this.wake?.();
  }

  private async run(signal: AbortSignal): Promise<void> {
    this.sink.signals({ connection: 'connecting', heartbeatMs: this.heartbeatMs });
    while (!signal.aborted) {
      const ending = await this.connect(signal);
      if (signal.aborted) return;
      if (typeof ending === 'string') {
        this.sink.signals({ connection: 'closed', retryAt: null });
        this.sink.ended(ending);
        return;
      }
      // At once only the first time: a service that sends everybody away at once is not helped by all coming back at once.
      const atOnce = ending.soon && !this.cameAtOnce;
      if (ending.soon) this.cameAtOnce = true;
      const pause = atOnce ? 0 : Math.min(RETRY_MS_MAX, ending.afterMs ?? this.retryMs * 2 ** Math.min(this.failures, 5));
      this.failures += atOnce ? 0 : 1;
      this.sink.signals({ connection: 'closed', retryAt: Date.now() + pause });
      await this.pause(pause);
      if (!signal.aborted) this.sink.signals({ connection: 'connecting' });
    }
  }

  /** One connection, until it ends: for good, or to come again. */
  private async connect(signal: AbortSignal): Promise<Ending | { soon: boolean; afterMs?: number }> {
    const connection = new AbortController();
    this.connection = connection;
    const headers = this.options.headers();
    let ending: Ending | 'renew' | 'again' | null = null;
    let heardAt = Date.now();
    const watch = () => {
      if (Date.now() - heardAt > this.deadAfterMs) connection.abort();
      else watchdog = setTimeout(watch, this.heartbeatMs / 2);
    };
    let watchdog = setTimeout(watch, this.heartbeatMs / 2);
    const stop = () => connection.abort();
    signal.addEventListener('abort', stop);
    try {
      const response = await fetch(this.options.url, {
        headers: { accept: 'text/event-stream', ...(this.lastId === null ? {} : { 'last-event-id': this.lastId }), ...headers },
        cache: 'no-store',
        signal: connection.signal,
      });
      noteServerDate(response.headers.get('date'));
      if (!response.ok || response.body === null) {
        const problem = await problemOf(response);
        if (problem.status === 401) return await this.renewed(problem.code === 'token_revoked' ? 'revoked' : 'expired', headers);
        if (problem.status === 403 || problem.status === 404) return 'denied';
        return { soon: false, afterMs: problem.retryAfter === null ? undefined : problem.retryAfter * 1000 };
      }
      this.firstPage = true;
      this.passedId = null;
      const parser = createParser({
        onRetry: (ms) => {
          this.retryMs = ms;
        },
        // An id without an event: the viewer has that update from the snapshot already. It counts once the next event is here, for an id
        // comes before the data of its own event.
        onId: (id) => {
          this.passedId = id;
        },
        onEvent: (message) => {
          ending = this.take(message) ?? ending;
        },
      });
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        heardAt = Date.now();
        parser.feed(value);
        if (ending !== null) {
          void reader.cancel().catch(() => {});
          break;
        }
      }
    } catch {
      // Cut off, by the network, by ourselves, or never there: it comes again.
    } finally {
      clearTimeout(watchdog);
      signal.removeEventListener('abort', stop);
      connection.abort();
    }
    switch (ending as Ending | 'renew' | 'again' | null) {
      case 'renew':
        return this.renewed('expired', headers);
      case 'again':
        return { soon: true };
      case null:
        return { soon: false };
      default:
        return ending as unknown as Ending;
    }
  }

  /** Comes back at once with a newer token, if there is one. */
  private async renewed(otherwise: Ending, used: Record<string, string>): Promise<Ending | { soon: boolean }> {
    if (otherwise === 'revoked') return otherwise;
    // Somebody else may have renewed it meanwhile.
    if (this.options.headers().authorization !== used.authorization) return { soon: true };
    try {
      return (await this.options.renew()) === null ? otherwise : { soon: true };
    } catch {
      return { soon: false };
    }
  }

  private take(message: EventSourceMessage): Ending | 'renew' | 'again' | null {
    const now = Date.now();
    const heard: Partial<Signals> = { heardAt: now, connection: 'open', retryAt: null };
    const data: unknown = JSON.parse(message.data);
    let next: Ending | 'renew' | 'again' | null = null;
    switch (message.event) {
      case 'hello': {
        const hello = data as { recovered: boolean; newest?: string | null; stale_since?: string | null; heartbeat_ms?: number };
        if (hello.heartbeat_ms !== undefined) {
          this.heartbeatMs = hello.heartbeat_ms;
          this.deadAfterMs = Math.max(DEAD_AFTER_MS_MIN, hello.heartbeat_ms * DEAD_AFTER);
          heard.heartbeatMs = hello.heartbeat_ms;
        }
        this.helloAt = now;
        this.missedAt = null;
        if (!hello.recovered) {
          this.lastId = null;
          this.awaited = 'snapshot';
        } else if (hello.newest === undefined) this.awaited = 'heartbeat';
        else this.awaited = isUpTo(this.lastId, hello.newest) ? null : hello.newest;
        // What is on the screen is from before the connection was lost, and as old as that until what came since is here.
        this.behindSince = this.awaited === null ? null : (this.trueAt ?? now);
        this.signal(heard, hello.stale_since == null ? null : time(hello.stale_since));
        break;
      }
      case 'snapshot': {
        const page = data as { baskets: Basket[]; more: boolean };
        this.sink.snapshot(page.baskets, this.firstPage, !page.more);
        this.firstPage = !page.more;
        for (const basket of page.baskets) this.sequence = Math.max(this.sequence, basket.sequence);
        if (!page.more && this.awaited === 'snapshot') this.caughtUp();
        this.signal(heard);
        break;
      }
      case 'update': {
        const update = data as Update;
        this.sink.update(update);
        this.seen.took(update.sequence);
        this.sequence = Math.max(this.sequence, update.sequence);
        this.notePassed(message.id);
        // A shop in which something happens all the time has no heartbeats.
        if (now - this.helloAt > this.heartbeatMs) this.settle();
        this.signal(heard, null);
        break;
      }
      case 'handlings':
        this.sink.handlings((data as { handlings: Handling[] }).handlings);
        break;
      case 'handling':
        this.sink.handling(data as Handling);
        break;
      case 'coalesced': {
        // Not all that happened is told one by one: we are behind until the newest of it is here, or where that is not said until it is quiet.
        const { newest } = data as { newest?: string };
        this.behindSince ??= now;
        if (this.awaited !== 'snapshot') this.awaited = newest ?? 'heartbeat';
        this.missedAt = null;
        this.signal(heard);
        break;
      }
      case 'heartbeat': {
        const beat = data as { place: string; sequence: number; stale_since: string | null };
        this.notePassed(message.id);
        this.settle();
        const missed = this.lastId !== null && beat.place !== this.lastId;
        if (missed) {
          // Nothing has come since the last one told of something newer: it was lost on the way.
          if (this.missedAt === this.lastId) next = 'again';
          this.missedAt = this.lastId;
          this.behindSince ??= now;
          this.awaited ??= 'heartbeat';
        } else if (this.awaited !== 'snapshot') {
          this.missedAt = null;
          this.caughtUp();
          this.sequence = Math.max(this.sequence, beat.sequence);
        }
        this.signal(heard, beat.stale_since === null ? null : time(beat.stale_since));
        break;
      }
      case 'bye':
      case 'lagging':
      case 'lost': {
        const { reason } = data as { reason: string };
        if (reason === 'expired') next = 'renew';
        else if (reason === 'revoked' || reason === 'denied') next = reason;
        // What was lost on the way is asked for at once; whoever was too slow, or was sent away by a process that stops, pauses first.
        else next = message.event === 'lost' ? 'again' : null;
        break;
      }
    }
    this.notePassed(message.id);
    return next;
  }

  private notePassed(id: string | undefined): void {
    const passed = id ?? this.passedId;
    if (passed !== null && passed !== undefined && passed !== '') this.lastId = passed;
    this.passedId = null;
    if (this.awaited !== null && this.awaited !== 'snapshot' && this.awaited !== 'heartbeat' && isUpTo(this.lastId, this.awaited)) this.caughtUp();
  }

  /** The connection holds: the next one may come at once again. */
  private settle(): void {
    this.failures = 0;
    this.cameAtOnce = false;
  }

  private caughtUp(): void {
    this.behindSince = null;
    this.awaited = null;
  }

  /** Says what was heard; without being told otherwise the service is as stale as it was. */
  private signal(heard: Partial<Signals>, staleSince: number | null | undefined = this.staleSince): void {
    this.staleSince = staleSince;
    const isTrue = this.behindSince === null && staleSince === null;
    if (isTrue) this.trueAt = heard.heardAt ?? null;
    this.sink.signals({ ...heard, staleSince, behindSince: this.behindSince, sequence: this.sequence, ...(isTrue ? { trueAt: this.trueAt } : {}) });
  }

  private pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(done, ms);
      const source = this;
      function done() {
        clearTimeout(timer);
        source.wake = null;
        resolve();
      }
      this.wake = done;
    });
  }
}

/** Whether a place is at or behind another one. A place begins with its number in the stream; a shop without one has nothing newer. */
function isUpTo(place: string | null, newest: string | null): boolean {
  if (newest === null || place === newest) return true;
  return place !== null && Number.parseInt(place, 10) >= Number.parseInt(newest, 10);
}
