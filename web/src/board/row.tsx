// One basket on the board. It is drawn anew when that basket changes, and each second for its ages.

import { memo } from 'react';
import { Link } from 'wouter';
import { difference } from '../live/row';
import { Icon } from '../look/icon';
import { useRow, useShop } from '../shell/shop';
import { shortOf, useNow, useTexts } from '../shell/use';
import { HandlingControl } from './handling';
import { hasJustBegun } from './attention';
import { needsOf } from './ordering';

export const BoardRow = memo(function BoardRow({
  session,
  index,
  top,
  height,
  focusable,
}: {
  session: string;
  index: number;
  top: number;
  height: number;
  focusable: boolean;
}) {
  const row = useRow(session);
  const now = useNow();
  const texts = useTexts();
  const { shop, formats } = useShop();
  if (row === undefined) return null;
  const needs = needsOf(row, now);
  const by = difference(row);
  const ended = row.status !== 'open' || row.endedAt !== null;
  const urgent = needs.includes('diverged') || needs.includes('parked') ? 'high' : needs.length > 0 ? 'some' : undefined;
  const short = shortOf(session);
  const age = texts.age((now - row.touchedAt) / 1000);
  return (
    <div
      role="row"
      className="row"
      aria-rowindex={index + 2}
      data-session={session}
      data-urgent={urgent}
      data-ended={ended || undefined}
      data-fresh={urgent !== undefined && hasJustBegun(session, now) ? true : undefined}
      tabIndex={focusable ? 0 : -1}
      style={{ transform: `translateY(${top}px)`, height }}
    >
      <div role="gridcell" className="cell cell-basket">
        <Link href={`/shops/${shop.shop_id}/baskets/${session}`} className="basket-link" tabIndex={-1} aria-label={texts.board.basketName(short)}>
          #{short}
        </Link>
        <span className="sub">
          <Icon name="clock" />
          {formats.clock(row.openedAt)}
        </span>
      </div>
      <div role="gridcell" className="cell cell-items num">
        {formats.number(row.items)}
        <span className="unit">{texts.board.itemCount(row.items).replace(String(row.items), '').trim()}</span>
      </div>
      <div role="gridcell" className="cell cell-total num">
        <strong>{formats.money(row.total)}</strong>
      </div>
      <div role="gridcell" className="cell cell-verdict">
        {ended ? (
          <span className="chip plain-chip">{texts.status[row.status]}</span>
        ) : row.claimed === null ? (
          <span className="sub">{texts.board.claimsNothing}</span>
        ) : by !== 0 ? (
          <>
            <span className="chip bad-chip">
              <Icon name="alert" />
              {formats.moneyChange(by)}
            </span>
            <span className="sub">{texts.board.claims(formats.money(row.claimed))}</span>
          </>
        ) : (
          <span className="agrees">
            <Icon name="check" />
            {texts.board.agrees}
          </span>
        )}
      </div>
      <div role="gridcell" className="cell cell-last">
        <span className="last-what" title={row.lastProduct ?? undefined}>
          {row.lastAction === null ? '' : (texts.actions[row.lastAction.toUpperCase()] ?? row.lastAction)}
          {row.lastProduct === null ? null : (
            <>
              {' '}
              <bdi>{row.lastProduct}</bdi>
            </>
          )}
        </span>
        <span className="sub">{texts.ago(age, (now - row.touchedAt) / 1000)}</span>
      </div>
      <div role="gridcell" className="cell cell-notes">
        {needs.includes('parked') ? <span className="chip bad-chip">{texts.board.parked}</span> : null}
        {row.findings > 0 ? <span className="chip warn-chip">{texts.board.findings(row.findings)}</span> : null}
        {needs.includes('missing') ? <span className="chip warn-chip">{texts.board.missing(row.missing)}</span> : null}
        {needs.includes('untouched') ? <span className="chip warn-chip">{texts.board.untouched(age)}</span> : null}
        {row.late > 0 ? <span className="chip plain-chip">{texts.board.late(row.late)}</span> : null}
      </div>
      <div role="gridcell" className="cell cell-handling">
        {ended ? null : <HandlingControl session={session} by={row.handledBy} until={row.handledUntil} inRow />}
      </div>
    </div>
  );
});
