// All visits of the shop, the last changed first, day by day.

import { useInfiniteQuery } from '@tanstack/react-query';
import { useEffect, useMemo, useRef } from 'react';
import { Link, useSearchParams } from 'wouter';
import type { ListedBasket, Status, Verdict } from '../api/types';
import { time } from '../live/row';
import { dayStart } from '../look/money';
import { useShop } from '../shell/shop';
import { Empty, Failed, Loading } from '../shell/states';
import { shortOf, useClient, useNow, useTexts } from '../shell/use';

const STATUSES: Status[] = ['open', 'abandoned', 'paid', 'cancelled'];
const VERDICTS: Verdict[] = ['diverged', 'ok'];
const PAGE = 50;
const DAY_MS = 86_400_000;

export function HistoryPage() {
  const texts = useTexts();
  const client = useClient();
  const { shop, formats } = useShop();
  const now = useNow();
  const [params, setParams] = useSearchParams();
  const status = STATUSES.find((one) => one === params.get('status'));
  const verdict = VERDICTS.find((one) => one === params.get('verdict'));
  const wanted = params.get('day') ?? '';
  const day = /^\d{4}-\d{2}-\d{2}$/.test(wanted) && !Number.isNaN(Date.parse(wanted)) ? wanted : null;
  const begins = day === null ? undefined : dayStart(day, formats.timeZone);
  const ends = day === null ? undefined : dayStart(new Date(Date.parse(`${day}T12:00:00Z`) + DAY_MS).toISOString().slice(0, 10), formats.timeZone);
  const set = (key: string, value: string) =>
    setParams(
      (before) => {
        const next = new URLSearchParams(before);
        if (value === '') next.delete(key);
        else next.set(key, value);
        return next;
      },
      { replace: true },
    );

  const list = useInfiniteQuery({
    queryKey: ['history', shop.shop_id, status, verdict, begins, ends],
    queryFn: ({ pageParam, signal }) =>
      client.baskets(
        shop.shop_id,
        { status, verdict, since: begins?.toISOString(), until: ends?.toISOString(), limit: PAGE, cursor: pageParam },
        signal,
      ),
    initialPageParam: undefined as string | undefined,
    getNextPageParam: (page) => page.next ?? undefined,
    // A page that was left and come back to is read anew by hand; it would jump otherwise.
    staleTime: 30_000,
    refetchOnWindowFocus: false,
  });
  const shown = useMemo(() => {
    // A basket that changed between two pages is in both; the newer one is right.
    const seen = new Set<string>();
    return (list.data?.pages.flatMap((page) => page.baskets) ?? []).filter((basket) => {
      if (seen.has(basket.session_id)) return false;
      seen.add(basket.session_id);
      return true;
    });
  }, [list.data]);
  const { hasNextPage, isFetchingNextPage, fetchNextPage, isFetchNextPageError } = list;
  const pages = list.data?.pages.length;

  const end = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const element = end.current;
    if (element === null || !hasNextPage || isFetchingNextPage || isFetchNextPageError) return;
    // A new one for each page: whoever is at the end by then has not come to it anew.
    const seen = new IntersectionObserver(([entry]) => entry?.isIntersecting && void fetchNextPage(), { rootMargin: '600px' });
    seen.observe(element);
    return () => seen.disconnect();
  }, [pages, hasNextPage, isFetchingNextPage, isFetchNextPageError, fetchNextPage]);

  const days = useMemo(() => {
    const groups: { key: string; at: number; baskets: ListedBasket[] }[] = [];
    for (const basket of shown) {
      const at = time(basket.updated_at);
      const key = formats.dayKey(at);
      const last = groups[groups.length - 1];
      if (last?.key === key) last.baskets.push(basket);
      else groups.push({ key, at, baskets: [basket] });
    }
    return groups;
  }, [shown, formats]);
  const todayKey = formats.dayKey(now);
  const yesterdayKey = formats.dayKey(now - DAY_MS);

  return (
    <div className="history">
      <div className="page-head">
        <div>
          <h1>{texts.history.title}</h1>
          <p className="sub">{texts.history.lead}</p>
        </div>
        <div className="tools">
          <label className="field">
            <span>{texts.history.day}</span>
            <input type="date" value={day ?? ''} max={todayKey} onChange={(event) => set('day', event.target.value)} />
          </label>
          <label className="field">
            <span>{texts.history.status}</span>
            <select value={status ?? ''} onChange={(event) => set('status', event.target.value)}>
              <option value="">{texts.history.any}</option>
              {STATUSES.map((one) => (
                <option key={one} value={one}>
                  {texts.status[one]}
                </option>
              ))}
            </select>
          </label>
          <label className="field">
            <span>{texts.history.verdict}</span>
            <select value={verdict ?? ''} onChange={(event) => set('verdict', event.target.value)}>
              <option value="">{texts.history.any}</option>
              {VERDICTS.map((one) => (
                <option key={one} value={one}>
                  {texts.verdict[one]}
                </option>
              ))}
            </select>
          </label>
          <button type="button" className="button" onClick={() => void list.refetch()} disabled={list.isFetching}>
            {texts.history.refresh}
          </button>
        </div>
      </div>
      {list.data === undefined && list.error !== null ? (
        <Failed title={texts.history.cannotLoad} error={list.error} onRetry={() => void list.refetch()} />
      ) : list.data === undefined ? (
        <Loading />
      ) : shown.length === 0 ? (
        <Empty icon="history" title={texts.history.emptyTitle} text={texts.history.emptyText} />
      ) : (
        days.map((group) => (
          <section key={group.key} className="card day" aria-labelledby={`day-${group.key}`}>
            <h2 id={`day-${group.key}`} className="day-title">
              {group.key === todayKey ? texts.history.today : group.key === yesterdayKey ? texts.history.yesterday : formats.day(group.at)}
            </h2>
            <ul className="plain visits">
              {group.baskets.map((basket) => (
                <li key={basket.session_id}>
                  <Link href={`/shops/${shop.shop_id}/baskets/${basket.session_id}`} className="visit">
                    <span className="visit-at">{formats.clockWithSeconds(time(basket.updated_at))}</span>
                    <span className="visit-name">#{shortOf(basket.session_id)}</span>
                    <span className={`chip status-chip status-${basket.status}`}>{texts.status[basket.status]}</span>
                    <span className="visit-items sub">{texts.board.itemCount(basket.item_count)}</span>
                    <span className="visit-notes">
                      {basket.verdict === 'diverged' ? (
                        <span className="chip bad-chip">
                          {texts.verdict.diverged} {basket.divergence === null ? '' : formats.moneyChange(basket.divergence.by)}
                        </span>
                      ) : null}
                      {basket.finding_count > 0 ? <span className="chip warn-chip">{texts.board.findings(basket.finding_count)}</span> : null}
                    </span>
                    <span className="visit-total num">{formats.money(basket.total)}</span>
                  </Link>
                </li>
              ))}
            </ul>
          </section>
        ))
      )}
      <div ref={end} className="list-end">
        {isFetchNextPageError ? (
          <button type="button" className="button" onClick={() => void fetchNextPage()}>
            {texts.tryAgain}
          </button>
        ) : isFetchingNextPage ? (
          texts.history.loadingMore
        ) : hasNextPage ? (
          <button type="button" className="button" onClick={() => void fetchNextPage()}>
            {texts.history.more}
          </button>
        ) : shown.length > 0 ? (
          <span className="sub">{texts.history.end}</span>
        ) : null}
      </div>
    </div>
  );
}
