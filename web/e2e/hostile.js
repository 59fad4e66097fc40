// Names of products that mean the page ill.

import { assert, badge, end, rowOf, Shop, somebody, Visit } from './support.js';

const names = [
  '<script>window.hacked = 1</script>',
  '<img src=x onerror="window.hacked = 1">',
  '"><svg onload=window.hacked=1>',
  "{{constructor.constructor('window.hacked=1')()}}",
  'javascript:window.hacked=1',
  '\u202Egnp.exe\u202C تفاح أخضر',
  '__proto__',
  'a\u0000b\u200Dc\uFEFF',
  '𝕬'.repeat(200),
  'W'.repeat(10_000),
];
const shop = await Shop.open();
for (const width of [360, 1280]) {
  const visits = [];
  for (const name of names) {
    const visit = new Visit(shop);
    await visit.act('ADD', { name });
    visits.push([visit, name]);
  }
  const page = await somebody(shop, 'support', { width, height: 3_000 });
  await badge(page, 'live');
  for (const [visit, name] of visits) {
    await rowOf(page, visit.id).waitFor();
    const basket = await somebody(shop, 'support', { width, path: `/baskets/${visit.id}` });
    await basket.getByRole('button', { name: /^Why is/ }).first().waitFor();
    const text = await basket.locator('main').textContent();
    assert(text.includes(name.slice(0, 40)), `${name.slice(0, 40)} is not on the screen as it is`);
    assert.equal(await basket.evaluate(() => document.documentElement.scrollWidth - innerWidth <= 0), true, `${name.slice(0, 40)} makes the page wider than the screen of ${width}`);
    assert.equal(await basket.evaluate(() => window.hacked), undefined);
    await basket.context().close();
  }
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth - innerWidth <= 0), true);
  assert.equal(await page.evaluate(() => window.hacked), undefined);
  await page.context().close();
}
await end();
