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
