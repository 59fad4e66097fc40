// What is in the basket, and for each line why.

import { useState } from 'react';
import type { Basket, ExplainedLine, Explanation, Line } from '../api/types';
import { clipped, time } from '../live/row';
import { Icon } from '../look/icon';
import { Menu, MenuItem } from '../shell/dialog';
import { useShop } from '../shell/shop';
import { useTexts } from '../shell/use';
import type { Correcting } from './correct';

export function Lines({
  basket,
  explanation,
  mayCorrect,
  onCorrect,
}: {
  basket: Basket;
  explanation: Explanation | undefined;
  mayCorrect: boolean;
  onCorrect: (correcting: Correcting) => void;
}) {
  const texts = useTexts();
  const { formats } = useShop();
  const [open, setOpen] = useState<number | 'total' | null>(null);
  const toggle = (which: number | 'total') => setOpen((before) => (before === which ? null : which));
  const inIt = new Set(basket.lines.map((line) => line.product_id));
  // What was in it once has a reason as well.
  const emptied = explanation?.lines.filter((line) => line.quantity === 0 && !inIt.has(line.product_id)) ?? [];
  const sum = basket.total - basket.adjustment;
  return (
    <section className="card" aria-labelledby="lines-title">
      <div className="card-head">
        <h2 id="lines-title">{texts.basket.lines}</h2>
        <span className="sub">{texts.board.itemCount(basket.item_count)}</span>
      </div>
      {basket.lines.length === 0 ? <p className="quiet-text">{texts.basket.empty}</p> : null}
      <ul className="plain lines">
        {basket.lines.map((line) => (
          <LineItem
            key={line.product_id}
            line={line}
            because={explanation?.lines.find((one) => one.product_id === line.product_id)}
            explanation={explanation}
            open={open === line.product_id}
            onToggle={() => toggle(line.product_id)}
            mayCorrect={mayCorrect}
            onCorrect={onCorrect}
          />
        ))}
        {emptied.map((line) => (
          <LineItem
            key={`emptied ${line.product_id}`}
            line={{ product_id: line.product_id, product_name: line.product_name, UPC: null, category_id: null, quantity: 0, amount: 0, prices: [] }}
            because={line}
            explanation={explanation}
            open={open === line.product_id}
            onToggle={() => toggle(line.product_id)}
            mayCorrect={false}
            onCorrect={onCorrect}
          />
        ))}
      </ul>
      <dl className="sums">
        {basket.adjustment !== 0 ? (
          <>
            <div>
              <dt>{texts.basket.sum}</dt>
              <dd>{formats.money(sum)}</dd>
            </div>
            <div>
              <dt>{texts.basket.adjustment}</dt>
              <dd>{formats.moneyChange(basket.adjustment)}</dd>
            </div>
          </>
        ) : null}
        <div className="sum-total">
          <dt>{texts.basket.total}</dt>
          <dd>{formats.money(basket.total)}</dd>
        </div>
      </dl>
      <div className="card-foot">
        <button type="button" className="button small" aria-expanded={open === 'total'} onClick={() => toggle('total')} disabled={explanation === undefined}>
          <Icon name="help" />
          {open === 'total' ? texts.basket.hideWhy : texts.basket.whyTotal}
        </button>
        {mayCorrect ? (
          <Menu
            label={texts.correct.menuTotal}
            trigger={
              <button type="button" className="button small">
                <Icon name="edit" />
                {texts.correct.menuTotal}
              </button>
            }
          >
            <MenuItem onClick={() => onCorrect({ kind: 'adjustment' })}>{texts.correct.adjustment}</MenuItem>
            <MenuItem onClick={() => onCorrect({ kind: 'status' })}>{texts.correct.status}</MenuItem>
          </Menu>
        ) : null}
      </div>
      {open === 'total' && explanation !== undefined ? <WhyTotal explanation={explanation} /> : null}
    </section>
  );
}

function LineItem({
  line,
  because,
  explanation,
  open,
  onToggle,
  mayCorrect,
  onCorrect,
}: {
  line: Line;
  because: ExplainedLine | undefined;
  explanation: Explanation | undefined;
  open: boolean;
  onToggle: () => void;
  mayCorrect: boolean;
  onCorrect: (correcting: Correcting) => void;
}) {
  const texts = useTexts();
  const { formats } = useShop();
  const name = clipped(line.product_name) ?? texts.basket.noName(line.product_id);
  const only = line.prices.length === 1 ? line.prices[0] : undefined;
  return (
    <li className="line" data-empty={line.quantity === 0 || undefined}>
      <div className="line-row">
        <span className="line-count">{formats.number(line.quantity)}×</span>
        <span className="line-name">
          <bdi>{name}</bdi>
          <span className="sub">
            {only !== undefined ? formats.money(only.price) : line.prices.length > 1 ? line.prices.map((one) => `${one.quantity} × ${formats.money(one.price)}`).join(', ') : ''}
            {line.UPC === null ? null : <bdi className="mono upc">{clipped(line.UPC, 40)}</bdi>}
          </span>
        </span>
        <span className="line-amount">{formats.money(line.amount)}</span>
        <span className="line-tools">
          <button type="button" className="button quiet small" aria-expanded={open} aria-label={texts.basket.whyLine(name)} onClick={onToggle} disabled={because === undefined}>
            {texts.basket.why}
            <Icon name="chevron" className={open ? 'turned' : undefined} />
          </button>
          {mayCorrect ? (
            <Menu
              label={texts.correct.menu(name)}
              trigger={
                <button type="button" className="button quiet icon-only small" aria-label={texts.correct.menu(name)}>
                  <Icon name="edit" />
                </button>
              }
            >
              <MenuItem onClick={() => onCorrect({ kind: 'quantity', line })}>{texts.correct.quantity}</MenuItem>
              <MenuItem onClick={() => onCorrect({ kind: 'price', line })}>{texts.correct.price}</MenuItem>
              <MenuItem onClick={() => onCorrect({ kind: 'remove', line })} danger>
                {texts.correct.remove}
              </MenuItem>
            </Menu>
          ) : null}
        </span>
      </div>
      {open && because !== undefined ? <WhyLine line={because} explanation={explanation} /> : null}
    </li>
  );
}

