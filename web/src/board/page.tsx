// The board: the open baskets of the shop as they change.

import { defaultRangeExtractor, useWindowVirtualizer } from '@tanstack/react-virtual';
import { type KeyboardEvent, type PointerEvent, useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from 'react';
import { useLocation, useSearchParams } from 'wouter';
import { serverNow } from '../api/clock';
import { Icon } from '../look/icon';
import { preferences } from '../look/preferences';
import { useKeys } from '../shell/keys';
import { last } from '../shell/left';
import { useName } from '../shell/name';
import { useFreshness, useShop } from '../shell/shop';
import { Empty, Loading } from '../shell/states';
import { useMay, useMedia, useTexts } from '../shell/use';
import { DayChart } from './chart';
import { useHandling } from './handling';
import { type Arranged, arrange, type Filter, FILTERS, isHandled, type Order, ORDERS } from './ordering';
import { BoardRow } from './row';
import { Tiles } from './tiles';

/** So long after the last touch of the list nothing in it moves. */
const HOLD_MS = 4_000;
/** While a mouse is on the list neither; one that has not moved for so long was left lying there. */
const HOLD_UNDER_MOUSE_MS = 120_000;
/** Whoever leaves the list may come back at once. */
const HOLD_AFTER_MOUSE_MS = 500;
const ARRANGE_EVERY_MS = 250;

export function BoardPage() {
  const texts = useTexts();
  const { store, formats } = useShop();
  const { name } = useName();
  const [params, setParams] = useSearchParams();
  const filter = FILTERS.find((one) => one === params.get('show')) ?? 'all';
  const order = ORDERS.find((one) => one === params.get('order')) ?? 'needs';
  const words = params.get('q') ?? '';
  const set = useCallback(
    (key: string, value: string, initial: string) =>
      setParams(
        (before) => {
          const next = new URLSearchParams(before);
          if (value === initial) next.delete(key);
          else next.set(key, value);
          return next;
        },
        { replace: true },
      ),
    [setParams],
  );
  const hold = useRef(0);
  const { arranged, reorder } = useArranged(words, filter, order, name, hold);
  const showAll = () => setParams({}, { replace: true });
  const any = arranged.open > 0;
  return (
    <div className="board">
      <h1 className="unseen">{texts.board.title}</h1>
      <Tiles diverged={filter === 'diverged'} onDiverged={() => set('show', filter === 'diverged' ? 'all' : 'diverged', 'all')} />
      <DayChart />
      <section className="card list-card" aria-label={texts.board.grid}>
        <div className="tools">
          <label className="field search">
            <span className="unseen">{texts.board.search}</span>
            <Icon name="search" />
            <input
              type="search"
              value={words}
              placeholder={texts.board.search}
              onChange={(event) => set('q', event.target.value, '')}
              onKeyDown={(event) => event.key === 'Escape' && event.currentTarget.blur()}
            />
          </label>
          <label className="field">
            <span className="unseen">{texts.board.filter}</span>
            <select value={filter} onChange={(event) => set('show', event.target.value, 'all')}>
              {FILTERS.map((one) => (
                <option key={one} value={one}>
                  {texts.board.filters[one]}
                </option>
              ))}
            </select>
          </label>
          <label className="field">
            <span className="unseen">{texts.board.sort}</span>
            <select value={order} onChange={(event) => set('order', event.target.value, 'needs')}>
              {ORDERS.map((one) => (
                <option key={one} value={one}>
                  {texts.board.sorts[one]}
                </option>
              ))}
            </select>
          </label>
          <span className="tools-count">{store.signalled.loaded ? texts.board.count(formats.number(arranged.shown), formats.number(arranged.open)) : ''}</span>
          {arranged.moved > 0 ? (
            <button type="button" className="button small held" onClick={reorder} title={texts.board.held(arranged.moved)}>
              <Icon name="sort" />
              {texts.board.reorder}
              <span className="count" aria-hidden="true">
                {arranged.moved}
              </span>
              <span className="unseen">{texts.board.held(arranged.moved)}</span>
            </button>
          ) : null}
        </div>
        {arranged.sessions.length > 0 ? (
          <Grid sessions={arranged.sessions} hold={hold} reorder={reorder} />
        ) : !store.signalled.loaded ? (
          <Waiting />
        ) : any ? (
          <Empty icon="search" title={texts.board.noMatchTitle} text={texts.board.noMatchText}>
            <button type="button" className="button" onClick={showAll}>
              {texts.board.showAll}
            </button>
          </Empty>
        ) : (
          <Empty title={texts.board.emptyTitle} text={texts.board.emptyText} />
        )}
      </section>
    </div>
  );
}

function Waiting() {
  const texts = useTexts();
  const fresh = useFreshness();
  return <Loading text={fresh.kind === 'connecting' || fresh.kind === 'live' ? texts.board.waiting : texts.board.waitingLong} />;
}

/** What is shown, arranged anew when something changed, a few times a second at most, and each second for what time alone changes. */
function useArranged(words: string, filter: Filter, order: Order, me: string | null, hold: { current: number }) {
  const { store } = useShop();
  const [arranged, setArranged] = useState<Arranged>(() => arrange(store.all(), { words, filter, order, me, now: serverNow() }, [], false));
  const last = useRef(arranged);
  const asked = `${words}\n${filter}\n${order}`;
  const askedBefore = useRef(asked);

  const run = useCallback(() => {
    // What is asked for anew is not held back by an older order.
    const anew = askedBefore.current !== asked;
    askedBefore.current = asked;
    const held = !anew && Date.now() < hold.current;
    if (!held) store.sweep();
    const next = arrange(store.all(), { words, filter, order, me, now: serverNow() }, last.current.sessions, held);
    const before = last.current;
    const same =
      next.moved === before.moved &&
      next.open === before.open &&
      next.shown === before.shown &&
      next.sessions.length === before.sessions.length &&
      next.sessions.every((session, at) => session === before.sessions[at]);
    if (same) return;
    last.current = next;
    setArranged(next);
  }, [asked, words, filter, order, me, hold, store]);

  useLayoutEffect(run, [run]);
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout> | null = null;
    let ran = 0;
    const soon = () => {
      if (timer !== null) return;
      timer = setTimeout(
        () => {
          timer = null;
          ran = performance.now();
          run();
        },
        Math.max(0, ARRANGE_EVERY_MS - (performance.now() - ran)),
      );
    };
    const stop = store.onChange(soon);
    const stopSignals = store.onSignals(soon);
    const each = setInterval(soon, 1000);
    return () => {
      stop();
      stopSignals();
      clearInterval(each);
      if (timer !== null) clearTimeout(timer);
    };
  }, [store, run]);
  const reorder = useCallback(() => {
    hold.current = 0;
    run();
  }, [hold, run]);
  return { arranged, reorder };
}

