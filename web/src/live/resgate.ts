// Live updates through Resgate, with resclient.
//
// Resgate has no heartbeat of its own, and a gateway whose service has gone away stays connected and silent. So the truth is asked for
// beside it: every heartbeat the service itself is asked over HTTP for the basket that changed last, and up to which place of the
// journal its answer is true. An answer says that the service and its stores are there; the version of that basket says whether Resgate
// has told us everything. Without an answer the board is not live, whatever the gateway's connection looks like.

import ResClient from 'resclient';
import { Problem } from '../api/problem';
import type { Basket, BasketPage, Handling, ListedBasket, Update } from '../api/types';
import { HEARTBEAT_MS, type Signals } from './freshness';
import type { Ending, LiveSource, Sink } from './source';

export interface ResgateOptions {
  url: string;
  shop: string;
  token: () => string | null;
  renew: () => Promise<string | null>;
  /** The basket that changed last, as the service has it over HTTP. */
  newest: (signal: AbortSignal) => Promise<BasketPage>;
  heartbeatMs?: number;
  /** Resgate cannot be had: another source has to do. */
  unreachable: () => void;
}

/** A call that was under way when the connection was lost is never answered, so nobody may wait for ever. */
const CALL_TIMEOUT_MS = 10_000;
/** How long Resgate may be away before another source is better. */
const AWAY_MS_MAX = 8_000;

interface Resource {
  on(events: string, handler: (event: never) => void): void;
  off(events: string, handler: (event: never) => void): void;
}
interface Model extends Resource {
  props: Basket & { handled_by: string | null; handled_until: string | null };
}
interface Collection extends Resource, Iterable<Model> {}

export class ResgateSource implements LiveSource {
  readonly kind = 'resgate';
  private readonly heartbeatMs: number;
  private client: ResClient | null = null;
  private stopped = false;
  private away: ReturnType<typeof setTimeout> | null = null;
  private probing: ReturnType<typeof setInterval> | null = null;
  private readonly asking = new AbortController();
  private baskets: Collection | null = null;
  private feed: Resource | null = null;
  private readonly shown = new Map<Model, { session: string; changed: () => void }>();
  private behindSince: number | null = null;
  /** What the service has and the board has not yet: it is on its way, or was lost. */
  private awaited: { basket: ListedBasket; since: number } | null = null;
  private lastAnswerAt: number | null = null;
  private lostAt: number | null = null;

  constructor(
    private readonly options: ResgateOptions,
    private readonly sink: Sink,
  ) {
    this.heartbeatMs = options.heartbeatMs ?? HEARTBEAT_MS;
  }

  start(): void {
    this.sink.signals({ connection: 'connecting', heartbeatMs: this.heartbeatMs });
    const client = new ResClient(() => new WebSocket(this.options.url));
    this.client = client;
    client.setOnConnect(async () => {
      await this.signIn();
    });
    client.on('connect', () => this.connected());
    client.on('disconnect', () => this.disconnected());
    client.on('connectError', () => this.disconnected());
    this.waitForIt();
    void this.open();
  }

  stop(): void {
    if (this.stopped) return;
    this.stopped = true;
    this.asking.abort();
    if (this.away !== null) clearTimeout(this.away);
    if (this.probing !== null) clearInterval(this.probing);
    this.close();
    this.client?.disconnect();
  }

  private connected(): void {
    if (this.stopped) return;
    if (this.away !== null) clearTimeout(this.away);
    this.away = null;
    if (this.lostAt !== null) {
      // What is on the screen is from before, until the service says that it is all there is.
      this.behindSince ??= this.lostAt;
      this.lostAt = null;
      void this.probe();
    }
    this.sink.signals({ connection: 'open', retryAt: null, behindSince: this.behindSince });
  }

  private disconnected(): void {
    if (this.stopped) return;
    if (this.probing !== null) this.lostAt ??= Date.now();
    this.sink.signals({ connection: 'closed' });
    this.waitForIt();
  }

  private waitForIt(): void {
    this.away ??= setTimeout(() => this.giveUp(), AWAY_MS_MAX);
  }

  private giveUp(): void {
    if (this.stopped) return;
    this.stop();
    this.options.unreachable();
  }

  private async signIn(): Promise<void> {
    const jwt = this.options.token();
    if (jwt === null || this.client === null) return;
    // It must not fail: what may not be had is said when it is asked for.
    await inTime(this.client.authenticate('ezout.auth', 'jwt', { jwt })).catch(() => {});
  }

  private async open(renewed = false): Promise<void> {
    const client = this.client;
    if (client === null || this.stopped) return;
    const of = `ezout.shop.${this.options.shop}`;
    try {
      const baskets = (await client.get(`${of}.baskets`)) as unknown as Collection;
      if (this.stopped) return;
      this.baskets = baskets;
      baskets.on('add', this.added);
      baskets.on('remove', this.removed);
      baskets.on('unsubscribe', this.unsubscribed);
      baskets.on('delete', this.unsubscribed);
      this.sink.snapshot(this.showAll(), true, true);
      this.sink.signals({ heardAt: Date.now() });
      const feed = (await client.get(`${of}.feed`)) as unknown as Resource;
      if (this.stopped) return;
      this.feed = feed;
      feed.on('update', this.updated);
      this.probing ??= setInterval(() => void this.probe(), this.heartbeatMs);
      void this.probe();
    } catch (error) {
      if (this.stopped) return;
      const code = (error as { code?: string }).code ?? '';
      if (code === 'system.accessDenied' || code === 'system.notFound') {
        if (!renewed && (await this.options.renew().catch(() => null)) !== null) {
          await this.signIn();
          return void this.open(true);
        }
        return void this.refused();
      }
      this.giveUp();
    }
  }

