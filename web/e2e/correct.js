// Somebody of support finds out why a basket costs what it does, corrects it, undoes that, and looks at its past.

import { assert, badge, end, expects, named, picture, rowOf, Shop, somebody, Visit } from './support.js';

// What has moved on is refused.
expects(409);

const shop = await Shop.open();
await shop.put('', { name: 'Harbour Street', currency: 'EUR', time_zone: 'Europe/Berlin' });
const goods = [
  ['Oat milk, 1 l', 500300, 2.19],
  ['Sourdough bread', 500400, 4.8],
  ['Espresso beans, 500 g', 500500, 11.9],
  ['Olive oil', 500600, 9.49],
  ['Bananas', 500700, 1.29],
];
for (let number = 0; number < 7; number += 1) {
  const other = new Visit(shop);
  const events = goods.slice(0, 1 + (number % 5)).map(([name, product, price]) => other.event('ADD', { name, product, price, quantity: 1 + (number % 3) }));
  await shop.send(...events, ...(number === 6 ? [other.event('CHECKOUT')] : []));
}
const visit = new Visit(shop);
await shop.send(
  visit.event('ADD', { name: 'FUJI Apples', product: 500100, price: 3.5, quantity: 3 }),
  visit.event('ADD', { name: 'Pears', product: 500200, price: 2.25, claims: 9.25 }),
);
const support = await somebody(shop, 'support', { path: `/baskets/${visit.id}` });
const merchant = await somebody(shop, 'merchant');
await badge(merchant, 'live');
await rowOf(merchant, visit.id).getByText('12.75').waitFor();
await merchant.waitForFunction(() => document.querySelector('[role="row"][data-session]').dataset.urgent === 'high');
await picture(merchant, 'board');

// Why.

await support.getByText('FUJI Apples').first().waitFor();
await support.getByRole('button', { name: /Why is FUJI Apples/ }).click();
await picture(support, 'why');

// A correction, which needs a reason.
await support.getByRole('button', { name: 'Correct FUJI Apples' }).click();
await support.getByRole('menuitem', { name: 'Number of pieces…' }).click();
const dialog = support.getByRole('dialog');
await dialog.getByLabel('Pieces').fill('2');
await dialog.getByRole('button', { name: 'Correct', exact: true }).click();
await dialog.getByText('Say why.').waitFor();
await dialog.getByLabel('Reason').fill('scanned twice');
await picture(support, 'correct');
await dialog.getByRole('button', { name: 'Correct', exact: true }).click();
await named(support, 'Sam');
await dialog.waitFor({ state: 'detached' });
await support.getByText('scanned twice').first().waitFor();
// Whoever else looks has it without doing anything.
await rowOf(merchant, visit.id).getByText('9.25').first().waitFor();
assert.equal((await shop.get(`/sessions/${visit.id}/basket`)).total, 9.25);

// What has moved on meanwhile is shown, and nothing is overwritten.
await support.getByRole('button', { name: 'Correct Pears' }).click();
await support.getByRole('menuitem', { name: 'Price…' }).click();
await support.getByRole('dialog').getByLabel('Price of each piece').fill('2');
await support.getByRole('dialog').getByLabel('Reason').fill('the price at the shelf');
visit.total = 9.25;
await visit.act('ADD', { name: 'Pears', product: 500200, price: 2.25 });
await rowOf(merchant, visit.id).getByText('11.50').first().waitFor();
await support.getByRole('dialog').getByRole('button', { name: 'Correct', exact: true }).click();
await support.getByText('The basket has moved on').waitFor();
assert.equal((await shop.get(`/sessions/${visit.id}/basket`)).total, 11.5);
await picture(support, 'moved-on');
await support.getByRole('button', { name: 'It is still right: correct it' }).click();
await support.getByRole('dialog').waitFor({ state: 'detached' });
await rowOf(merchant, visit.id).getByText('11.00').first().waitFor();

// Undone.
await support.getByText('11.00').first().waitFor();
const scanned = support.getByRole('listitem').filter({ hasText: 'scanned twice' });
await scanned.getByRole('button', { name: 'Undo' }).click();
const undo = support.getByRole('dialog');
await undo.getByLabel('Reason').fill('there were three');
await undo.getByRole('button', { name: 'Undo it' }).click();
await undo.waitFor({ state: 'detached' });
await rowOf(merchant, visit.id).getByText('14.50').first().waitFor();
await scanned.getByText('undone', { exact: true }).waitFor();
await picture(support, 'undone');

// The past: the beginning of the visit, from where the slider is moved by the keys.
const slider = support.getByRole('slider', { name: 'Moment of the visit' });
await slider.focus();
await support.keyboard.press('Home');
await support.getByText(/^Event 1 of \d+$/).waitFor();
await support.waitForURL(/[?&](sequence|at)=/);
const link = support.url();
await picture(support, 'past');
// The link shows a colleague the same.
const colleague = await somebody(shop, 'support', { subject: 'colleague', path: link.slice(link.indexOf('/baskets/')) });
await colleague.getByText(/^Event 1 of \d+$/).waitFor();
await colleague.getByText('FUJI Apples').first().waitFor();
assert.equal(await colleague.getByText('Pears').count(), 0);
await support.getByRole('button', { name: 'Back to now' }).first().click();
await support.getByText('Pears').first().waitFor();
await end();
