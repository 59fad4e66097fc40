// Rights that end while the page is open, and people who have none.

import { ask, assert, badge, end, expects, named, rowOf, Shop, somebody, tokenOf, Visit, visit as open } from './support.js';

// Who may not is refused.
expects(401, 403, 404);

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
assert(!kept.includes('eyJ'), `a token is kept: ${kept}`);

// Revoked.
await ask('revoke', { subject: 'leaves' });
await page.getByText('Your sign-in was revoked.').waitFor();
await page.getByRole('heading', { name: /Sign in|Who do you want to be/ }).first().waitFor();

// A token that ends, and that nothing renews: nothing of what happens afterwards is shown.
const stays = await somebody(shop, 'merchant', { subject: 'stays' });
await badge(stays, 'live');
const token = await tokenOf('merchant', [shop.id], { subject: 'ends', seconds: 6 });
const ends = await open(`/shops/${shop.id}#token=${token}`);
await badge(ends, 'live');
await ends.getByText('Your sign-in has ended.').waitFor();
await visit.act('ADD', { name: 'after the end', product: 1 });
await rowOf(stays, visit.id).getByText('after the end').waitFor();
assert(!(await ends.content()).includes('after the end'), 'the page goes on after the end of the token');
await ends.getByText('Your sign-in has ended.').waitFor();

// A shop of somebody else is as one that does not exist.
const stranger = await open(`/shops/${other.id}#token=${await tokenOf('merchant', [shop.id], { subject: 'stranger' })}`);
await stranger.getByText(/may not look at this shop|Nothing is here that you may see|There is no such/).first().waitFor();
assert(!(await stranger.content()).includes('of the other shop'), 'something of another shop is on the screen');
// They stay signed in, and find their own.
await stranger.getByRole('link', { name: 'To the shops' }).click();
await stranger.locator(`a[href="/shops/${shop.id}"]`).first().click();
await badge(stranger, 'live');

// Whoever signs out leaves nothing: no address to come back to, and no name.
await rowOf(stays, visit.id).getByRole('button', { name: 'I’m on it' }).click();
await named(stays, 'Mia');
await rowOf(stays, visit.id).getByText('You').waitFor();
await stays.getByRole('button', { name: 'Settings and account' }).click();
await stays.getByRole('menuitem', { name: 'Sign out' }).click();
await stays.getByText('You have signed out.').waitFor();
assert.equal(new URL(stays.url()).pathname, '/');
assert.equal(await stays.evaluate(() => sessionStorage.length), 0);
await end();
