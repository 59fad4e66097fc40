// Requests to the service, with the token of whoever is signed in.

import { noteServerDate } from './clock';
import { Problem, problemOf, Unreachable } from './problem';
import type {
  Basket,
  BasketPage,
  Day,
  Explanation,
  FiledCorrection,
  Handling,
  Me,
  Operations,
  ParkedEvent,
  Proposal,
  Shop,
  ShopSummary,
  Status,
  Verdict,
} from './types';

/** When a visit is looked at: now, a place in the journal, or a time. */
export type When = { sequence: number } | { at: string } | null;

/** Who the requests come from. */
export interface Bearer {
  /** The token that counts now; null where nobody is asked for one. */
  token(): string | null;
  /** A newer one after the one was refused, or null if there is none. */
  renew(): Promise<string | null>;
  /** The token is refused for good. */
  refused(problem: Problem): void;
}

const REQUEST_TIMEOUT_MS = 20_000;

export class Client {
  constructor(private readonly bearer: Bearer) {}

  /** The headers of a request of one's own, such as a stream. */
  headers(): Record<string, string> {
    const token = this.bearer.token();
    return token === null ? {} : { authorization: `Bearer ${token}` };
  }

  async json<T>(path: string, init: RequestInit = {}): Promise<T> {
    const response = await this.request(path, init);
    return (await response.json()) as T;
  }

  /** Sends a request; one whose token is over goes again, once, with a renewed one. */
  async request(path: string, init: RequestInit = {}): Promise<Response> {
    const first = await this.send(path, init);
    if (first.ok) return first;
    const problem = await problemOf(first);
    if (problem.status !== 401) throw problem;
    if (problem.code === 'token_expired' || problem.code === 'no_token') {
      const token = await this.bearer.renew();
      if (token !== null) {
        const second = await this.send(path, init);
        if (second.ok) return second;
        const again = await problemOf(second);
        if (again.status === 401) this.bearer.refused(again);
        throw again;
      }
    }
    this.bearer.refused(problem);
    throw problem;
  }

  private async send(path: string, init: RequestInit): Promise<Response> {
    const late = AbortSignal.timeout(REQUEST_TIMEOUT_MS);
    const signal = init.signal ? AbortSignal.any([init.signal, late]) : late;
    let response: Response;
    try {
      response = await fetch(path, { ...init, signal, headers: { ...this.headers(), ...init.headers }, cache: 'no-store' });
    } catch (error) {
      if (init.signal?.aborted) throw error;
      throw new Unreachable(error);
    }
    noteServerDate(response.headers.get('date'));
    return response;
  }

  private post<T>(path: string, body: unknown, method = 'POST'): Promise<T> {
    return this.json<T>(path, { method, headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) });
  }

  me(signal?: AbortSignal): Promise<Me> {
    return this.json('/v1/me', { signal });
  }

  shop(shop: string, signal?: AbortSignal): Promise<Shop> {
    return this.json(`/v1/shops/${shop}`, { signal });
  }

  summary(shop: string, dayStart: Date, signal?: AbortSignal): Promise<ShopSummary> {
    return this.json(`/v1/shops/${shop}/summary?${query({ day_start: dayStart.toISOString() })}`, { signal });
  }

  day(shop: string, dayStart: Date, signal?: AbortSignal): Promise<Day> {
    return this.json(`/v1/shops/${shop}/day?${query({ day_start: dayStart.toISOString(), interval: '15m' })}`, { signal });
  }

  baskets(
    shop: string,
    asked: { status?: Status; verdict?: Verdict; parked?: 'true'; since?: string; until?: string; limit?: number; cursor?: string },
    signal?: AbortSignal,
  ): Promise<BasketPage> {
    return this.json(`/v1/shops/${shop}/baskets?${query(asked)}`, { signal });
  }

  basket(shop: string, session: string, when: When, signal?: AbortSignal): Promise<Basket> {
    return this.json(`/v1/shops/${shop}/sessions/${session}/basket${at(when)}`, { signal });
  }

  /** The basket once it has what a receipt tells of, or as new as it is after five seconds. */
  async basketAsNewAs(shop: string, session: string, sequence: number): Promise<Basket> {
    try {
      return await this.json(`/v1/shops/${shop}/sessions/${session}/basket?${query({ min_sequence: sequence })}`);
    } catch (error) {
      if (error instanceof Problem && error.code === 'not_yet' && error.body.basket) return error.body.basket;
      throw error;
    }
  }

  explain(shop: string, session: string, when: When, signal?: AbortSignal): Promise<Explanation> {
    return this.json(`/v1/shops/${shop}/sessions/${session}/explain${at(when)}`, { signal });
  }

  async corrections(shop: string, session: string, signal?: AbortSignal): Promise<FiledCorrection[]> {
    const list = await this.json<{ corrections: FiledCorrection[] }>(
      `/v1/shops/${shop}/sessions/${session}/corrections?limit=200`,
      { signal },
    );
    return list.corrections;
  }

  correct(shop: string, session: string, proposal: Proposal): Promise<FiledCorrection> {
    return this.post(`/v1/shops/${shop}/sessions/${session}/corrections`, proposal);
  }

  handle(shop: string, session: string, by: string, minutes: number, instead: boolean): Promise<Handling> {
    return this.post(`/v1/shops/${shop}/sessions/${session}/handling`, { by, minutes, instead }, 'PUT');
  }

  release(shop: string, session: string, by: string): Promise<Handling> {
    return this.post(`/v1/shops/${shop}/sessions/${session}/handling`, { by }, 'DELETE');
  }

  async handlings(shop: string, signal?: AbortSignal): Promise<Handling[]> {
    return (await this.json<{ handlings: Handling[] }>(`/v1/shops/${shop}/handlings`, { signal })).handlings;
  }

  operations(signal?: AbortSignal): Promise<Operations> {
    return this.json('/v1/operations', { signal });
  }

  parked(cursor: string | null, signal?: AbortSignal): Promise<{ parked: ParkedEvent[]; next: string | null }> {
    return this.json(`/v1/operations/parked?${query({ limit: 50, cursor: cursor ?? undefined })}`, { signal });
  }

  decide(id: string, decision: 'retry' | 'drop', reason: string): Promise<ParkedEvent> {
    return this.post(`/v1/operations/parked/${encodeURIComponent(id)}`, { decision, reason });
  }

  async allCorrections(signal?: AbortSignal): Promise<FiledCorrection[]> {
    return (await this.json<{ corrections: FiledCorrection[] }>('/v1/operations/corrections?limit=50', { signal })).corrections;
  }
}

export function query(members: Record<string, string | number | undefined>): string {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(members)) {
    if (value !== undefined && value !== '') search.set(name, String(value));
  }
  return search.toString();
}

function at(when: When): string {
  if (when === null) return '';
  return `?${'sequence' in when ? query({ sequence: when.sequence }) : query({ at: when.at })}`;
}