interface Step {
  sequence: number;
  at: number;
  what: string;
  note: string | null;
  quantity: number;
  amount: number;
}

/** What happened to a line, actions and corrections in the order of the journal. */
function stepsOf(line: ExplainedLine, explanation: Explanation | undefined, texts: ReturnType<typeof useTexts>): Step[] {
  const steps: Step[] = line.because.map((effect) => ({
    sequence: effect.sequence,
    at: time(effect.create_time),
    what: `${texts.actions[effect.action.toUpperCase()] ?? effect.action} ${effect.quantity}`,
    note: effect.why_not !== null ? (texts.basket.whyNot[effect.why_not] ?? effect.why_not) : effect.findings.map((kind) => texts.basket.findingKinds[kind] ?? kind).join('; ') || null,
    quantity: effect.quantity_change,
    amount: effect.amount_change,
  }));
  for (const correction of explanation?.corrections ?? []) {
    for (const part of correction.effect?.lines ?? []) {
      if (part.product_id !== line.product_id) continue;
      steps.push({
        sequence: correction.sequence,
        at: time(correction.recorded_at),
        what: texts.actions.CORRECTION ?? '',
        note: `${correction.author}: ${correction.reason}`,
        quantity: part.quantity_change,
        amount: part.amount_change,
      });
    }
  }
  return steps.sort((a, b) => a.sequence - b.sequence);
}

function WhyLine({ line, explanation }: { line: ExplainedLine; explanation: Explanation | undefined }) {
  const texts = useTexts();
  const { formats } = useShop();
  let pieces = 0;
  return (
    <ol className="why">
      {stepsOf(line, explanation, texts).map((step) => {
        pieces += step.quantity;
        return (
          <li key={step.sequence} data-idle={(step.quantity === 0 && step.amount === 0) || undefined}>
            <span className="why-at">{formats.clockWithSeconds(step.at)}</span>
            <span className="why-what">
              {step.what}
              {step.note === null ? null : (
                <span className="sub">
                  <bdi>{clipped(step.note, 200)}</bdi>
                </span>
              )}
            </span>
            <span className="why-change">{step.quantity === 0 && step.amount === 0 ? texts.basket.noEffect : formats.moneyChange(step.amount)}</span>
            <span className="why-then">{formats.number(pieces)}×</span>
          </li>
        );
      })}
    </ol>
  );
}

/** Most rows that are drawn; the newest of a very long visit. */
const CLAIMS_MAX = 200;

function WhyTotal({ explanation }: { explanation: Explanation }) {
  const texts = useTexts();
  const { formats } = useShop();
  const names = new Map<number, string>();
  for (const line of explanation.lines) {
    for (const effect of line.because) names.set(effect.sequence, clipped(line.product_name, 60) ?? texts.basket.noName(line.product_id));
  }
  for (const event of explanation.without_effect) {
    if (event.product_id !== null && !names.has(event.sequence)) names.set(event.sequence, texts.basket.noName(event.product_id));
  }
  const rows = [
    ...explanation.claims.map((claim) => ({
      sequence: claim.sequence,
      at: time(claim.create_time),
      what: texts.actions[claim.action.toUpperCase()] ?? claim.action,
      name: names.get(claim.sequence) ?? null,
      total: claim.total,
      claimed: claim.claimed as number | null,
      difference: claim.difference,
      diverged: claim.diverged,
    })),
    ...explanation.corrections
      .filter((one) => one.effect !== null)
      .map((one) => ({
        sequence: one.sequence,
        at: time(one.recorded_at),
        what: texts.actions.CORRECTION ?? '',
        name: clipped(`${one.author}: ${one.reason}`, 80),
        total: one.effect?.total ?? 0,
        claimed: null,
        difference: null,
        diverged: false,
      })),
  ].sort((a, b) => a.sequence - b.sequence);
  return (
    <div className="table-scroll" tabIndex={0} role="group" aria-label={texts.basket.explainTotal}>
      <table>
        <caption className="unseen">{texts.basket.explainTotal}</caption>
        <thead>
          <tr>
            <th scope="col">{texts.basket.when}</th>
            <th scope="col">{texts.basket.what}</th>
            <th scope="col" className="num">{texts.basket.computed}</th>
            <th scope="col" className="num">{texts.basket.claimed}</th>
            <th scope="col" className="num">{texts.basket.difference}</th>
          </tr>
        </thead>
        <tbody>
          {rows.slice(-CLAIMS_MAX).map((row) => (
            <tr key={row.sequence} data-bad={row.diverged || undefined}>
              <td className="nowrap">{formats.clockWithSeconds(row.at)}</td>
              <td>
                {row.what} {row.name === null ? null : <bdi>{row.name}</bdi>}
              </td>
              <td className="num">{formats.money(row.total)}</td>
              <td className="num">{row.claimed === null ? '–' : formats.money(row.claimed)}</td>
              <td className="num">{row.difference === null || row.difference === 0 ? '–' : formats.moneyChange(row.difference)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