function Grid({ sessions, hold, reorder }: { sessions: string[]; hold: { current: number }; reorder: () => void }) {
  const texts = useTexts();
  const { shop, store } = useShop();
  const [, go] = useLocation();
  const mayHandle = useMay('handle');
  const { take, release, name } = useHandling();
  const narrow = useMedia('(max-width: 859px)');
  const narrowest = useMedia('(max-width: 639px)');
  const height = narrowest ? 112 : narrow ? 74 : 60;
  const list = useRef<HTMLDivElement>(null);
  const [margin, setMargin] = useState(0);
  const [head, setHead] = useState(0);
  const [focused, setFocused] = useState<string | null>(() => last.basket);
  const wantsFocus = useRef(false);
  const at = useMemo(() => new Map(sessions.map((session, index) => [session, index])), [sessions]);
  const focusedIndex = focused === null ? -1 : (at.get(focused) ?? -1);

  useLayoutEffect(() => {
    const measure = () => {
      if (list.current !== null) setMargin(list.current.getBoundingClientRect().top + scrollY);
      setHead(document.querySelector<HTMLElement>('.head')?.offsetHeight ?? 0);
    };
    measure();
    const seen = new ResizeObserver(measure);
    seen.observe(document.body);
    return () => seen.disconnect();
  }, []);

  const virtual = useWindowVirtualizer({
    count: sessions.length,
    estimateSize: () => height,
    overscan: 6,
    scrollMargin: margin,
    // What is under the head of the page is not seen.
    scrollPaddingStart: head,
    getItemKey: (index) => sessions[index] ?? index,
    // The row that has the focus stays, wherever the list is scrolled to.
    rangeExtractor: (range) => {
      const shown = defaultRangeExtractor(range);
      return focusedIndex < 0 || shown.includes(focusedIndex) ? shown : [...shown, focusedIndex].sort((a, b) => a - b);
    },
  });
  useLayoutEffect(() => virtual.measure(), [virtual, height]);
  const items = virtual.getVirtualItems();

  useLayoutEffect(() => {
    if (!wantsFocus.current || focused === null) return;
    const row = list.current?.querySelector<HTMLElement>(`[data-session="${focused}"]`);
    if (row != null) {
      wantsFocus.current = false;
      row.focus({ preventScroll: true });
    }
  });

  const open = (session: string) => {
    last.basket = session;
    go(`/shops/${shop.shop_id}/baskets/${session}`);
  };
  const touch = (ms = HOLD_MS) => {
    hold.current = Math.max(hold.current, Date.now() + ms);
  };
  const pointed = (event: PointerEvent) => touch(event.pointerType === 'mouse' ? HOLD_UNDER_MOUSE_MS : HOLD_MS);
  // A list that is gone is not left by a mouse any more.
  useEffect(
    () => () => {
      hold.current = 0;
    },
    [hold],
  );
  const move = (to: number) => {
    const index = Math.max(0, Math.min(sessions.length - 1, to));
    const session = sessions[index];
    if (session === undefined) return;
    wantsFocus.current = true;
    setFocused(session);
    virtual.scrollToIndex(index, { align: 'auto' });
  };
  useKeys({
    o: reorder,
    ArrowDown: () => move(focusedIndex + 1),
    ArrowUp: () => move(Math.max(0, focusedIndex - 1)),
  });
  const pressed = (event: KeyboardEvent<HTMLDivElement>) => {
    touch();
    const row = (event.target as HTMLElement).closest<HTMLElement>('[data-session]');
    const session = row?.dataset.session;
    if (row == null || session === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    const onRow = event.target === row;
    const index = at.get(session) ?? 0;
    const page = Math.max(1, Math.floor(innerHeight / height) - 3);
    const done = () => {
      event.preventDefault();
      event.stopPropagation();
    };
    const inside = [...row.querySelectorAll<HTMLElement>('a, button:not(:disabled)')];
    const here = inside.indexOf(event.target as HTMLElement);
    switch (event.key) {
      case 'ArrowDown':
        move(index + 1);
        return done();
      case 'ArrowUp':
        move(index - 1);
        return done();
      case 'Home':
        move(0);
        return done();
      case 'End':
        move(sessions.length - 1);
        return done();
      case 'PageDown':
        move(index + page);
        return done();
      case 'PageUp':
        move(index - page);
        return done();
      case 'ArrowRight':
        inside[Math.min(inside.length - 1, here + 1)]?.focus();
        return done();
      case 'ArrowLeft':
        (here > 0 ? inside[here - 1] : row)?.focus();
        return done();
      case 'Escape':
        if (onRow) row.blur();
        else row.focus();
        return done();
      case 'Enter':
        if (!onRow) return;
        open(session);
        return done();
      case 'i':
      case 'I': {
        if (!mayHandle || !preferences().keys) return;
        const shown = store.row(session);
        if (shown !== undefined && isHandled(shown, serverNow()) && shown.handledBy === name) void release(session);
        else if (shown !== undefined && isHandled(shown, serverNow())) row.querySelector<HTMLElement>('.handled')?.click();
        else void take(session);
        return done();
      }
    }
  };
  const first = items[0]?.index;
  return (
    <div
      role="grid"
      className="grid"
      aria-label={texts.board.grid}
      aria-rowcount={sessions.length + 1}
      onPointerEnter={pointed}
      onPointerMove={pointed}
      onPointerDown={pointed}
      onPointerLeave={(event) => {
        if (event.pointerType === 'mouse') hold.current = Math.min(hold.current, Date.now() + HOLD_AFTER_MOUSE_MS);
      }}
      onFocus={(event) => {
        touch();
        const session = event.target.closest<HTMLElement>('[data-session]')?.dataset.session;
        if (session !== undefined) setFocused(session);
      }}
      onKeyDown={pressed}
      onClick={(event) => {
        // A tap anywhere on a row opens it, except on what has its own effect.
        const target = event.target as HTMLElement;
        if (target.closest('a, button, [role=menu], [role=dialog]') !== null || getSelection()?.type === 'Range') return;
        const session = target.closest<HTMLElement>('[data-session]')?.dataset.session;
        if (session !== undefined) open(session);
      }}
    >
      <div role="row" className="row-head" aria-rowindex={1}>
        <span role="columnheader">{texts.board.columns.basket}</span>
        <span role="columnheader" className="num">
          {texts.board.columns.items}
        </span>
        <span role="columnheader" className="num">
          {texts.board.columns.total}
        </span>
        <span role="columnheader">{texts.board.columns.verdict}</span>
        <span role="columnheader">{texts.board.columns.last}</span>
        <span role="columnheader">{texts.board.columns.notes}</span>
        <span role="columnheader">{texts.board.columns.handling}</span>
      </div>
      <div role="rowgroup" className="rows" ref={list} style={{ height: virtual.getTotalSize() }}>
        {items.map((item) => {
          const session = sessions[item.index];
          if (session === undefined) return null;
          return (
            <BoardRow
              key={session}
              session={session}
              index={item.index}
              top={item.start - margin}
              height={height}
              focusable={focusedIndex < 0 ? item.index === first : session === focused}
            />
          );
        })}
      </div>
    </div>
  );
}
