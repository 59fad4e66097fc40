// Somebody watches a shop while everything happens that can: shoppers, a service that dies, a network that is cut.

import { agrees, API, ask, assert, badge, end, expects, figures, named, notLive, pause, rowOf, Shop, somebody, SOURCE, until, Visit } from './support.js';

// The service and the network go away.
expects('cut', 502, 503);

const POSTS = Number(process.env.EZOUT_POSTS || 30);

const shop = await Shop.open();
const visits = Array.from({ length: 20 }, () => new Visit(shop));
await shop.send(...visits.map((visit) => visit.event('ADD', { name: 'Apples', product: 500100, price: 3.5 })));
// So tall that all rows are on the screen.
const page = await somebody(shop, 'merchant', { height: 2600 });
await badge(page, 'live');
await agrees(page, shop);
await page.locator('.badge').click();
await page.getByText(SOURCE === 'resgate' ? 'Over Resgate.' : 'Over Server-Sent Events.').waitFor();
await page.keyboard.press('Escape');

// From a phone's POST to the pixel.
await page.evaluate(() => {
  window.seen = new Map();
  new MutationObserver(() => {
    for (const what of document.querySelectorAll('.last-what bdi')) {
      const name = what.textContent;
      if (name.startsWith('Product-') && !window.seen.has(name)) {
        window.seen.set(name, 0);
        // Drawn with the frame that comes next.
        requestAnimationFrame(() => window.seen.set(name, performance.timeOrigin + performance.now()));
      }
    }
  }).observe(document.body, { subtree: true, childList: true, characterData: true });
});
const times = [];
for (let number = 0; number < POSTS; number += 1) {
  const name = `Product-${number}`;
  const visit = visits[number % visits.length];
  const event = visit.event('ADD', { name, product: 600_000 + number, price: 1.25 });
  const begun = performance.timeOrigin + performance.now();
  await shop.send(event);
  const at = await until(`${name} on the screen`, async () => (await page.evaluate((name) => window.seen.get(name), name)) || undefined);
  times.push(at - begun);
  await pause(40);
}
console.log(`POST to pixel over ${SOURCE}: ${figures(times)}`);
await agrees(page, shop);
// The page has said of one of them that it is shown, which the service measures.
if (SOURCE === 'sse') {
  await until('the service to know what is seen', async () => ((await ask('metric', { series: 'ezout_seen_seconds_count' })).value >= 1 ? true : undefined));
}

// A basket that begins, one that is paid, one that diverges: it comes first, is coloured, and is counted in the title.
const late = new Visit(shop);
await late.act('ADD');
await rowOf(page, late.id).waitFor();
await visits[3].act('CHECKOUT');
await rowOf(page, visits[3].id).waitFor({ state: 'detached' });
await visits[7].act('ADD', { claims: 1 });
await rowOf(page, visits[7].id).and(page.locator('[data-urgent="high"]')).waitFor();
await until('the title to count it', async () => ((await page.title()).startsWith('(1)') ? true : undefined));
await until('it to be the first', async () => ((await page.locator('[role="row"][data-session]').evaluateAll((rows) => {
  const top = (row) => row.getBoundingClientRect().top;
  return rows.sort((a, b) => top(a) - top(b))[0].dataset.session;
})) === visits[7].id ? true : undefined));
await agrees(page, shop);

// Whoever takes care of a basket is seen by the others.
const other = await somebody(shop, 'merchant', { subject: 'other', height: 2600 });
await badge(other, 'live');
await rowOf(page, visits[7].id).getByRole('button', { name: 'I’m on it' }).click();
await named(page, 'Mia');
await rowOf(page, visits[7].id).getByText('You').waitFor();
await rowOf(other, visits[7].id).locator('.cell-handling').getByText('Mia').waitFor();
await other.context().close();

// The service dies for ten seconds while 200 things happen: another process of it takes the events.
const { url } = await ask('another');
await ask('kill');
await notLive(page);
shop.api = url;
const begun = Date.now();
for (let number = 0; number < 200; number += 1) {
  await visits[8 + (number % 10)].act(number % 3 === 2 ? 'REMOVE' : 'ADD');
  await pause(Math.max(0, begun + number * 50 - Date.now()));
}
await notLive(page);
await ask('start');
shop.api = API;
await badge(page, 'live');
await agrees(page, shop);

// The network is cut, and comes back.
await ask('cut');
await notLive(page);
await visits[9].act('ADD', { name: 'While it was cut', product: 700_000 });
await ask('mend');
await badge(page, 'live');
await rowOf(page, visits[9].id).getByText('While it was cut').waitFor();
await agrees(page, shop);
// It is the page of the beginning, which was never loaded anew.
assert.equal(await page.evaluate(() => window.seen?.size), POSTS);
await end();
