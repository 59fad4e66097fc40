// The shop in a few numbers. Those of the open baskets are counted from the live ones; what was paid today is asked for.

import { useQuery } from '@tanstack/react-query';
import { useEffect, useMemo } from 'react';
import { dayStart } from '../look/money';
import type { BasketStore } from '../live/store';
import { useBoard, useShop } from '../shell/shop';
import { useClient, useNow, useTexts } from '../shell/use';

const SUMMARY_EVERY_MS = 15_000;
/** After something ended the summary is asked for, but not for each of a hundred. */
const SOON_MS = 1_500;

interface Totals {
  open: number;
  items: number;
  value: number;
  diverged: number;
}

function totalsOf(store: BasketStore): Totals {
  const totals = { open: 0, items: 0, value: 0, diverged: 0 };
  for (const row of store.all()) {
    if (row.endedAt !== null) continue;
    totals.open += 1;
    totals.items += row.items;
    totals.value += row.total;
    if (row.verdict === 'diverged') totals.diverged += 1;
  }
  return totals;
}

/** When the shop's day began. */
export function useDayStart(): Date {
  const { formats } = useShop();
  const now = useNow();
  const day = formats.dayKey(now);
  return useMemo(() => dayStart(day, formats.timeZone), [day, formats.timeZone]);
}

export function useSummary() {
  const client = useClient();
  const { shop, store } = useShop();
  const start = useDayStart();
  const asked = useQuery({
    queryKey: ['summary', shop.shop_id, start.getTime()],
    queryFn: ({ signal }) => client.summary(shop.shop_id, start, signal),
    refetchInterval: SUMMARY_EVERY_MS,
  });
  const { refetch } = asked;
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout> | null = null;
    const stop = store.onUpdate((update) => {
      if (update.basket.status === 'open' || timer !== null) return;
      timer = setTimeout(() => {
        timer = null;
        void refetch();
      }, SOON_MS);
    });
    return () => {
      stop();
      if (timer !== null) clearTimeout(timer);
    };
  }, [store, refetch]);
  return asked;
}

export function Tiles({ diverged, onDiverged }: { diverged: boolean; onDiverged: () => void }) {
  const texts = useTexts();
  const { formats, store } = useShop();
  const totals = useBoard(totalsOf);
  const { data: summary } = useSummary();
  const loaded = store.signalled.loaded || totals.open > 0;
  const of = (text: string) => (loaded ? text : '–');
  return (
    <section className="tiles" aria-label={texts.board.tiles}>
      <Tile name={texts.board.open} value={of(formats.number(totals.open))} />
      <Tile name={texts.board.items} value={of(formats.number(totals.items))} />
      <Tile name={texts.board.atRisk} value={of(formats.money(totals.value))} />
      <Tile
        name={texts.board.paid}
        value={summary === undefined ? '–' : formats.money(summary.paid_today.amount)}
        note={summary === undefined ? undefined : texts.board.paidCount(formats.number(summary.paid_today.count), summary.paid_today.count)}
      />
      <button type="button" className="tile tile-button" aria-pressed={diverged} data-bad={totals.diverged > 0 || undefined} onClick={onDiverged}>
        <span className="tile-name">{texts.board.diverged}</span>
        <span className="tile-value">{of(formats.number(totals.diverged))}</span>
      </button>
    </section>
  );
}

function Tile({ name, value, note }: { name: string; value: string; note?: string }) {
  return (
    <div className="tile">
      <span className="tile-name">{name}</span>
      <span className="tile-value">{value}</span>
      {note === undefined ? null : <span className="tile-note">{note}</span>}
    </div>
  );
}
