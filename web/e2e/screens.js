// Each screen in both colour schemes and from a phone to a wall: nobody is left out, and the pictures are taken.

import { assert, badge, end, everybody, expects, named, picture, Shop, somebody, tokenOf, until, Visit, visit as open } from './support.js';

// A correction of what has moved on is refused.
expects(409);

const shop = await Shop.open();
await shop.put('', { name: 'Harbour Street', currency: 'EUR', time_zone: 'Europe/Berlin' });
const second = await Shop.open();
await new Visit(second).act('ADD');
const goods = [
  ['FUJI Apples', 500100, 3.5],
  ['Pears', 500200, 2.25],
  ['Oat milk, 1 l', 500300, 2.19],
  ['Sourdough bread', 500400, 4.8],
  ['Espresso beans, 500 g', 500500, 11.9],
  ['Olive oil', 500600, 9.49],
  ['Bananas', 500700, 1.29],
];
const visits = [];
let last = 0;
for (let number = 0; number < 24; number += 1) {
  const visit = new Visit(shop);
  const [name, product, price] = goods[number % goods.length];
  const events = [visit.event('ADD', { name, product, price })];
  for (let more = 0; more < (number * 5) % 7; more += 1) {
    const [name, product, price] = goods[(number + more * 3) % goods.length];
    events.push(visit.event('ADD', { name, product, price, quantity: 1 + (more % 2) }));
  }
  if (number === 3 || number === 11) events.push(visit.event('ADD', { name: 'Olive oil', product: 500600, price: 9.49, claims: visit.total - 9.49 }));
  if (number === 5) events.push(visit.event('REMOVE', { name: 'Figs', product: 500800, price: 4 }));
  if (number >= 18) events.push(visit.event(number === 23 ? 'CANCEL' : 'CHECKOUT'));
  last = (await shop.send(...events)).at(-1).sequence;
  visits.push(visit);
}
const diverged = visits[3];
await shop.get(`/sessions/${visits[23].id}/basket?min_sequence=${last}`);

const SIZES = { phone: [360, 740], tablet: [820, 1180], desk: [1440, 900] };
const admin = await tokenOf('admin', ['*'], { subject: 'Ada' });
const screens = {
  board: { path: '', ready: (page) => page.locator('[role="row"][data-urgent="high"]').first().waitFor() },
  basket: { path: `/baskets/${diverged.id}`, ready: (page) => page.getByText('Olive oil').first().waitFor() },
  history: { path: '/history', ready: (page) => page.getByText('Cancelled').last().waitFor() },
};
for (const scheme of ['light', 'dark']) {
  for (const [size, [width, height]] of Object.entries(SIZES)) {
    for (const [name, { path, ready }] of Object.entries(screens)) {
      const page = await somebody(shop, 'support', { path, subject: 'Sam', width, height, scheme });
      await badge(page, 'live');
      await ready(page);
      await everybody(page, `${name} at ${size}, ${scheme}`);
      await picture(page, `screens/${name}-${size}-${scheme}`);
      await page.context().close();
    }
  }
  const operations = await open(`/operations#token=${admin}`, { scheme, width: 1440 });
  await operations.getByRole('heading', { name: 'Partitions' }).waitFor();
  await operations.getByText('Journal').first().waitFor();
  await everybody(operations, `operations, ${scheme}`);
  await picture(operations, `screens/operations-desk-${scheme}`);
  await operations.context().close();

  const signIn = await open('/', { scheme });
  await signIn.getByRole('heading').first().waitFor();
  await everybody(signIn, `signing in, ${scheme}`);
  await picture(signIn, `screens/sign-in-${scheme}`);
  await signIn.context().close();

  const chooses = await open(`/#token=${await tokenOf('merchant', [shop.id, second.id], { subject: 'many' })}`, { scheme });
  await chooses.getByText('Harbour Street').first().waitFor();
  await everybody(chooses, `the choice of a shop, ${scheme}`);
  await picture(chooses, `screens/shops-${scheme}`);
  await chooses.getByRole('link', { name: /Harbour Street/ }).or(chooses.getByRole('button', { name: /Harbour Street/ })).first().click();
  await badge(chooses, 'live');
  await chooses.keyboard.press('?');
  await chooses.getByRole('dialog').waitFor();
  await everybody(chooses, `the help, ${scheme}`);
  await chooses.context().close();

  // What opens over a basket: a reason, a correction, and what has moved on while it was written.
  const visit = new Visit(shop);
  await shop.send(
    visit.event('ADD', { name: 'FUJI Apples', product: 500100, price: 3.5, quantity: 3 }),
    visit.event('ADD', { name: 'Pears', product: 500200, price: 2.25, claims: 9.25 }),
  );
  const mends = await somebody(shop, 'support', { path: `/baskets/${visit.id}`, subject: 'Sam', scheme });
  await mends.getByRole('button', { name: /^Why is FUJI Apples/ }).click();
  await mends.locator('button[aria-expanded="true"][aria-label^="Why is "]').waitFor();
  await everybody(mends, `why, ${scheme}`);
  await mends.getByRole('button', { name: 'Correct FUJI Apples' }).click();
  await mends.getByRole('menuitem', { name: 'Number of pieces…' }).waitFor();
  await everybody(mends, `what can be corrected, ${scheme}`);
  await mends.getByRole('menuitem', { name: 'Number of pieces…' }).click();
  const dialog = mends.getByRole('dialog');
  await dialog.getByLabel('Reason').fill('scanned twice');
  await everybody(mends, `a correction, ${scheme}`);
  const { sequence } = (await visit.act('ADD', { name: 'Bananas', product: 500700, price: 1.29 }))[0];
  await shop.get(`/sessions/${visit.id}/basket?min_sequence=${sequence}`);
  await dialog.getByLabel('Pieces').fill('2');
  await dialog.getByRole('button', { name: 'Correct', exact: true }).click();
  await named(mends, 'Sam');
  await mends.getByText('The basket has moved on').waitFor();
  await everybody(mends, `a basket that has moved on, ${scheme}`);
  await mends.context().close();
}

