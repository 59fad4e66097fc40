// Where a board's baskets come from. There are two, Server-Sent Events and Resgate, and the board cannot tell them apart.

import type { Basket, Handling, Update } from '../api/types';
import type { Signals } from './freshness';

/** Why a source has ended for good: the person has to sign in again, or may not look at this shop. */
export type Ending = 'expired' | 'revoked' | 'denied';

/** Takes what a source hears. */
export interface Sink {
  /** A part of the open baskets. After the last part there are no others. */
  snapshot(baskets: Basket[], first: boolean, last: boolean): void;
  /** One basket as it is. */
  basket(basket: Basket): void;
  update(update: Update): void;
  /** A basket is not open any more. */
  gone(session: string): void;
  /** All who handle something. */
  handlings(all: Handling[]): void;
  handling(one: Handling): void;
  /** What there is to judge by whether all this is still true. */
  signals(change: Partial<Signals>): void;
  ended(ending: Ending): void;
  /** What the board has of a basket, so that a source can see whether it has fallen behind; null if it has none. */
  known(session: string): { version: number; isOpen: boolean } | null;
}

export interface LiveSource {
  readonly kind: 'sse' | 'resgate';
  start(): void;
  /** Ends it; nothing is told any more. */
  stop(): void;
}
