// What a basket would cost after a correction, so that the person sees it before they ask for it. The service decides.

import type { Line } from '../api/types';

export type Wish =
  | { kind: 'quantity'; product: number; quantity: number; price?: number }
  | { kind: 'price'; product: number; price: number }
  | { kind: 'remove'; product: number }
  | { kind: 'adjustment'; by: number };

export function totalAfter(basket: { total: number; lines: Line[] }, wish: Wish): number | null {
  if (wish.kind === 'adjustment') return round(basket.total + wish.by);
  const line = basket.lines.find((one) => one.product_id === wish.product);
  if (line === undefined) return null;
  const amount = amountAfter(line, wish);
  return amount === null ? null : round(basket.total - line.amount + amount);
}

function amountAfter(line: Line, wish: Exclude<Wish, { kind: 'adjustment' }>): number | null {
  switch (wish.kind) {
    case 'remove':
      return 0;
    case 'price':
      return wish.price * line.quantity;
    case 'quantity': {
      const more = wish.quantity - line.quantity;
      const newest = line.prices[line.prices.length - 1];
      if (more >= 0) {
        const price = wish.price ?? newest?.price;
        return price === undefined ? null : line.amount + more * price;
      }
      // The newest leave first.
      let leaving = -more;
      let amount = line.amount;
      for (const { price, quantity } of [...line.prices].reverse()) {
        const gone = Math.min(leaving, quantity);
        amount -= gone * price;
        leaving -= gone;
      }
      return amount;
    }
  }
}

function round(amount: number): number {
  return Math.round(amount * 10_000) / 10_000;
}

/** An id for a correction. `randomUUID` is there only on secure origins, and a shop's own network may have none. */
export function newId(): string {
  if (typeof crypto.randomUUID === 'function') return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = ((bytes[6] ?? 0) & 0x0f) | 0x40;
  bytes[8] = ((bytes[8] ?? 0) & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
}
