// An event that cannot be applied, and those who look after the system: support sees it, an administrator decides.

import { randomUUID } from 'node:crypto';
import { ask, assert, badge, end, everybody, rowOf, Shop, somebody, tokenOf, until, Visit, visit as open } from './support.js';

const shop = await Shop.open();
const visit = new Visit(shop);
await visit.act('ADD', { name: 'Apples', product: 1, price: 3.5 });
const { sequence } = await ask('poison', { shop: shop.id, session: visit.id });
const behind = (await visit.act('ADD', { name: 'Pears', product: 2, price: 2.25 }))[0].sequence;
await shop.get(`/sessions/${visit.id}/basket?min_sequence=${behind}`);
const merchant = await somebody(shop, 'merchant');
await badge(merchant, 'live');
await rowOf(merchant, visit.id).getByText('Held up').waitFor();

const itsOf = (page) => page.getByRole('listitem').filter({ hasText: `#${sequence}` }).filter({ hasText: 'waits' });
const support = await open(`/operations#token=${await tokenOf('support', ['*'], { subject: 'Sam' })}`);
await itsOf(support).waitFor();
await support.getByText('Administrators decide about parked events.').waitFor();
assert.equal(await support.getByRole('button', { name: 'Drop' }).count(), 0);

const admin = await open(`/operations#token=${await tokenOf('admin', ['*'], { subject: 'Ada' })}`);
await itsOf(admin).waitFor();
const states = async () => {
  const answer = await fetch(`${shop.api}/v1/operations/parked`, { headers: { authorization: `Bearer ${await tokenOf('admin', ['*'])}` } });
  return Object.fromEntries((await answer.json()).parked.map((event) => [event.sequence, event.state]));
};

// Tried again it is parked again: nothing was mended. It takes a reason.
await itsOf(admin).getByRole('button', { name: 'Try again' }).click();
const retry = admin.getByRole('dialog', { name: `Apply event ${sequence} once more?` });
await retry.getByRole('button', { name: 'Try again' }).click();
await retry.getByText('Say why.').waitFor();
await everybody(admin, 'the decision about a parked event');
await retry.getByLabel('Reason').fill('the shop was told');
await retry.getByRole('button', { name: 'Try again' }).click();
await retry.waitFor({ state: 'detached' });
await admin.getByText('Decided. It takes effect within seconds.').waitFor();
await until('it to be parked again', async () => ((await states())[sequence] === 'parked' ? true : undefined));
await itsOf(admin).waitFor();

// Dropped it counts no more, and what came behind it is applied.
await itsOf(admin).getByRole('button', { name: 'Drop' }).click();
const drop = admin.getByRole('dialog', { name: `Drop event ${sequence}?` });
await drop.getByLabel('Reason').fill('a broken phone');
await drop.getByRole('button', { name: 'Drop' }).click();
await drop.waitFor({ state: 'detached' });
await admin.getByText('No event waits for a decision.').waitFor();
await rowOf(merchant, visit.id).getByText('5.75').first().waitFor();
await rowOf(merchant, visit.id).getByText('Held up').waitFor({ state: 'detached' });
assert.deepEqual(await states(), {});
const audit = await shop.get('/audit?limit=50');
const decided = audit.entries.filter((entry) => entry.what.startsWith(`parked event ${sequence}`)).map((entry) => entry.what);
assert.deepEqual(new Set(decided), new Set([`parked event ${sequence}: retry: the shop was told`, `parked event ${sequence}: drop: a broken phone`]));

// The stage of corrections has come as far as the newest of them.
const stage = admin.locator('.stages > li').filter({ hasText: 'Corrections' });
await stage.getByText('Up to event –').waitFor();
const wish = { id: randomUUID(), author: 'Ada', reason: 'scanned twice', quantity: { product_id: 1, quantity: 0 } };
const filed = await (await shop.put(`/sessions/${visit.id}/corrections`, wish, 'POST')).json();
assert(filed.sequence > behind, JSON.stringify(filed));
await stage.getByText(`Up to event ${filed.sequence}`).waitFor();
await end();
