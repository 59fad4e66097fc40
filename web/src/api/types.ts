// The shapes of the service, as `/openapi.json` and `schemas.json` have them.

export type Status = 'open' | 'abandoned' | 'paid' | 'cancelled';
export type Verdict = 'ok' | 'diverged';
export type FindingKind =
  | 'removed_absent'
  | 'price_changed'
  | 'after_end'
  | 'unknown_action'
  | 'repeated_action_id'
  | 'conflicting_copy'
  | 'shopper_changed';
export type WhyNot = FindingKind | 'no_product' | null;
export type Verb = 'append' | 'look' | 'handle' | 'replay' | 'correct' | 'operate' | 'inspect';
export type Role = 'shopper' | 'merchant' | 'support' | 'service' | 'admin';

export interface Divergence {
  since_sequence: number;
  since_action_id: number;
  by: number;
}

export interface Line {
  product_id: number;
  product_name: string | null;
  UPC: string | null;
  category_id: string | null;
  quantity: number;
  amount: number;
  prices: { price: number; quantity: number }[];
}

export interface Finding {
  kind: FindingKind;
  sequence: number;
  action_id: number;
  product_id: number | null;
}

export interface Change {
  kind: 'pieces' | 'price' | 'total' | 'status' | 'undo';
  product_id?: number;
  price?: number;
  by?: number;
  from?: number | string;
  to?: number | string;
  pieces?: number;
  correction_id?: string;
}

export interface Correction {
  id: string;
  sequence: number;
  recorded_at: string | null;
  author: string;
  reason: string;
  base_sequence: number;
  counts: boolean;
  changes: Change[];
}

export interface ListedBasket {
  session_id: string;
  shopper_id: string | null;
  basket_sequence: number;
  version: number;
  status: Status;
  item_count: number;
  total: number;
  claimed_total: number | null;
  verdict: Verdict;
  divergence: Divergence | null;
  finding_count: number;
  opened_at: string | null;
  last_action_at: string | null;
  last_action: string | null;
  updated_at: string | null;
  parked_since: number | null;
}

export interface Basket extends ListedBasket {
  shop_id: string;
  sequence: number;
  adjustment: number;
  lines: Line[];
  findings: Finding[];
  corrections: Correction[];
  missing: number[];
}

export interface BasketPage {
  sequence: number;
  baskets: ListedBasket[];
  next: string | null;
}

export interface Count {
  count: number;
  amount: number;
}

export interface ShopSummary {
  sequence: number;
  day_start: string;
  open_baskets: number;
  open_items: number;
  value_at_risk: number;
  abandoned_today: Count;
  paid_today: Count;
  cancelled_today: Count;
  diverged: number;
  diverged_today: number;
  oldest_untouched: { session_id: string; updated_at: string } | null;
}

export interface Effect {
  sequence: number;
  action_id: number;
  create_time: string;
  action: string;
  quantity: number;
  price: number | null;
  quantity_change: number;
  amount_change: number;
  why_not: WhyNot;
  findings: FindingKind[];
}

export interface ExplainedLine {
  product_id: number;
  product_name: string | null;
  quantity: number;
  amount: number;
  because: Effect[];
}

export interface Claim {
  sequence: number;
  action_id: number;
  create_time: string;
  action: string;
  claimed: number;
  total: number;
  difference: number | null;
  diverged: boolean;
}

export interface ExplainedCorrection {
  sequence: number;
  correction_id: string;
  author: string;
  reason: string;
  recorded_at: string;
  base_sequence: number;
  counts: boolean;
  changes: Change[];
  effect: {
    behind_actions: number;
    lines: { product_id: number; quantity_change: number; amount_change: number }[];
    adjustment_change: number;
    total: number;
  } | null;
}

export interface Explanation {
  shop_id: string;
  session_id: string;
  sequence: number;
  basket_sequence: number;
  version: number;
  status: Status;
  item_count: number;
  adjustment: number;
  total: number;
  claimed_total: number | null;
  verdict: Verdict;
  divergence: Divergence | null;
  lines: ExplainedLine[];
  claims: Claim[];
  without_effect: {
    sequence: number;
    action_id: number;
    create_time: string;
    action: string;
    product_id: number | null;
    quantity: number;
    price: number | null;
    why_not: WhyNot;
    counts_instead: number | null;
  }[];
  corrections: ExplainedCorrection[];
  abandonments: { sequence: number; recorded_at: string; idle_since: string; after: number; void: boolean }[];
}

