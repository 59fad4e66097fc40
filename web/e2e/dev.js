// Somebody who tries it: they choose whom to be by a click.

import { badge, end, rowOf, Shop, Visit, visit as open } from './support.js';

const shop = await Shop.open();
const visit = new Visit(shop);
await visit.act('ADD');

// A merchant of one shop is before its board at once.
const page = await open('/');
await page.getByRole('heading', { name: 'Who do you want to be?' }).waitFor();
await page.getByRole('combobox').selectOption({ label: 'Another shop…' });
await page.getByLabel('Id of a shop').fill(shop.id);
await page.getByRole('button', { name: /^M?\s*Mia/ }).click();
await badge(page, 'live');
// Who they are is known, so nobody asks for their name.
await rowOf(page, visit.id).getByRole('button', { name: 'I’m on it' }).click();
await rowOf(page, visit.id).getByText('You').waitFor();
await page.getByRole('link', { name: 'Operations' }).waitFor({ state: 'detached' });

// And somebody else after that, who looks after everything.
await page.getByRole('button', { name: 'Settings and account' }).click();
await page.getByRole('menuitem', { name: 'Sign out' }).click();
await page.getByText('You have signed out.').waitFor();
await page.getByRole('combobox').selectOption({ label: 'All shops' });
await page.getByRole('button', { name: /Ada/ }).click();
await page.getByRole('heading', { name: 'Which shop?' }).waitFor();
await page.getByLabel('Id of a shop').fill(shop.id);
await page.getByRole('button', { name: 'Open', exact: true }).click();
await badge(page, 'live');
await rowOf(page, visit.id).locator('.cell-handling').getByText('Mia').waitFor();
await page.getByRole('link', { name: 'Operations' }).click();
await page.getByRole('heading', { name: 'Partitions' }).waitFor();
await end();
