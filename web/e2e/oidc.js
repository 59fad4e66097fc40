// Signing in at an issuer that gives its tokens at another origin: by a redirect, with a code and PKCE, renewed before the end.

import { ask, assert, badge, end, expects, rowOf, Shop, until, Visit, visit as open } from './support.js';

// A renewal is refused.
expects(400, 401);

const shop = await Shop.open();
const visit = new Visit(shop);
await visit.act('ADD', { name: 'Apples', product: 1 });
await ask('let_in', { claims: { sub: 'mia', role: 'merchant', shops: [shop.id] } });

// They come back to where they wanted to be.
const page = await open(`/shops/${shop.id}?sort=total`);
await page.getByRole('button', { name: /^Sign in with 127\.0\.0\.1/ }).click();
await badge(page, 'live');
const begun = Date.now();
const at = new URL(page.url());
assert.deepEqual([at.pathname, at.search, at.hash], [`/shops/${shop.id}`, '?sort=total', '']);
await rowOf(page, visit.id).getByText('2.25').first().waitFor();
assert.equal((await ask('issuer')).codes, 0);
const kept = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie]));
assert(!kept.includes('eyJ'), `a token is kept: ${kept}`);

// Nobody notices that the first token ends.
await until('the token to be renewed', async () => ((await ask('issuer')).refreshed > 0 ? true : undefined));
await until('the first token to end', async () => (Date.now() > begun + 30_000 ? true : undefined));
await visit.act('ADD', { name: 'after the end', product: 2 });
await rowOf(page, visit.id).getByText('after the end').waitFor();
await badge(page, 'live');

// Where the issuer renews it no more, the end is the end.
await ask('forget');
await page.getByText('Your sign-in has ended.').waitFor();

// Whom the issuer knows and who has no rights here is told so.
await ask('let_in', { claims: { sub: 'nobody' } });
const stranger = await open('/');
await stranger.getByRole('button', { name: /^Sign in with/ }).click();
await stranger.getByText('This account may not look at shops.').waitFor();

// Whoever signs out is asked again by the issuer, which still knows the one who has left.
await ask('let_in', { claims: { sub: 'mia', role: 'merchant', shops: [shop.id] } });
const tablet = await open(`/shops/${shop.id}`);
const prompts = [];
tablet.on('request', (request) => {
  const asks = new URL(request.url()).searchParams;
  if (asks.has('code_challenge')) prompts.push(asks.get('prompt'));
});
for (let time = 0; time < 2; time += 1) {
  await tablet.getByRole('button', { name: /^Sign in with/ }).click();
  await badge(tablet, 'live');
  await tablet.getByRole('button', { name: 'Settings and account' }).click();
  await tablet.getByRole('menuitem', { name: 'Sign out' }).click();
  await tablet.getByText('You have signed out.').waitFor();
}
assert.deepEqual(prompts, [null, 'login']);

// What somebody else has asked the issuer for is no sign-in.
const misled = await open('/sign-in?code=of-somebody-else&state=of-somebody-else');
await misled.getByText('That sign-in does not count here.').waitFor();
assert.equal(new URL(misled.url()).search, '');
await end();
