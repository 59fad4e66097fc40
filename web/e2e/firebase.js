// Signing in with Firebase. Google is not there: what it answers is said here, in its own form; the SDK, the page's policy and the
// check of the token are the real ones.

import { assert, badge, end, expects, Shop, tokenOf, Visit, visit as open } from './support.js';

// Google is away, and then refuses.
expects('cut', 400, 401);

const shop = await Shop.open();
await new Visit(shop).act('ADD');
const token = await tokenOf('merchant', [shop.id], { subject: 'mia', seconds: 20 });

/** How Google answers; without it the network is away. */
let google = null;
const asked = [];
const prepare = (context) =>
  context.route(/^https:\/\/[^/]*google/, (route) => {
    const url = new URL(route.request().url());
    asked.push(url.origin + url.pathname);
    if (google === null) return route.abort('internetdisconnected');
    const [status, json] = google(url);
    return route.fulfill({ status, json, headers: { 'access-control-allow-origin': '*' } });
  });
const loaded = (page) => page.evaluate(() => performance.getEntriesByType('resource').some((one) => one.name.endsWith('/assets/firebase.js')));

const page = await open(`/shops/${shop.id}`, { prepare });
const signIn = async () => {
  await page.getByLabel('E-mail').fill('mia@example.com');
  await page.getByLabel('Password').fill('not a secret');
  await page.getByRole('button', { name: 'Sign in', exact: true }).click();
};
await page.getByLabel('E-mail').waitFor();
assert.equal(await loaded(page), false);
await signIn();
await page.getByText('Firebase cannot be reached.').waitFor();
assert.equal(await loaded(page), true);
assert.deepEqual(new Set(asked), new Set(['https://identitytoolkit.googleapis.com/v1/accounts:signInWithPassword']));

google = () => [400, { error: { code: 400, message: 'INVALID_LOGIN_CREDENTIALS' } }];
await signIn();
await page.getByText('E-mail and password do not fit together.').waitFor();

google = (url) => {
  const user = { localId: 'mia', email: 'mia@example.com' };
  if (url.pathname.endsWith(':lookup')) return [200, { users: [user] }];
  return [200, { ...user, idToken: token, refreshToken: 'another', expiresIn: '3600' }];
};
await signIn();
await badge(page, 'live');
assert.equal(new URL(page.url()).pathname, `/shops/${shop.id}`);

// It is renewed before its end, and where Firebase says no it is over.
google = () => [400, { error: { code: 400, message: 'TOKEN_EXPIRED' } }];
await page.getByText('Your sign-in has ended.').waitFor();
assert(asked.includes('https://securetoken.googleapis.com/v1/token'));
await end();
