// One basket: what is in it, why, whether it is right, who is on it; now or at any moment of its past.

import { keepPreviousData, useQuery, useQueryClient } from '@tanstack/react-query';
import { type ReactNode, useCallback, useEffect, useMemo, useState } from 'react';
import { Link, useLocation, useSearchParams } from 'wouter';
import { useHistoryState } from 'wouter/use-browser-location';
import type { When } from '../api/client';
import { hasCode } from '../api/problem';
import type { Basket, Explanation, FiledCorrection } from '../api/types';
import { HandlingControl } from '../board/handling';
import { clipped, time } from '../live/row';
import { Icon } from '../look/icon';
import { useKeys } from '../shell/keys';
import { useNotices } from '../shell/notices';
import { useShop } from '../shell/shop';
import { Empty, Failed, Loading } from '../shell/states';
import { shortOf, useClient, useMay, useNow, useTexts } from '../shell/use';
import { CorrectDialog, type Correcting } from './correct';
import { Corrections, stateOf } from './corrections';
import { Lines } from './lines';
import { momentsOf } from './moments';
import { TimeLine } from './timeline';

/** Shortest pause between two looks at a basket to which much happens. */
const LOOK_EVERY_MS = 400;
/** In case an update was lost on a way that does not tell. */
const LOOK_ANYWAY_MS = 15_000;

/** The past does not change, but there is much of it: a visit that is played is not to fill the memory. */
const PAST_KEPT_MS = 10_000;

/** What a notice of a correction leads to the basket for. */
interface Undoing {
  undo: string;
  what: string;
}

/** The place in the journal or the time that the address names. */
function whenOf(params: URLSearchParams): When {
  const sequence = params.get('sequence');
  if (sequence !== null && /^\d{1,18}$/.test(sequence)) return { sequence: Number(sequence) };
  const at = params.get('at');
  return at !== null && !Number.isNaN(Date.parse(at)) ? { at } : null;
}

