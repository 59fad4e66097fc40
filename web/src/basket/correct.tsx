// The dialog in which a basket is corrected. What the person saw is what they correct: if the basket has moved on meanwhile, the
// difference is shown, nothing is changed, and they decide.

import { type FormEvent, useId, useRef, useState } from 'react';
import { hasCode, Problem } from '../api/problem';
import type { Basket, FiledCorrection, Line, Proposal } from '../api/types';
import { clipped } from '../live/row';
import { ambiguity, amountOf } from '../look/money';
import { Dialog } from '../shell/dialog';
import { useName } from '../shell/name';
import { useShop } from '../shell/shop';
import { tell, useClient, useTexts } from '../shell/use';
import { Attempt } from './attempt';
import { Moved } from './moved';
import { totalAfter, type Wish } from './preview';

export type Correcting =
  | { kind: 'quantity' | 'price' | 'remove'; line: Line }
  | { kind: 'adjustment' | 'status' }
  | { kind: 'undo'; correction: string; what: string };

/** The part of a correction that says what is to become otherwise. */
type Edit = Pick<Proposal, 'quantity' | 'price' | 'remove' | 'adjustment' | 'status' | 'undo'>;

const REASON_BYTES_MAX = 1_000;

export function CorrectDialog({
  basket,
  correcting,
  onClose,
  onDone,
}: {
  /** The basket as the person sees it. */
  basket: Basket;
  correcting: Correcting;
  onClose: () => void;
  onDone: (filed: FiledCorrection) => void;
}) {
  const texts = useTexts();
  const client = useClient();
  const { shop, formats } = useShop();
  const { name, ask } = useName();
  const id = useId();
  const line = 'line' in correcting ? correcting.line : null;
  const product = line === null ? '' : (clipped(line.product_name, 60) ?? texts.basket.noName(line.product_id));
  const newest = line?.prices[line.prices.length - 1]?.price;
  const [value, setValue] = useState(() =>
    correcting.kind === 'quantity' ? String(line?.quantity ?? 0) : correcting.kind === 'status' ? (basket.status === 'open' ? 'cancelled' : 'open') : '',
  );
  const [price, setPrice] = useState('');
  const [reason, setReason] = useState('');
  const [sending, setSending] = useState(false);
  const [problem, setProblem] = useState<string | null>(null);
  const [tried, setTried] = useState(false);
  const [moved, setMoved] = useState<{ problem: Problem; edit: Edit } | null>(null);

  const attempt = useRef(new Attempt());

  const { locale } = formats;
  const amount = amountOf(value, locale);
  const otherPrice = price.trim() === '' ? undefined : (amountOf(price, locale) ?? Number.NaN);
  const wish: Wish | null = wishOf();
  const after = wish === null ? null : totalAfter(basket, wish);
  const mistake = mistakeOf();

  function wishOf(): Wish | null {
    switch (correcting.kind) {
      case 'quantity':
        return amount === null ? null : { kind: 'quantity', product: correcting.line.product_id, quantity: amount, price: otherPrice };
      case 'price':
        return amount === null ? null : { kind: 'price', product: correcting.line.product_id, price: amount };
      case 'remove':
        return { kind: 'remove', product: correcting.line.product_id };
      case 'adjustment':
        return amount === null ? null : { kind: 'adjustment', by: amount };
      default:
        return null;
    }
  }

  function mistakeOf(): string | null {
    const unclear = ambiguity(value, locale) ?? ambiguity(price, locale);
    if (unclear !== null) return texts.correct.ambiguous(unclear.thousands, unclear.decimal);
    switch (correcting.kind) {
      case 'quantity':
        if (amount === null || !Number.isInteger(amount) || amount < 0 || amount > 1_000_000) return texts.correct.notANumber;
        if (otherPrice !== undefined && !(otherPrice >= 0)) return texts.correct.notAPrice;
        return amount === correcting.line.quantity ? texts.correct.unchanged : null;
      case 'price':
        if (amount === null || amount < 0) return texts.correct.notAPrice;
        return correcting.line.prices.length === 1 && newest === amount ? texts.correct.unchanged : null;
      case 'adjustment':
        if (amount === null) return texts.correct.notAnAmount;
        return amount === 0 ? texts.correct.unchanged : null;
      case 'status':
        return value === basket.status ? texts.correct.unchanged : null;
      default:
        return null;
    }
  }

  function editOf(): Edit {
    switch (correcting.kind) {
      case 'quantity':
        return { quantity: { product_id: correcting.line.product_id, quantity: amount ?? 0, ...(otherPrice === undefined ? {} : { price: otherPrice }) } };
      case 'price':
        return { price: { product_id: correcting.line.product_id, price: amount ?? 0 } };
      case 'remove':
        return { remove: { product_id: correcting.line.product_id } };
      case 'adjustment':
        return { adjustment: { by: amount ?? 0 } };
      case 'status':
        return { status: { to: value as 'open' | 'paid' | 'cancelled' } };
      case 'undo':
        return { undo: { correction_id: correcting.correction } };
    }
  }

  async function send(edit: Edit, base: number): Promise<void> {
    const author = await ask();
    if (author === null) return;
    setSending(true);
    setProblem(null);
    try {
      const proposal = attempt.current.of({ author, reason: reason.trim(), base_sequence: base, ...edit });
      onDone(await client.correct(shop.shop_id, basket.session_id, proposal));
    } catch (error) {
      const isAnswer = error instanceof Problem && error.status < 500;
      if (isAnswer) attempt.current.answered();
      if (hasCode(error, 'moved_on') && error.body.changed !== undefined) setMoved({ problem: error, edit });
      else {
        // What could not be reached can be tried again where it was asked.
        if (isAnswer) setMoved(null);
        setProblem(tell(error, texts));
      }
    } finally {
      setSending(false);
    }
  }

  const submit = (event: FormEvent) => {
    event.preventDefault();
    setTried(true);
    if (mistake !== null || reason.trim() === '' || new TextEncoder().encode(reason.trim()).length > REASON_BYTES_MAX) return;
    void send(editOf(), basket.sequence);
  };

  const title = <bdi>{(texts.correct.titles[correcting.kind] ?? texts.correct.titles.status)?.(product)}</bdi>;
  if (moved !== null) {
    const { changed, sequence } = moved.problem.body;
    return (
      <Dialog open onClose={onClose} title={texts.correct.movedTitle} wide>
        {changed === undefined ? null : <Moved changed={changed} />}
        {problem === null ? null : (
          <p className="note bad" role="alert">
            {problem}
          </p>
        )}
        <div className="dialog-foot">
          <button type="button" className="button" onClick={onClose}>
            {texts.correct.movedBack}
          </button>
          <button type="button" className="button primary" disabled={sending} onClick={() => void send(moved.edit, sequence ?? basket.sequence)}>
            {sending ? texts.correct.submitting : texts.correct.movedAnyway}
          </button>
        </div>
      </Dialog>
    );
  }
  const field = texts.correct.fields[correcting.kind];
  return (
    <Dialog open onClose={onClose} title={title}>
      <form onSubmit={submit} noValidate>
        {correcting.kind === 'undo' ? (
          <p className="note">
            <bdi>{correcting.what}</bdi>
          </p>
        ) : null}
        {correcting.kind === 'status' ? (
          <fieldset className="choices">
            <legend className="unseen">{field}</legend>
            {(['open', 'paid', 'cancelled'] as const).map((status) => (
              <label key={status} className="choice">
                <input type="radio" name="status" value={status} checked={value === status} disabled={status === basket.status} onChange={() => setValue(status)} />
                {texts.status[status]}
              </label>
            ))}
          </fieldset>
        ) : null}
        {correcting.kind === 'quantity' ? (
          <div className="field">
            <label htmlFor={`${id}value`}>{field}</label>
            <div className="stepper">
              <button type="button" className="button icon-only" aria-label="−1" onClick={() => setValue(String(Math.max(0, (amount ?? 0) - 1)))}>
                −
              </button>
              <input id={`${id}value`} inputMode="numeric" value={value} onChange={(event) => setValue(event.target.value)} autoFocus aria-describedby={`${id}mistake`} />
              <button type="button" className="button icon-only" aria-label="+1" onClick={() => setValue(String((amount ?? 0) + 1))}>
                +
              </button>
            </div>
          </div>
        ) : null}
        {correcting.kind === 'quantity' && line !== null && amount !== null && amount > line.quantity ? (
          <label className="field">
            <span>{texts.correct.newPrice}</span>
            <input inputMode="decimal" value={price} placeholder={newest === undefined ? '' : formats.money(newest)} onChange={(event) => setPrice(event.target.value)} />
          </label>
        ) : null}
        {correcting.kind === 'price' || correcting.kind === 'adjustment' ? (
          <label className="field">
            <span>{field}</span>
            <input
              inputMode={correcting.kind === 'price' ? 'decimal' : 'text'}
              value={value}
              placeholder={correcting.kind === 'price' && newest !== undefined ? formats.money(newest) : formats.money(-0.5)}
              onChange={(event) => setValue(event.target.value)}
              autoFocus
              aria-describedby={`${id}mistake`}
            />
          </label>
        ) : null}
        <p id={`${id}mistake`} className="mistake" role={tried && mistake !== null ? 'alert' : undefined}>
          {tried && mistake !== null ? mistake : ''}
        </p>
        <div className="field">
          <label htmlFor={`${id}reason`}>{texts.correct.reason}</label>
          <div className="suggestions">
            {texts.correct.reasons.map((one) => (
              <button key={one} type="button" className="chip-button" aria-pressed={reason === one} onClick={() => setReason(one)}>
                {one}
              </button>
            ))}
          </div>
          <input id={`${id}reason`} value={reason} maxLength={500} onChange={(event) => setReason(event.target.value)} aria-describedby={`${id}hint`} />
          <span id={`${id}hint`} className={tried && reason.trim() === '' ? 'mistake' : 'hint'}>
            {tried && reason.trim() === '' ? texts.correct.reasonMissing : texts.correct.reasonHint}
          </span>
        </div>
        {after !== null && mistake === null ? (
          <p className="preview" data-bad={after < 0 || undefined}>
            {texts.correct.previewTotal(formats.money(basket.total), formats.money(after))}
          </p>
        ) : null}
        {problem === null ? null : (
          <p className="note bad" role="alert">
            <strong>{texts.correct.rejected}.</strong> {problem}
          </p>
        )}
        <p className="hint">
          {name === null ? null : <bdi>{texts.correct.author(name)}</bdi>}{' '}
          <button type="button" className="link-button" onClick={() => void ask(true)}>
            {name === null ? texts.name.title : texts.correct.changeName}
          </button>
        </p>
        <div className="dialog-foot">
          <button type="button" className="button" onClick={onClose}>
            {texts.cancel}
          </button>
          <button type="submit" className="button primary" disabled={sending}>
            {sending ? texts.correct.submitting : correcting.kind === 'undo' ? texts.correct.submitUndo : texts.correct.submit}
          </button>
        </div>
      </form>
    </Dialog>
  );
}