// By the keys alone: from the list into a basket and back, and to the history.
const page = await somebody(shop, 'support', { subject: 'Sam' });
await badge(page, 'live');
await page.locator('[role="row"][data-session]').first().focus();
// The row that has the focus is never under the head of the page.
await page.keyboard.press('End');
for (let up = 0; up < 16; up += 1) {
  await page.keyboard.press('ArrowUp');
  await until('the focused row to be below the head', async () =>
    (await page.evaluate(() => {
      const row = document.activeElement?.closest('[role="row"][data-session]');
      return row != null && row.getBoundingClientRect().top >= document.querySelector('.head').getBoundingClientRect().bottom - 1;
    })) || undefined);
}
await page.keyboard.press('ArrowDown');
await page.keyboard.press('Enter');
await page.waitForURL(/\/baskets\//);
await page.getByRole('heading', { name: /^Basket/ }).waitFor();
// A button works by Space, which plays the visit only where no button has the focus.
const why = page.getByRole('button', { name: /^Why is / }).first();
await why.and(page.locator(':enabled')).focus();
await page.keyboard.press('Space');
await page.locator('button[aria-expanded="true"][aria-label^="Why is "]').waitFor();
assert.equal(await page.getByRole('button', { name: 'Pause' }).count(), 0);
assert.equal(new URL(page.url()).search, '');
await page.getByRole('slider', { name: 'Moment of the visit' }).focus();
await Promise.all([page.waitForURL(/[?&]sequence=/), page.keyboard.press('Space')]);
await page.waitForURL((url) => !url.search.includes('sequence='));
await page.getByRole('slider', { name: 'Moment of the visit' }).blur();
assert.match(await page.title(), /Basket #/);
await page.keyboard.press('Escape');
await page.waitForURL((url) => !url.pathname.includes('/baskets/'));
// Single characters do nothing where they are switched off.
const keys = async (checked) => {
  await page.getByRole('button', { name: 'Settings and account' }).click();
  await page.getByRole('menuitemcheckbox', { name: /^Keys:/ }).click();
  await page.getByRole('menuitemcheckbox', { name: /^Keys:/, checked }).waitFor();
  await page.keyboard.press('Escape');
  await page.getByRole('menu').waitFor({ state: 'detached' });
  await page.locator('#content').focus();
};
await keys(false);
await page.keyboard.press('?');
await page.keyboard.press('/');
assert.equal(await page.evaluate(() => document.activeElement?.id), 'content');
assert.equal(await page.getByRole('dialog').count(), 0);
await keys(true);
await page.keyboard.press('g');
await page.keyboard.press('h');
await page.waitForURL(/\/history/);
await until('the title to say so', async () => (/^(\(\d+\) )?History – /.test(await page.title()) ? true : undefined));

// In another language, with the shop's money as that language writes it.
const german = await somebody(shop, 'merchant', { subject: 'mia', locale: 'de-DE' });
await badge(german, 'live');
await german.getByText(/\d,\d\d\s€/).first().waitFor();
await german.getByText('Offene Körbe').first().waitFor();
await end();
