// Rights that end while the page is open, and people who have none.

import { ask, badge, end, rowOf, Shop, somebody, tokenOf, Visit, visit as open } from './support.js';

const shop = await Shop.open();
const other = await Shop.open();
const visit = new Visit(shop);
await visit.act('ADD');
await new Visit(other).act('ADD', { name: 'of the other shop' });

// The token goes out of the address at once, and is nowhere but in memory.
const page = await somebody(shop, 'merchant', { subject: 'leaves' });
await badge(page, 'live');
await page.waitForURL((url) => url.hash === '');
const kept = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie]));
if (kept.includes('eyJ')) throw new Error(`a token is kept: ${kept}`);

// Revoked.
await ask('revoke', { subject: 'leaves' });
await page.getByText('Your sign-in was revoked.').waitFor();
await page.getByRole('heading', { name: /Sign in|Who do you want to be/ }).first().waitFor();

// A token that ends: the page has a new one, or asks to sign in again; it never goes on as if nothing were.
const token = await tokenOf('merchant', [shop.id], { subject: 'ends', seconds: 6 });
const ends = await open(`/shops/${shop.id}#token=${token}`);
await badge(ends, 'live');
await ends.getByText('Your sign-in has ended.').or(ends.locator('.badge[data-fresh="live"]')).first().waitFor();
await new Promise((resolve) => setTimeout(resolve, 8_000));
await visit.act('ADD', { name: 'after the end', product: 1 });
await ends.getByText('Your sign-in has ended.').or(rowOf(ends, visit.id).getByText('after the end')).first().waitFor();

// A shop of somebody else is as one that does not exist.
const stranger = await open(`/shops/${other.id}#token=${await tokenOf('merchant', [shop.id], { subject: 'stranger' })}`);
await stranger.getByText(/may not look at this shop|Nothing is here that you may see|There is no such/).first().waitFor();
if ((await stranger.content()).includes('of the other shop')) throw new Error('something of another shop is on the screen');
await end();
