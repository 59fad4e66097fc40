// Opens the live source of a shop: Resgate where the service names one and it can be reached, else Server-Sent Events.

import type { Client } from '../api/client';
import type { Config } from '../api/types';
import { watchMissing } from './missing';
import type { LiveSource } from './source';
import { SseSource } from './sse';
import type { BasketStore } from './store';

export interface Session {
  client: Client;
  token: () => string | null;
  renew: () => Promise<string | null>;
}

/** Follows the shop into the store until it is closed. */
export function openLive(
  shop: string,
  config: Config,
  session: Session,
  store: BasketStore,
  told: (kind: LiveSource['kind']) => void = () => {},
): () => void {
  let source: LiveSource | null = null;
  let stopMissing: (() => void) | null = null;
  let closed = false;

  const begin = (next: LiveSource) => {
    source = next;
    told(next.kind);
    next.start();
  };
  const overSse = () => {
    if (closed) return;
    stopMissing = watchMissing(
      store,
      (id) => session.client.basket(shop, id, null),
      () => session.client.baskets(shop, { status: 'open', parked: 'true', limit: 200 }),
    );
    begin(new SseSource({ url: `/v1/shops/${shop}/updates`, headers: () => session.client.headers(), renew: session.renew }, store));
  };
  const { resgate } = config;
  if (resgate === null) overSse();
  else {
    import('./resgate').then(({ ResgateSource }) => {
      if (closed) return;
      begin(
        new ResgateSource(
          {
            url: resgate.url,
            shop,
            token: session.token,
            renew: session.renew,
            newest: (signal) => session.client.baskets(shop, { limit: 1 }, signal),
            unreachable: overSse,
          },
          store,
        ),
      );
    }, overSse);
  }
  return () => {
    closed = true;
    source?.stop();
    stopMissing?.();
  };
}
