// What the walks share: a browser, a shop with shoppers in it, and what only whoever started the walk can do for it.

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import axe from 'axe-core';
import { chromium } from 'playwright-core';

export { assert };
/** Where the page is, where the API is that nobody cuts off, and where the page has its live data from. */
export const PAGE = process.env.EZOUT_PAGE;
export const API = process.env.EZOUT_API;
export const SOURCE = process.env.EZOUT_SOURCE;
const PICTURES = process.env.EZOUT_PICTURES;

/** How long something on the screen may take to come, far beyond what it takes. */
export const PATIENCE = Number(process.env.EZOUT_PATIENCE || 60_000);

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

/** Asks whoever started the walk: for a token, for a service that is killed, for a network that is cut. */
export async function ask(what, details = {}) {
  process.stdout.write(`${JSON.stringify({ ask: what, ...details })}\n`);
  const { value, done } = await answers.next();
  assert(!done, `nobody answers ${what}`);
  return JSON.parse(value);
}

export async function tokenOf(role, shops, more = {}) {
  return (await ask('token', { role, shops, ...more })).token;
}

/** Waits until `condition` gives something else than undefined, and answers that. */
export async function until(what, condition) {
  const end = Date.now() + PATIENCE;
  for (;;) {
    const value = await condition();
    if (value !== undefined) return value;
    if (Date.now() > end) throw new Error(`${what} did not come true`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** The middle, and what 99 of 100 are below, in milliseconds. */
export function figures(times) {
  const sorted = [...times].sort((a, b) => a - b);
  const at = (part) => sorted[Math.min(sorted.length - 1, Math.ceil(part * sorted.length) - 1)].toFixed(1);
  return `p50 ${at(0.5)} ms, p99 ${at(0.99)} ms of ${sorted.length}`;
}

/** A shop, as its phones and its API know it. */
export class Shop {
  id = randomUUID();
  api = API;

  static async open() {
    const shop = new Shop();
    shop.sending = await tokenOf('service', [shop.id], { subject: 'phones' });
    shop.looking = await tokenOf('admin', [shop.id], { subject: 'walk' });
    return shop;
  }

  /** Sends events as phones do: again, for as long as it is not known whether they are recorded. */
  async send(...events) {
    const body = events.map((event) => JSON.stringify(event)).join('\n');
    const headers = { authorization: `Bearer ${this.sending}`, 'content-type': 'application/x-ndjson' };
    return until('an event to be recorded', async () => {
      const answer = await fetch(`${this.api}/v1/shops/${this.id}/events`, { method: 'POST', headers, body }).catch(() => undefined);
      if (answer === undefined || answer.status === 503) return undefined;
      const text = await answer.text();
      assert.equal(answer.status, 200, text);
      const verdicts = text.trim().split('\n').map((line) => JSON.parse(line));
      for (const verdict of verdicts) assert(verdict.sequence > 0, text);
      return verdicts;
    });
  }

  async get(path) {
    const answer = await fetch(`${this.api}/v1/shops/${this.id}${path}`, { headers: { authorization: `Bearer ${this.looking}` } });
    assert.equal(answer.status, 200, path);
    return answer.json();
  }

  async put(path, body, method = 'PUT') {
    const headers = { authorization: `Bearer ${this.looking}`, 'content-type': 'application/json' };
    const answer = await fetch(`${this.api}/v1/shops/${this.id}${path}`, { method, headers, body: JSON.stringify(body) });
    assert(answer.ok, `${method} ${path}: ${answer.status}`);
    return answer;
  }

  /** All open baskets, as the API has them. */
  async openBaskets() {
    const all = [];
    let next = null;
    do {
      const page = await this.get(`/baskets?status=open&limit=200${next === null ? '' : `&cursor=${next}`}`);
      all.push(...page.baskets);
      next = page.next;
    } while (next !== null);
    return all;
  }
}

/** Somebody who shops. What the phone claims is right unless it is told otherwise. */
export class Visit {
  id = randomUUID();
  shopper = randomUUID();
  actions = 0;
  total = 0;

  constructor(shop) {
    this.shop = shop;
  }

  /** The next event, to be sent. */
  event(action, { name = 'Pears', product = 500200, price = 2.25, quantity = 1, claims } = {}) {
    this.actions += 1;
    if (action === 'ADD') this.total += price * quantity;
    if (action === 'REMOVE') this.total -= price * quantity;
    return {
      session_id: this.id,
      shop_id: this.shop.id,
      shopper_id: this.shopper,
      action_id: this.actions,
      create_time: new Date().toISOString(),
      action,
      product_name: name,
      product_id: product,
      product_price: price,
      UPC: '042100005265',
      category_id: 'fruit',
      basket_total: Math.round((claims ?? this.total) * 100) / 100,
      quantity,
    };
  }

  act(action, more) {
    return this.shop.send(this.event(action, more));
  }
}

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM,
  args: ['--no-sandbox', '--disable-dev-shm-usage', '--force-color-profile=srgb'],
});

// Whoever looks into a walk that failed wants to see what was on the screens.
process.on('uncaughtException', async (error) => {
  console.error(error);
  for (const page of browser.contexts().flatMap((context) => context.pages())) {
    const path = join(tmpdir(), `ezout-walk-${randomUUID().slice(0, 8)}.png`);
    await page.screenshot({ path }).then(() => console.error(`${page.url()} looks as in ${path}`), () => {});
  }
  console.error(complaints.join('\n'));
  process.exit(1);
});

/** Everything that a page complained about, other than what the walk brings about itself. */
const complaints = [];
const expected = [];

/** Says what a walk brings about itself, and is no fault of the page: answers of a status, or connections that are `cut`. */
export function expects(...what) {
  for (const one of what) expected.push(one === 'cut' ? /net::ERR_|WebSocket connection to/ : new RegExp(`^Failed to load resource: .* status of ${one}\\b`));
}

/** A browser of its own, at an address of the page, in which `before` runs first, and which `prepare` is given before that. */
export async function visit(path, { width = 1280, height = 900, scheme = 'light', locale = 'en-GB', calm = true, before, prepare } = {}) {
  const context = await browser.newContext({
    viewport: { width, height },
    colorScheme: scheme,
    locale,
    timezoneId: 'Europe/Berlin',
    reducedMotion: calm ? 'reduce' : 'no-preference',
  });
  context.setDefaultTimeout(PATIENCE);
  if (before) await context.addInitScript(before);
  if (prepare) await prepare(context);
  const page = await context.newPage();
  page.on('pageerror', (error) => complaints.push(`${error}`));
  page.on('console', (message) => {
    const text = message.text();
    if (['error', 'warning'].includes(message.type()) && !expected.some((one) => one.test(text))) complaints.push(`${text} (${message.location().url})`);
  });
  await page.goto(PAGE + path);
  return page;
}

/** Somebody who has signed in, before a screen of a shop. */
export async function somebody(shop, role, { path = '', subject = role, ...more } = {}) {
  const token = await tokenOf(role, [shop.id], { subject });
  return visit(`/shops/${shop.id}${path}#token=${token}`, more);
}

/** Says who somebody is, where the page asks for it. */
export async function named(page, name) {
  const dialog = page.getByRole('dialog', { name: 'What is your name?' });
  await dialog.getByLabel('Name').fill(name);
  await dialog.getByRole('button', { name: 'Go on' }).click();
  await dialog.waitFor({ state: 'detached' });
}

export const badge = (page, kind) => page.locator(`.badge[data-fresh="${kind}"]`).waitFor();
/** The badge says that what is shown may be old: no connection, or one to a gateway whose service does not answer. */
export const notLive = (page) => page.locator('.badge[data-fresh="offline"], .badge[data-fresh="stale"]').waitFor();
export const rowOf = (page, session) => page.locator(`[role="row"][data-session="${session}"]`);

/** What the rows of the board say, for as many as there are on the screen. */
export async function shown(page) {
  return page.evaluate(() => {
    const number = (text) => Number((text ?? '').replaceAll(/[^0-9.,-]/g, '').replaceAll(',', ''));
    const rows = [...document.querySelectorAll('[role="row"][data-session]:not([data-ended])')];
    return Object.fromEntries(
      rows.map((row) => [
        row.dataset.session,
        {
          items: number(row.querySelector('.cell-items')?.firstChild?.textContent),
          total: number(row.querySelector('.cell-total strong')?.textContent),
          verdict: row.querySelector('.cell-verdict .bad-chip') === null ? 'ok' : 'diverged',
        },
      ]),
    );
  });
}

/** Waits until the board shows what the API says, row by row. */
export async function agrees(page, shop) {
  let seen;
  let truth;
  try {
    await until('the board to be as the API says', async () => {
      truth = Object.fromEntries(
        (await shop.openBaskets()).map(({ session_id, item_count, total, verdict }) => [session_id, { items: item_count, total, verdict }]),
      );
      seen = await shown(page);
      try {
        assert.deepEqual(seen, truth);
        return true;
      } catch {
        return undefined;
      }
    });
  } catch (error) {
    assert.deepEqual(seen, truth);
    throw error;
  }
}

/** Nobody is left out by what is on the screen: axe finds nothing, and it is no wider than the screen. */
export async function everybody(page, what) {
  await page.evaluate(`${axe.source}; undefined`);
  const found = await page.evaluate(async () => {
    const result = await window.axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] });
    return result.violations.map((one) => `${one.id}: ${one.nodes.map((node) => `${node.target} ${node.failureSummary}`).join(' | ')}`);
  });
  assert.deepEqual(found, [], what);
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert(wide <= 0, `${what} is ${wide} px wider than the screen`);
}

/** Takes a picture, where pictures are wanted. */
export async function picture(page, name) {
  if (!PICTURES) return;
  mkdirSync(dirname(`${PICTURES}/${name}`), { recursive: true });
  await page.screenshot({ path: `${PICTURES}/${name}.png` });
}

/** Ends the walk; nothing in any page may have gone wrong. */
export async function end() {
  await browser.close();
  assert.deepEqual(complaints, []);
  process.exit(0);
}