export function BasketPage({ session }: { session: string }) {
  const texts = useTexts();
  const client = useClient();
  const cache = useQueryClient();
  const { shop, store } = useShop();
  const id = shop.shop_id;
  const [params, setParams] = useSearchParams();
  const [, go] = useLocation();
  useKeys({ Escape: () => go(`/shops/${id}`) });
  const when = whenOf(params);
  const past = when !== null;

  const now = useQuery({
    queryKey: ['basket', id, session, 'now'],
    queryFn: ({ signal }) => client.basket(id, session, null, signal),
    refetchInterval: LOOK_ANYWAY_MS,
  });
  const whyNow = useQuery({
    queryKey: ['explain', id, session, 'now'],
    queryFn: ({ signal }) => client.explain(id, session, null, signal),
    refetchInterval: LOOK_ANYWAY_MS,
  });
  const corrections = useQuery({
    queryKey: ['corrections', id, session],
    queryFn: ({ signal }) => client.corrections(id, session, signal),
    refetchInterval: (query) => (query.state.data?.some((one) => one.state === 'new' || one.state === 'published') ? 1_000 : LOOK_ANYWAY_MS),
  });
  const then = useQuery({ ...pastOf('basket', when, (signal) => client.basket(id, session, when, signal)), enabled: past, placeholderData: keepPreviousData });
  const whyThen = useQuery({ ...pastOf('explain', when, (signal) => client.explain(id, session, when, signal)), enabled: past, placeholderData: keepPreviousData });

  function pastOf<T>(what: 'basket' | 'explain', moment: When, ask: (signal: AbortSignal) => Promise<T>) {
    return { queryKey: [what, id, session, moment], queryFn: ({ signal }: { signal: AbortSignal }) => ask(signal), staleTime: Number.POSITIVE_INFINITY, gcTime: PAST_KEPT_MS };
  }

  useEffect(() => {
    let timer: ReturnType<typeof setTimeout> | null = null;
    let last = 0;
    const look = () => {
      timer = null;
      last = performance.now();
      void cache.invalidateQueries({ queryKey: ['basket', id, session, 'now'] });
      void cache.invalidateQueries({ queryKey: ['explain', id, session, 'now'] });
      void cache.invalidateQueries({ queryKey: ['corrections', id, session] });
    };
    const stop = store.onTouch(session, () => {
      timer ??= setTimeout(look, Math.max(0, LOOK_EVERY_MS - (performance.now() - last)));
    });
    return () => {
      stop();
      if (timer !== null) clearTimeout(timer);
    };
  }, [store, id, session, cache]);

  const moments = useMemo(() => (whyNow.data === undefined ? [] : momentsOf(whyNow.data)), [whyNow.data]);
  const move = useCallback(
    (sequence: number | null) =>
      setParams(
        (before) => {
          const next = new URLSearchParams(before);
          next.delete('at');
          if (sequence === null) next.delete('sequence');
          else next.set('sequence', String(sequence));
          return next;
        },
        { replace: true },
      ),
    [setParams],
  );
  const soon = useCallback(
    (sequences: number[]) => {
      for (const sequence of sequences) {
        const moment = { sequence };
        void cache.prefetchQuery(pastOf('basket', moment, (signal) => client.basket(id, session, moment, signal)));
        void cache.prefetchQuery(pastOf('explain', moment, (signal) => client.explain(id, session, moment, signal)));
      }
    },
    [cache, client, id, session],
  );

  const shown = past ? then : now;
  const why = past ? whyThen : whyNow;
  const basket = shown.data;
  // While a moment is on its way the one before stays, marked as what it is, and without the reasons of another.
  const isOfAnother = shown.isPlaceholderData;
  const explanation = isOfAnother || why.isPlaceholderData ? undefined : why.data;
  const at = !past ? null : 'sequence' in when ? when.sequence : isOfAnother ? null : (then.data?.basket_sequence ?? null);
  const notThen = past && hasCode(then.error, 'not_found') && now.data !== undefined;
  let body: ReactNode;
  if (basket !== undefined && !notThen) {
    body = (
      <Shown
        basket={basket}
        now={now.data}
        explanation={explanation}
        filed={corrections.data ?? []}
        past={past}
        loading={isOfAnother || now.isFetching}
        at={at}
        onMove={move}
      />
    );
  } else if (notThen) {
    body = (
      <Empty icon="clock" title={texts.basket.notThen} text={texts.basket.notThenText}>
        <button type="button" className="button" onClick={() => move(null)}>
          {texts.past.backToNow}
        </button>
      </Empty>
    );
  } else if (hasCode(shown.error, 'not_found')) {
    body = (
      <Empty title={texts.basket.gone} text={texts.basket.goneText}>
        <Link href={`/shops/${id}`} className="button">
          {texts.basket.back}
        </Link>
      </Empty>
    );
  } else if (shown.error !== null) {
    body = <Failed title={texts.basket.cannotLoad} error={shown.error} onRetry={() => void shown.refetch()} />;
  } else body = <Loading />;

  return (
    <div className="basket-page" data-past={past || undefined} data-loading={isOfAnother || undefined} aria-busy={isOfAnother || undefined}>
      <Head session={session} basket={basket} past={past} at={at} />
      <TimeLine moments={moments} sequence={at} onMove={move} onSoon={soon} />
      {body}
    </div>
  );
}

function Head({ session, basket, past, at }: { session: string; basket: Basket | undefined; past: boolean; at: number | null }) {
  const texts = useTexts();
  const { shop, store, formats } = useShop();
  const { notify } = useNotices();
  const now = useNow();
  const [, again] = useState(0);
  useEffect(() => store.onTouch(session, () => again((count) => count + 1)), [store, session]);
  const handling = store.handlingOf(session);
  const copy = (text: string) => {
    // Only there on secure origins.
    if (navigator.clipboard === undefined) notify(texts.basket.cannotCopy, { kind: 'bad' });
    else
      navigator.clipboard.writeText(text).then(
        () => notify(texts.basket.linkCopied),
        () => notify(texts.basket.cannotCopy, { kind: 'bad' }),
      );
  };
  const link = `${location.origin}/shops/${shop.shop_id}/baskets/${session}${at === null ? '' : `?sequence=${at}`}`;
  return (
    <div className="basket-head">
      <Link href={`/shops/${shop.shop_id}`} className="button quiet icon-only back" aria-label={texts.basket.back}>
        <Icon name="arrowLeft" />
      </Link>
      <div className="basket-title">
        <h1>
          {texts.basket.title(`#${shortOf(session)}`)}
          {basket === undefined ? null : (
            <span className={`chip status-chip status-${basket.status}`}>{texts.status[basket.status]}</span>
          )}
        </h1>
        {basket === undefined ? null : (
          <p className="sub">
            {texts.basket.opened} {formats.dayAndTime(time(basket.opened_at))}
            {past || basket.updated_at === null ? null : ` · ${texts.basket.lastAction} ${texts.ago(texts.age((now - time(basket.updated_at)) / 1000), (now - time(basket.updated_at)) / 1000)}`}
          </p>
        )}
      </div>
      <div className="basket-tools">
        {past || basket === undefined || basket.status !== 'open' ? null : <HandlingControl session={session} by={handling?.by ?? null} until={handling?.until ?? 0} />}
        <button type="button" className="button" onClick={() => copy(link)}>
          <Icon name="link" />
          {past ? texts.basket.copyLinkMoment : texts.basket.copyLink}
        </button>
      </div>
    </div>
  );
}