export interface Asked {
  quantity?: { product_id: number; quantity: number; price?: number };
  price?: { product_id: number; price: number };
  adjustment?: { by: number };
  status?: { to: Status };
  undo?: { correction_id: string };
}

export interface Proposal extends Asked {
  id: string;
  author: string;
  reason: string;
  base_sequence?: number;
  remove?: { product_id: number };
}

export interface FiledCorrection {
  id: string;
  shop_id: string;
  session_id: string;
  state: 'new' | 'published' | 'applied' | 'rejected';
  source: 'api' | 'database';
  author: string;
  reason: string;
  base_sequence: number | null;
  created_at: string;
  asked: Asked | null;
  sequence: number | null;
  changes: Change[] | null;
  rejection: { code: string; reason: string } | null;
}

export interface Changed {
  since: number;
  events: number;
  status: { from: Status; to: Status } | null;
  total: { from: number; to: number } | null;
  lines: {
    product_id: number;
    product_name: string | null;
    quantity: { from: number; to: number };
    amount: { from: number; to: number };
  }[];
}

/** What a live update tells of one event, and of the basket after it. */
export interface Update {
  session_id: string;
  shop_id: string;
  shopper_id: string | null;
  action_id: number;
  create_time: string;
  action: string;
  product_name: string | null;
  product_id: number | null;
  product_price: number | null;
  basket_total: number;
  quantity?: number;
  correction?: { id: string; author: string; reason: string; changes: Change[] };
  sequence: number;
  basket: {
    status: Status;
    item_count: number;
    total: number;
    claimed_total: number | null;
    verdict: Verdict;
    finding_count: number;
    version: number;
  };
}

export interface Handling {
  session_id: string;
  handled_by: string | null;
  handled_until: string | null;
}

export interface Shop {
  shop_id: string;
  name: string | null;
  currency: string | null;
  time_zone: string | null;
}

export interface Me {
  subject: string | null;
  role: Role;
  verbs: Verb[];
  all_shops: boolean;
  shops: Shop[];
  more: boolean;
  expires_at: string | null;
}

export interface DayPoint {
  at: string;
  events: number;
  visits: number;
  paid_count: number;
  paid_total: number;
}

export interface Day {
  sequence: number;
  day_start: string;
  interval_seconds: number;
  points: DayPoint[];
}

export type AuthConfig =
  | { kind: 'off' }
  | { kind: 'dev'; people: { name: string; role: Role }[]; shop: string | null }
  | { kind: 'firebase'; project: string; api_key: string }
  | { kind: 'oidc'; issuer: string; client_id: string }
  | { kind: 'token' };

export interface Config {
  version: string;
  auth: AuthConfig;
  resgate: { url: string } | null;
}

export interface Operations {
  at: string;
  version: string;
  journal: {
    epoch: string;
    last_sequence: number;
    messages: number;
    bytes: number;
    durability: string;
    partitions: number;
    last_at: string | null;
  };
  updates: { last_place: number; messages: number; bytes: number; last_at: string | null } | null;
  stages: { stage: string; sequence: number | null; lag_events: number | null; lag_seconds: number | null }[];
  partitions: {
    partition: number;
    owner: string | null;
    lease_until: string | null;
    checkpoint: number;
    lag_events: number;
    lag_seconds: number;
    halted: string | null;
  }[];
  parked: { count: number };
  corrections: { waiting: number; decided: number; held_shops: string[] };
  /** Null where the process that answers folds nothing anew. */
  drift: { checked: number; different: number } | null;
  rebuild: { active: string; previous: string | null; building: { version: string } | null; reports: Report[] };
}

/** What a comparison of baskets with the journal has found. */
export interface Report {
  at: string | null;
  /** `all`, a shop, or a basket. */
  scope: string;
  version: string | null;
  equal: number;
  different: number;
  reasons: { reason: string; count: number; examples: string[] }[];
  shops: number;
  digest: string;
}

export interface ParkedEvent {
  id: string;
  partition: number;
  sequence: number;
  shop_id: string | null;
  session_id: string | null;
  reason: string;
  state: string;
  event_type: string | null;
  recorded_at: string | null;
  body: string | null;
}
