// How fast the page is: a shop of 1,000 open baskets in which 100 things happen a second. Prints figures; judges nothing.

import { gzipSync } from 'node:zlib';
import { badge, end, figures, PAGE, pause, Shop, SOURCE, somebody, until, Visit } from './support.js';

const SECONDS = Number(process.env.EZOUT_WEB_SECONDS || 20);
const BASKETS = 1_000;
const EVERY_MS = 100;
const AT_ONCE = 10;

const script = Buffer.from(await (await fetch(`${PAGE}/app.js`)).arrayBuffer());
console.log(`app.js: ${(gzipSync(script, { level: 9 }).length / 1000).toFixed(1)} kB compressed, ${(script.length / 1000).toFixed(1)} kB as it is`);

const shop = await Shop.open();
const visits = Array.from({ length: BASKETS }, () => new Visit(shop));
for (let from = 0; from < BASKETS; from += 200) {
  await shop.send(...visits.slice(from, from + 200).map((visit) => visit.event('ADD', { name: 'FUJI Apples', product: 500100, price: 3.5 })));
}
const [last] = await shop.send(visits[0].event('ADD'));
await shop.get(`/sessions/${visits[0].id}/basket?min_sequence=${last.sequence}`);

// From the request to the first baskets on the screen.
const firsts = [];
const whenDrawn = () => {
  new MutationObserver((_, observer) => {
    if (document.querySelector('[role="row"][data-session]') === null) return;
    observer.disconnect();
    requestAnimationFrame(() => setTimeout(() => (window.drawn = performance.now())));
  }).observe(document, { subtree: true, childList: true });
};
for (let time = 0; time < 10; time += 1) {
  const page = await somebody(shop, 'merchant', { before: whenDrawn });
  firsts.push(await until('the first baskets', () => page.evaluate(() => window.drawn)));
  await page.context().close();
}
console.log(`request to first baskets on the screen over ${SOURCE}: ${figures(firsts)}`);

const page = await somebody(shop, 'merchant', { calm: false });
await badge(page, 'live');
const cdp = await page.context().newCDPSession(page);
await cdp.send('Performance.enable');
await cdp.send('HeapProfiler.enable');
const heap = async () => {
  await cdp.send('HeapProfiler.collectGarbage');
  const { metrics } = await cdp.send('Performance.getMetrics');
  return metrics.find((metric) => metric.name === 'JSHeapUsedSize').value / 1e6;
};
let sending = true;
let sent = 0;
const shoppers = (async () => {
  const begun = performance.now();
  for (let round = 0; sending; round += 1) {
    const events = Array.from({ length: AT_ONCE }, () => {
      const visit = visits[Math.floor(Math.random() * BASKETS)];
      const diverges = Math.random() < 0.01;
      return visit.event('ADD', { name: `Product ${sent % 97}`, product: 600_000 + (sent % 97), price: 1.25, claims: diverges ? 1 : undefined });
    });
    const distinct = [...new Map(events.map((event) => [`${event.session_id} ${event.action_id}`, event])).values()];
    await shop.send(...distinct);
    sent += distinct.length;
    await pause(Math.max(0, begun + (round + 1) * EVERY_MS - performance.now()));
  }
})();
await pause(3_000);
const before = await heap();
const watch = await page.evaluateHandle(() => {
  const seen = { frames: 0, begun: performance.now(), gaps: [], tasks: [], running: true };
  new PerformanceObserver((list) => seen.tasks.push(...list.getEntries().map((entry) => entry.duration))).observe({ type: 'longtask' });
  let before = performance.now();
  const frame = (now) => {
    seen.frames += 1;
    seen.gaps.push(now - before);
    before = now;
    if (seen.running) requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
  return seen;
});
const heaps = [];
const steps = Math.max(1, Math.round(SECONDS / 30));
for (let step = 0; step < steps; step += 1) {
  await pause((SECONDS * 1000) / steps);
  heaps.push(await heap());
}
const seen = await watch.evaluate((seen) => {
  seen.running = false;
  return { ...seen, seconds: (performance.now() - seen.begun) / 1000 };
});
sending = false;
await shoppers;
const { result } = await cdp.send('Runtime.evaluate', { expression: 'document.querySelectorAll("*").length' });
console.log(`${BASKETS} open baskets, ${(sent / (seen.seconds + 3)).toFixed(0)} changes a second for ${seen.seconds.toFixed(0)} s over ${SOURCE}:`);
console.log(`  ${(seen.frames / seen.seconds).toFixed(1)} frames a second; between two frames ${figures(seen.gaps)}`);
console.log(`  tasks over 50 ms: ${seen.tasks.length} of ${seen.frames} frames, the longest ${Math.max(0, ...seen.tasks).toFixed(0)} ms`);
console.log(`  memory of the script ${before.toFixed(1)} MB, then ${heaps.map((one) => one.toFixed(1)).join(', ')} MB; ${result.value} elements`);
await end();