function Shown({
  basket,
  now,
  explanation,
  filed,
  past,
  loading,
  at,
  onMove,
}: {
  basket: Basket;
  now: Basket | undefined;
  explanation: Explanation | undefined;
  filed: FiledCorrection[];
  past: boolean;
  /** What is shown is about to be replaced. */
  loading: boolean;
  at: number | null;
  onMove: (sequence: number | null) => void;
}) {
  const texts = useTexts();
  const client = useClient();
  const cache = useQueryClient();
  const { shop } = useShop();
  const { notify, retract } = useNotices();
  const may = useMay('correct');
  const mayCorrect = may && !past;
  // What is corrected is the basket as it was when the person began, however it goes on meanwhile.
  const [correcting, setCorrecting] = useState<{ basket: Basket; what: Correcting } | null>(null);
  const begin = (what: Correcting) => setCorrecting({ basket, what });
  const [, go] = useLocation();
  const wanted = useHistoryState<Partial<Undoing> | null>();
  useEffect(() => {
    if (wanted?.undo === undefined || wanted.what === undefined || !mayCorrect || loading) return;
    setCorrecting({ basket, what: { kind: 'undo', correction: wanted.undo, what: wanted.what } });
    // Once: it is not asked for again by going back.
    go(location.pathname, { replace: true });
  }, [wanted, mayCorrect, loading, basket, go]);
  useEffect(() => {
    // What is undone, by whomever, is not to be undone once more.
    if (!past) for (const one of filed) if (stateOf(one, basket) === 'undone') retract(one.id);
  }, [filed, basket, past, retract]);
  const names = useMemo(() => {
    const known = new Map<number, string>();
    for (const line of explanation?.lines ?? []) if (line.product_name !== null) known.set(line.product_id, line.product_name);
    for (const line of now?.lines ?? []) if (line.product_name !== null) known.set(line.product_id, line.product_name);
    return known;
  }, [explanation, now]);
  const name = (product: number) => clipped(names.get(product) ?? null, 60) ?? texts.basket.noName(product);
  const then = at === null ? filed : filed.filter((one) => one.sequence !== null && one.sequence <= at);

  const done = (correction: FiledCorrection) => {
    const undoing = correcting?.what.kind === 'undo';
    setCorrecting(null);
    const { sequence } = correction;
    if (sequence === null) notify(texts.correct.doneWaiting);
    else {
      void client.basketAsNewAs(shop.shop_id, correction.session_id, sequence).then((newer) => {
        cache.setQueryData<Basket>(['basket', shop.shop_id, correction.session_id, 'now'], (before) => (before === undefined || before.version < newer.version ? newer : before));
        void cache.invalidateQueries({ queryKey: ['explain', shop.shop_id, correction.session_id, 'now'] });
        void cache.invalidateQueries({ queryKey: ['corrections', shop.shop_id, correction.session_id] });
        notify(undoing ? texts.correct.undone : texts.correct.done, {
          about: undoing ? undefined : correction.id,
          // The notice stays when somebody goes elsewhere, so it leads back to the basket.
          action: undoing
            ? undefined
            : {
                label: texts.correct.undoIt,
                run: () => {
                  const place = `/shops/${shop.shop_id}/baskets/${correction.session_id}`;
                  const state: Undoing = { undo: correction.id, what: correction.reason };
                  go(place, { state, replace: location.pathname === place });
                },
              },
        });
      }, () => notify(texts.correct.done));
    }
    void cache.invalidateQueries({ queryKey: ['corrections', shop.shop_id, correction.session_id] });
  };
  return (
    <>
      {past && may ? <p className="note past-note">{texts.past.noCorrecting}</p> : null}
      <div className="basket-parts">
        <div className="basket-main">
          <Lines basket={basket} explanation={explanation} mayCorrect={mayCorrect} onCorrect={begin} />
        </div>
        <div className="basket-side">
          <Verdict basket={basket} explanation={explanation} onMove={onMove} />
          <Findings basket={basket} name={name} onMove={onMove} />
          <Corrections
            filed={then}
            basket={basket}
            past={past}
            name={name}
            mayUndo={mayCorrect}
            onUndo={(one, what) => begin({ kind: 'undo', correction: one.id, what })}
          />
          <Ids basket={basket} />
        </div>
      </div>
      {correcting === null ? null : (
        <CorrectDialog basket={correcting.basket} correcting={correcting.what} onClose={() => setCorrecting(null)} onDone={done} />
      )}
    </>
  );
}