  /** The gateway does not say whether it is the token or the shop; the service does. */
  private async refused(): Promise<void> {
    try {
      await this.options.newest(AbortSignal.any([this.asking.signal, AbortSignal.timeout(CALL_TIMEOUT_MS)]));
    } catch (error) {
      if (this.stopped) return;
      const ending = endingOf(error);
      if (ending !== null) return this.end(ending);
    }
    this.giveUp();
  }

  private close(): void {
    const { baskets, feed } = this;
    for (const model of [...this.shown.keys()]) this.hide(model);
    if (baskets !== null) {
      baskets.off('add', this.added);
      baskets.off('remove', this.removed);
      baskets.off('unsubscribe', this.unsubscribed);
      baskets.off('delete', this.unsubscribed);
    }
    feed?.off('update', this.updated);
    this.baskets = null;
    this.feed = null;
  }

  private end(ending: Ending): void {
    this.stop();
    this.sink.signals({ connection: 'closed', retryAt: null });
    this.sink.ended(ending);
  }

  private showAll(): Basket[] {
    const all: Basket[] = [];
    for (const model of this.baskets ?? []) {
      if (!this.show(model)) continue;
      all.push(basketOf(model));
    }
    return all;
  }

  /** Follows a basket; one that could not be had is left out. */
  private show(model: Model): boolean {
    if (typeof model?.props?.session_id !== 'string') return false;
    if (this.shown.has(model)) return true;
    const session = model.props.session_id;
    const changed = () => {
      this.sink.handling(handlingOf(model));
      this.sink.basket(basketOf(model));
      this.heard();
    };
    this.shown.set(model, { session, changed });
    model.on('change', changed);
    model.on('delete', this.deleted);
    this.sink.handling(handlingOf(model));
    return true;
  }

  private hide(model: Model): void {
    const shown = this.shown.get(model);
    if (shown === undefined) return;
    this.shown.delete(model);
    model.off('change', shown.changed);
    model.off('delete', this.deleted);
  }

  private readonly deleted = () => {};

  private readonly added = (event: { item: Model }) => {
    if (this.show(event.item)) this.sink.basket(basketOf(event.item));
    this.heard();
  };

  private readonly removed = (event: { item: Model }) => {
    const shown = this.shown.get(event.item);
    this.hide(event.item);
    if (shown !== undefined) this.sink.gone(shown.session);
    this.heard();
  };

  private readonly updated = (update: Update) => {
    this.sink.update(update);
    this.heard({ sequence: update.sequence });
  };

  /** Something came; perhaps it is what was on its way. */
  private heard(more: Partial<Signals> = {}): void {
    if (this.awaited !== null && this.has(this.awaited.basket)) {
      this.awaited = null;
      this.behindSince = null;
    }
    this.sink.signals({ heardAt: Date.now(), behindSince: this.behindSince, ...more });
  }

  /** Whether the board has a basket as it is: open and as new, or not any more. */
  private has(basket: ListedBasket): boolean {
    const known = this.sink.known(basket.session_id);
    return basket.status === 'open' ? known !== null && known.version >= basket.version : known === null || !known.isOpen || known.version > basket.version;
  }

  /** The token is over, or the right to look was taken away: a newer token decides which. */
  private readonly unsubscribed = () => {
    if (this.stopped) return;
    this.close();
    void (async () => {
      const token = await this.options.renew().catch(() => null);
      if (this.stopped) return;
      if (token === null) return void this.refused();
      await this.signIn();
      await this.open(true);
    })();
  };

  private async probe(): Promise<void> {
    const askedAt = Date.now();
    let page: BasketPage;
    try {
      page = await this.options.newest(AbortSignal.any([this.asking.signal, AbortSignal.timeout(this.heartbeatMs)]));
    } catch (error) {
      if (this.stopped) return;
      const ending = endingOf(error);
      if (ending !== null) return this.end(ending);
      // The service, or what it reads from, does not answer: nothing newer can be known since it last did.
      this.sink.signals({ staleSince: this.lastAnswerAt ?? askedAt });
      return;
    }
    if (this.stopped) return;
    const now = Date.now();
    this.lastAnswerAt = now;
    const newest = page.baskets[0];
    // What was on its way a heartbeat ago, and still is not here, was lost: the gateway goes on without it, so another source has to do.
    const { awaited } = this;
    if (awaited !== null && askedAt - awaited.since >= this.heartbeatMs / 2 && !this.has(awaited.basket)) return this.giveUp();
    const missed = newest !== undefined && !this.has(newest);
    this.awaited = missed ? { basket: newest, since: now } : null;
    this.behindSince = missed ? (this.behindSince ?? askedAt) : null;
    this.sink.signals({
      heardAt: now,
      staleSince: null,
      behindSince: this.behindSince,
      sequence: page.sequence,
      ...(missed ? {} : { trueAt: now }),
    });
  }
}

/** Why nothing more is to be had, if that is what the service says. */
function endingOf(error: unknown): Ending | null {
  if (!(error instanceof Problem)) return null;
  if (error.status === 401) return error.code === 'token_revoked' ? 'revoked' : 'expired';
  return error.status === 403 || error.status === 404 ? 'denied' : null;
}

function basketOf(model: Model): Basket {
  const props = model.props;
  return { ...props, basket_sequence: props.sequence };
}

function handlingOf(model: Model): Handling {
  const { session_id, handled_by, handled_until } = model.props;
  return { session_id, handled_by: handled_by ?? null, handled_until: handled_until ?? null };
}

function inTime<T>(promise: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error('no answer')), CALL_TIMEOUT_MS);
    promise.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}
