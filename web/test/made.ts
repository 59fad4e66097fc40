// Baskets and updates as the service sends them, for the tests.

import type { Basket, Update } from '../src/api/types';

export const SHOP = '123e4567-e89b-42d3-a456-426614174000';

export function session(number: number): string {
  return `4e29b2d3-7c8a-446e-a4e1-${String(number).padStart(12, '0')}`;
}

export function basket(number: number, more: Partial<Basket> = {}): Basket {
  return {
    shop_id: SHOP,
    session_id: session(number),
    shopper_id: null,
    sequence: 100,
    basket_sequence: 90 + number,
    version: 1,
    status: 'open',
    item_count: 1,
    adjustment: 0,
    total: 3.5,
    claimed_total: 3.5,
    verdict: 'ok',
    divergence: null,
    lines: [{ product_id: 500100, product_name: 'FUJI Apples', UPC: null, category_id: null, quantity: 1, amount: 3.5, prices: [{ price: 3.5, quantity: 1 }] }],
    findings: [],
    finding_count: 0,
    corrections: [],
    missing: [],
    opened_at: '2026-03-01T10:00:00Z',
    last_action_at: '2026-03-01T10:00:00Z',
    last_action: 'ADD',
    updated_at: '2026-03-01T10:00:01Z',
    parked_since: null,
    ...more,
  };
}

export function update(number: number, version: number, more: Partial<Update> = {}, state: Partial<Update['basket']> = {}): Update {
  return {
    session_id: session(number),
    shop_id: SHOP,
    shopper_id: null,
    action_id: 100 + version,
    create_time: `2026-03-01 10:00:${String(version).padStart(2, '0')}.500000+00:00`,
    action: 'ADD',
    product_name: 'Pears',
    product_id: 500200,
    product_price: 2.25,
    basket_total: 5.75,
    sequence: 100 + version,
    ...more,
    basket: { status: 'open', item_count: version, total: 5.75, claimed_total: 5.75, verdict: 'ok', finding_count: 0, version, ...state },
  };
}

/** Waits for something to become so; fails when it does not within five seconds. */
export async function until(condition: () => boolean, what = 'the condition'): Promise<void> {
  const end = Date.now() + 5_000;
  while (!condition()) {
    if (Date.now() > end) throw new Error(`not so within 5 s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