function Verdict({ basket, explanation, onMove }: { basket: Basket; explanation: Explanation | undefined; onMove: (sequence: number) => void }) {
  const texts = useTexts();
  const { formats } = useShop();
  const { divergence, claimed_total: claimed } = basket;
  const since = divergence === null ? undefined : explanation?.claims.find((claim) => claim.sequence === divergence.since_sequence);
  const by = divergence === null ? 0 : divergence.by;
  return (
    <section className="card verdict" data-verdict={claimed === null ? 'none' : basket.verdict} aria-label={texts.history.verdict}>
      <dl className="compare">
        <div>
          <dt>{texts.basket.total}</dt>
          <dd>{formats.money(basket.total)}</dd>
        </div>
        <div>
          <dt>{texts.basket.claimed}</dt>
          <dd>{claimed === null ? '–' : formats.money(claimed)}</dd>
        </div>
        {by === 0 ? null : (
          <div className="compare-by">
            <dt>{texts.basket.difference}</dt>
            <dd>{formats.moneyChange(by)}</dd>
          </div>
        )}
      </dl>
      {divergence === null ? (
        <p className="verdict-text">
          {claimed === null ? null : <Icon name="check" />}
          {claimed === null ? texts.basket.noClaim : texts.basket.agrees}
        </p>
      ) : (
        <>
          <p className="verdict-text">
            <Icon name="alert" />
            <span>
              {texts.basket.diverged(by > 0 ? texts.basket.divergedMore(formats.money(by)) : texts.basket.divergedLess(formats.money(-by)))}{' '}
              {since === undefined ? null : texts.basket.divergedSince(String(divergence.since_action_id), formats.clockWithSeconds(time(since.create_time)))}
            </span>
          </p>
          <button type="button" className="button small" onClick={() => onMove(divergence.since_sequence)}>
            <Icon name="history" />
            {texts.basket.showThen}
          </button>
        </>
      )}
      {basket.parked_since === null ? null : <p className="note bad">{texts.basket.parked}</p>}
    </section>
  );
}

function Findings({ basket, name, onMove }: { basket: Basket; name: (product: number) => string; onMove: (sequence: number) => void }) {
  const texts = useTexts();
  return (
    <section className="card" aria-labelledby="findings-title">
      <div className="card-head">
        <h2 id="findings-title">{texts.basket.findings}</h2>
      </div>
      {basket.findings.length === 0 && basket.missing.length === 0 ? <p className="quiet-text">{texts.basket.noFindings}</p> : null}
      <ul className="plain findings">
        {basket.findings.map((finding) => (
          <li key={`${finding.sequence} ${finding.kind}`}>
            <Icon name="flag" />
            <span>
              {texts.basket.findingKinds[finding.kind] ?? finding.kind}
              <span className="sub">
                {finding.product_id === null ? null : (
                  <>
                    <bdi>{name(finding.product_id)}</bdi>
                    {', '}
                  </>
                )}
                <button type="button" className="link-button" onClick={() => onMove(finding.sequence)}>
                  {texts.basket.atAction(String(finding.action_id))}
                </button>
              </span>
            </span>
          </li>
        ))}
      </ul>
      {basket.finding_count > basket.findings.length ? <p className="sub">{texts.basket.moreFindings(basket.finding_count - basket.findings.length)}</p> : null}
      {basket.missing.length > 0 ? <p className="note warn">{texts.basket.missing(basket.missing.slice(0, 20).join(', ') + (basket.missing.length > 20 ? '…' : ''))}</p> : null}
    </section>
  );
}

function Ids({ basket }: { basket: Basket }) {
  const texts = useTexts();
  return (
    <dl className="ids">
      <div>
        <dt>{texts.basket.session}</dt>
        <dd className="mono">{basket.session_id}</dd>
      </div>
      <div>
        <dt>{texts.basket.shopper}</dt>
        <dd className="mono">{basket.shopper_id ?? texts.unknown}</dd>
      </div>
    </dl>
  );
}
