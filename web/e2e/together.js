// Two people and one basket: one takes it over from the other, and its visit is played.

import { assert, badge, end, named, rowOf, Shop, somebody, until, Visit } from './support.js';

const shop = await Shop.open();
const visit = new Visit(shop);
const MOMENTS = 9;
const begin = Date.now() - 600_000;
const events = Array.from({ length: MOMENTS }, (_, number) => ({
  ...visit.event('ADD', { name: `Thing ${number + 1}`, product: number + 1, price: 1 }),
  create_time: new Date(begin + number * 20_000).toISOString(),
}));
await shop.send(...events);

// Anna is on it, which Ben sees; he takes it over, which Anna sees.
const anna = await somebody(shop, 'merchant', { subject: 'anna' });
const ben = await somebody(shop, 'support', { subject: 'ben' });
await Promise.all([badge(anna, 'live'), badge(ben, 'live')]);
const cell = (page) => rowOf(page, visit.id).locator('.cell-handling');
await cell(anna).getByRole('button', { name: 'I’m on it' }).click();
await named(anna, 'Anna');
await cell(anna).getByText('You').waitFor();
await cell(ben).getByText('Anna').waitFor();
await cell(ben).getByRole('button', { name: /Anna/ }).click();
await ben.getByRole('menuitem', { name: 'Take over' }).click();
const asked = ben.getByRole('dialog', { name: 'Anna is on it' });
await asked.getByRole('button', { name: 'Take over' }).click();
await named(ben, 'Ben');
await cell(ben).getByText('You').waitFor();
await cell(anna).getByText('Ben').waitFor();
assert.deepEqual((await shop.get('/handlings')).handlings.map((one) => one.handled_by), ['Ben']);
// He lets go, and it is free for everybody.
await cell(ben).getByRole('button', { name: /You/ }).click();
await ben.getByRole('menuitem', { name: 'Let go' }).click();
await cell(anna).getByRole('button', { name: 'I’m on it' }).waitFor();

// The visit once more: played at its own pace, paused, and taken a step further by hand.
await rowOf(ben, visit.id).getByRole('link').first().click();
await ben.getByRole('slider', { name: 'Moment of the visit' }).focus();
await ben.keyboard.press('Home');
const said = ben.locator('.time-line-said .sub');
const numberSaid = async () => Number(/^Event (\d+) of 9$/.exec(await said.textContent())[1]);
await ben.getByText('Event 1 of 9', { exact: true }).waitFor();
await ben.getByLabel('Pace').selectOption({ label: '1×' });
await ben.getByRole('button', { name: 'Play' }).click();
await ben.getByRole('button', { name: 'Pause' }).click();
await ben.getByRole('button', { name: 'Play' }).waitFor();
const paused = await numberSaid();
await ben.getByRole('button', { name: 'Event after' }).click();
await ben.getByText(`Event ${paused + 1} of 9`, { exact: true }).waitFor();
await ben.locator('main').getByText(`Thing ${paused + 1}`).first().waitFor();
assert.equal(await ben.locator('main').getByText(`Thing ${paused + 2}`).count(), 0);

// At a hundred times its pace each of its moments is shown, up to now.
await ben.evaluate(() => {
  window.moments = [];
  new MutationObserver(() => {
    const said = document.querySelector('.time-line-said .sub')?.textContent;
    if (said !== undefined && said !== window.moments.at(-1)) window.moments.push(said);
  }).observe(document.querySelector('.time-line'), { subtree: true, childList: true, characterData: true });
});
await ben.getByLabel('Pace').selectOption({ label: '100×' });
await ben.getByRole('button', { name: 'Play' }).click();
await ben.locator('.time-line-now').waitFor();
await ben.getByRole('button', { name: 'Play' }).waitFor();
const moments = await ben.evaluate(() => window.moments);
const others = Array.from({ length: MOMENTS - paused - 1 }, (_, number) => `Event ${paused + 2 + number} of 9`);
assert.deepEqual(moments.filter((one) => one !== `Event ${paused + 1} of 9`), others);
await until('the address to be that of now', async () => (new URL(ben.url()).search === '' ? true : undefined));
await ben.locator('main').getByText(`Thing ${MOMENTS}`).first().waitFor();
await end();
