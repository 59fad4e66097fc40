// One shop: its live baskets, in a store that lives as long as the shop is looked at, whichever of its screens is open.

import { useQuery } from '@tanstack/react-query';
import { createContext, type ReactNode, useContext, useEffect, useMemo, useState, useSyncExternalStore } from 'react';
import type { Shop } from '../api/types';
import type { Freshness } from '../live/freshness';
import { openLive } from '../live/open';
import type { Row } from '../live/row';
import type { LiveSource } from '../live/source';
import { BasketStore } from '../live/store';
import { type Formats, formatsOf } from '../look/money';
import { useAuth, useClient, useMe, useSpoken } from './use';

interface Shown {
  shop: Shop;
  store: BasketStore;
  formats: Formats;
  source: LiveSource['kind'] | null;
  /** The person may not look at this shop. */
  denied: boolean;
}

const Context = createContext<Shown | null>(null);

export function useShop(): Shown {
  const shown = useContext(Context);
  if (shown === null) throw new Error('no shop is shown');
  return shown;
}

export function ShopProvider({ id, children }: { id: string; children: ReactNode }) {
  const auth = useAuth();
  const client = useClient();
  const me = useMe();
  const { locale } = useSpoken();
  const known = me.shops.find((one) => one.shop_id === id);
  const asked = useQuery({ queryKey: ['shop', id], queryFn: ({ signal }) => client.shop(id, signal), initialData: known, staleTime: 60_000 });
  const shop = asked.data ?? { shop_id: id, name: null, currency: null, time_zone: null };
  const [source, setSource] = useState<LiveSource['kind'] | null>(null);
  const store = useMemo(() => new BasketStore(), [id]);
  useEffect(() => {
    const { config } = auth;
    if (config === null) return;
    const close = openLive(id, config, { client, token: () => auth.token(), renew: () => auth.renew() }, store, setSource);
    const stopListening = store.onSignals(() => {
      // That one shop is not theirs says nothing of their sign-in.
      if (store.endedWith !== null && store.endedWith !== 'denied') auth.leave(store.endedWith);
    });
    return () => {
      stopListening();
      close();
    };
  }, [id, auth, client, store]);
  const formats = useMemo(() => formatsOf(locale, shop.currency, shop.time_zone), [locale, shop.currency, shop.time_zone]);
  const denied = useSyncExternalStore(
    useMemo(() => (listener: () => void) => store.onSignals(listener), [store]),
    () => store.endedWith === 'denied',
  );
  const value = useMemo(() => ({ shop, store, formats, source, denied }), [shop, store, formats, source, denied]);
  return <Context.Provider value={value}>{children}</Context.Provider>;
}

/** One row of the board, as it changes. */
export function useRow(session: string): Row | undefined {
  const { store } = useShop();
  return useSyncExternalStore(
    useMemo(() => (listener: () => void) => store.onRow(session, listener), [store, session]),
    () => store.row(session),
  );
}

/** Something made of all rows, at most so often. */
export function useBoard<T>(make: (store: BasketStore) => T, everyMs = 250): T {
  const { store } = useShop();
  const [value, setValue] = useState(() => make(store));
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout> | null = null;
    let last = 0;
    const run = () => {
      timer = null;
      last = performance.now();
      setValue(make(store));
    };
    const changed = () => {
      if (timer !== null) return;
      const wait = everyMs - (performance.now() - last);
      if (wait <= 0) run();
      else timer = setTimeout(run, wait);
    };
    run();
    const stop = store.onChange(changed);
    return () => {
      stop();
      if (timer !== null) clearTimeout(timer);
    };
  }, [store, make, everyMs]);
  return value;
}

/** Whether what is shown is true, judged anew each second and with each sign of life. */
export function useFreshness(): Freshness {
  const { store } = useShop();
  const [value, setValue] = useState(() => store.freshness());
  useEffect(() => {
    const look = () => {
      const next = store.freshness();
      setValue((before) => (JSON.stringify(before) === JSON.stringify(next) ? before : next));
    };
    look();
    const timer = setInterval(look, 500);
    const stop = store.onSignals(look);
    return () => {
      clearInterval(timer);
      stop();
    };
  }, [store]);
  return value;
}
