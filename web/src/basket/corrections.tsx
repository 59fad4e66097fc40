// The corrections of a basket: who, why, when, and what became of each.

import type { Asked, Basket, Change, FiledCorrection } from '../api/types';
import { clipped, time } from '../live/row';
import type { Formats } from '../look/money';
import { Icon } from '../look/icon';
import { useShop } from '../shell/shop';
import { useTexts } from '../shell/use';
import type { Texts } from '../texts/en';

/** How a correction stands as far as a basket goes. One that is newer than the basket is not undone, only not in it yet. */
export function stateOf(one: Pick<FiledCorrection, 'id' | 'state' | 'sequence'>, basket: Pick<Basket, 'sequence' | 'corrections'>): FiledCorrection['state'] | 'undone' {
  if (one.state !== 'applied' || one.sequence === null || one.sequence > basket.sequence) return one.state;
  return basket.corrections.some((its) => its.id === one.id && its.counts) ? one.state : 'undone';
}

export type NameOf = (product: number) => string;

/** What a correction changes, in words. */
export function wordsOf(correction: { changes: Change[] | null; asked: Asked | null }, name: NameOf, texts: Texts, formats: Formats): string {
  if (correction.changes !== null && correction.changes.length > 0) return correction.changes.map((change) => changeWords(change, name, texts, formats)).join(', ');
  const { asked } = correction;
  if (asked === null) return texts.correct.title;
  if (asked.quantity !== undefined) return texts.correct.asked.quantity(name(asked.quantity.product_id), formats.number(asked.quantity.quantity));
  if (asked.price !== undefined) return texts.correct.asked.price(name(asked.price.product_id), formats.money(asked.price.price));
  if (asked.adjustment !== undefined) return texts.correct.asked.adjustment(formats.moneyChange(asked.adjustment.by));
  if (asked.status !== undefined) return texts.correct.asked.status(texts.status[asked.status.to] ?? asked.status.to);
  return texts.correct.asked.undo;
}

function changeWords(change: Change, name: NameOf, texts: Texts, formats: Formats): string {
  const product = change.product_id === undefined ? '' : name(change.product_id);
  switch (change.kind) {
    case 'pieces':
      return texts.correct.changes.pieces(`${(change.by ?? 0) > 0 ? '+' : '−'}${formats.number(Math.abs(change.by ?? 0))}`, product);
    case 'price':
      return texts.correct.changes.price(product, formats.money(Number(change.from)), formats.money(Number(change.to)));
    case 'total':
      return texts.correct.changes.total(formats.moneyChange(change.by ?? 0));
    case 'status':
      return texts.correct.changes.status(texts.status[String(change.from)] ?? String(change.from), texts.status[String(change.to)] ?? String(change.to));
    case 'undo':
      return texts.correct.changes.undo;
  }
}

export function Corrections({
  filed,
  basket,
  past,
  name,
  mayUndo,
  onUndo,
}: {
  filed: FiledCorrection[];
  /** The basket at the moment that is shown. */
  basket: Basket;
  past: boolean;
  name: NameOf;
  mayUndo: boolean;
  onUndo: (correction: FiledCorrection, what: string) => void;
}) {
  const texts = useTexts();
  const { formats } = useShop();
  return (
    <section className="card" aria-labelledby="corrections-title">
      <div className="card-head">
        <h2 id="corrections-title">{texts.basket.corrections}</h2>
      </div>
      {filed.length === 0 ? <p className="quiet-text">{past ? texts.basket.noCorrectionsThen : texts.basket.noCorrections}</p> : null}
      <ol className="plain corrections">
        {filed.map((one) => {
          const what = wordsOf(one, name, texts, formats);
          const state = stateOf(one, basket);
          return (
            <li key={one.id} className="correction" data-state={state}>
              <div className="correction-head">
                <strong>
                  <bdi>{clipped(what, 200)}</bdi>
                </strong>
                <span className={`chip ${state === 'applied' ? 'good-chip' : state === 'rejected' ? 'bad-chip' : 'plain-chip'}`}>{texts.basket.states[state]}</span>
              </div>
              <p>
                <bdi>{clipped(one.reason, 500)}</bdi>
              </p>
              <div className="correction-foot">
                <span className="sub">
                  <bdi>{one.source === 'database' ? texts.basket.byHand : texts.basket.correctionBy(clipped(one.author, 100) ?? '')}</bdi>
                  {', '}
                  {formats.dayAndTime(time(one.created_at))}
                </span>
                {mayUndo && state === 'applied' ? (
                  <button type="button" className="button small" onClick={() => onUndo(one, what)}>
                    <Icon name="undo" />
                    {texts.basket.undo}
                  </button>
                ) : null}
              </div>
              {one.rejection === null ? null : <p className="note warn">{texts.correct.problems[one.rejection.code] ?? one.rejection.reason}</p>}
            </li>
          );
        })}
      </ol>
    </section>
  );
}
