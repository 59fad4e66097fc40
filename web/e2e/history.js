// The visits of a shop: more of them than one page of the service has, by day, status and verdict.

import { assert, badge, end, Shop, somebody, until, Visit } from './support.js';

const VISITS = 130;
const shop = await Shop.open();
await shop.put('', { time_zone: 'Pacific/Kiritimati' });
const visits = Array.from({ length: VISITS }, (_, number) => {
  const visit = new Visit(shop);
  const events = [visit.event('ADD', number % 13 === 0 ? { claims: 1 } : {})];
  if (number % 5 === 0) events.push(visit.event('CHECKOUT', number % 13 === 0 ? { claims: 1 } : {}));
  return { visit, events, paid: number % 5 === 0, diverged: number % 13 === 0 };
});
const { sequence } = (await shop.send(...visits.flatMap(({ events }) => events))).at(-1);
await shop.get(`/sessions/${visits.at(-1).visit.id}/basket?min_sequence=${sequence}`);
const idsOf = (some) => some.map(({ visit }) => visit.id).sort();

const asked = [];
const page = await somebody(shop, 'support', { path: '/history', subject: 'Sam' });
page.on('request', (request) => {
  const url = new URL(request.url());
  if (url.pathname.endsWith('/baskets')) asked.push(url.searchParams);
});
await badge(page, 'live');
const shown = async () => (await page.locator('a.visit').evaluateAll((links) => links.map((link) => link.getAttribute('href').split('/').at(-1)))).sort();
/** Scrolls until there is no more, and waits for just these. */
const scrolled = async (some) => {
  await until('the end of the list', async () => {
    await page.evaluate(() => window.scrollTo(0, document.documentElement.scrollHeight));
    return (await page.getByText('That is all.').count()) > 0 ? true : undefined;
  });
  assert.deepEqual(await shown(), idsOf(some));
};

// One page of them first, and the others as somebody scrolls there.
await until('the first page', async () => ((await shown()).length >= 50 ? true : undefined));
assert.equal((await shown()).length, 50);
await scrolled(visits);
assert.equal(asked.filter((query) => query.has('cursor')).length, 2);

await page.getByLabel('Status').selectOption({ label: 'Paid' });
await page.waitForURL(/[?&]status=paid/);
await until('the paid ones', async () => ((await shown()).length === visits.filter(({ paid }) => paid).length ? true : undefined));
await scrolled(visits.filter(({ paid }) => paid));
await page.getByLabel('Claim').selectOption({ label: 'Diverged' });
await page.waitForURL(/[?&]verdict=diverged/);
const both = visits.filter(({ paid, diverged }) => paid && diverged);
await until('those that are both', async () => ((await shown()).length === both.length ? true : undefined));
await scrolled(both);

// A visit of them, and back to what was asked for.
await page.locator('a.visit').first().click();
await page.getByRole('heading', { name: /^Basket/ }).waitFor();
await page.goBack();
await until('those that are both', async () => ((await shown()).length === both.length ? true : undefined));

// Today is the shop's, wherever the reader is; the day before ended when it began, and is asked for as such.
const day = (ms) => new Intl.DateTimeFormat('en-CA', { timeZone: 'Pacific/Kiritimati' }).format(ms);
const today = day(Date.now());
await page.getByLabel('Status').selectOption({ label: 'Any' });
await page.getByLabel('Claim').selectOption({ label: 'Any' });
await page.getByLabel('Day', { exact: true }).fill(today);
await page.waitForURL((url) => url.searchParams.get('day') === today);
await until('the visits of today', async () => ((await shown()).length === 50 ? true : undefined));
await scrolled(visits);
await page.getByLabel('Day', { exact: true }).fill(day(Date.now() - 86_400_000));
await page.getByText('No visits').waitFor();
const last = asked.at(-1);
assert.equal(last.get('until'), `${day(Date.now() - 86_400_000)}T10:00:00.000Z`);
assert.equal(Date.parse(last.get('until')) - Date.parse(last.get('since')), 86_400_000);

// The link shows a colleague the same.
const colleague = await somebody(shop, 'merchant', { path: '/history?status=paid&verdict=diverged', subject: 'colleague' });
await colleague.locator('a.visit').nth(both.length - 1).waitFor();
assert.equal(await colleague.locator('a.visit').count(), both.length);
await end();
