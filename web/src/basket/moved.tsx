// What became otherwise in a basket since somebody looked at it.

import type { Changed } from '../api/types';
import { clipped } from '../live/row';
import { useShop } from '../shell/shop';
import { useTexts } from '../shell/use';
import type { Texts } from '../texts/en';
import type { Formats } from '../look/money';

export interface Difference {
  key: string;
  what: string;
  from: string;
  to: string;
}

/** The difference line by line, the largest change of money first, then total and status. */
export function differencesOf(changed: Changed, texts: Texts, formats: Formats): Difference[] {
  const size = (line: Changed['lines'][number]) => Math.abs(line.amount.to - line.amount.from);
  const lines = [...changed.lines]
    .sort((a, b) => size(b) - size(a) || a.product_id - b.product_id)
    .map((line) => ({
      key: `line ${line.product_id}`,
      what: clipped(line.product_name) ?? texts.basket.noName(line.product_id),
      from: `${formats.number(line.quantity.from)}× = ${formats.money(line.amount.from)}`,
      to: `${formats.number(line.quantity.to)}× = ${formats.money(line.amount.to)}`,
    }));
  const rest: Difference[] = [];
  if (changed.total !== null) {
    rest.push({ key: 'total', what: texts.basket.total, from: formats.money(changed.total.from), to: formats.money(changed.total.to) });
  }
  if (changed.status !== null) {
    const word = (status: string) => texts.status[status] ?? status;
    rest.push({ key: 'status', what: texts.history.status, from: word(changed.status.from), to: word(changed.status.to) });
  }
  return [...lines, ...rest];
}

export function Moved({ changed }: { changed: Changed }) {
  const texts = useTexts();
  const { formats } = useShop();
  const differences = differencesOf(changed, texts, formats);
  return (
    <>
      <p>{texts.correct.movedText(changed.events)}</p>
      {differences.length === 0 ? (
        <p className="note">{texts.correct.movedNothing}</p>
      ) : (
        <div className="table-scroll">
          <table className="moved">
            <thead>
              <tr>
                <th scope="col">{texts.basket.what}</th>
                <th scope="col">{texts.correct.movedWas}</th>
                <th scope="col">{texts.correct.movedIs}</th>
              </tr>
            </thead>
            <tbody>
              {differences.map((one) => (
                <tr key={one.key}>
                  <th scope="row">
                    <bdi>{one.what}</bdi>
                  </th>
                  <td>{one.from}</td>
                  <td>
                    <strong>{one.to}</strong>
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </>
  );
}
