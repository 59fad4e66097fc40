import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Seen } from '../src/live/seen';

const painted: FrameRequestCallback[] = [];
const said: { url: string; body: unknown }[] = [];

/** Paints a frame. */
function paint(): void {
  for (const callback of painted.splice(0)) callback(0);
}

beforeEach(() => {
  vi.useFakeTimers();
  vi.stubGlobal('requestAnimationFrame', (callback: FrameRequestCallback) => painted.push(callback));
  vi.stubGlobal('document', { hidden: false });
  vi.stubGlobal('fetch', async (url: string, options: { body: string }) => {
    said.push({ url, body: JSON.parse(options.body) });
    throw new TypeError('the network is away');
  });
});

afterEach(() => {
  vi.unstubAllGlobals();
  vi.useRealTimers();
  painted.length = 0;
  said.length = 0;
});

test('one of many is said, and only when it is painted', () => {
  const seen = new Seen('/v1/shops/s/seen', () => ({ authorization: 'Bearer t' }));
  seen.took(7);
  seen.took(8);
  paint();
  expect(said).toEqual([]);
  paint();
  expect(said).toEqual([{ url: '/v1/shops/s/seen', body: { sequence: 7 } }]);
  vi.advanceTimersByTime(10_000);
  seen.took(9);
  paint();
  paint();
  expect(said.map((one) => one.body)).toEqual([{ sequence: 7 }, { sequence: 9 }]);
});

test('a page that nobody looks at says nothing', () => {
  vi.stubGlobal('document', { hidden: true });
  new Seen('/v1/shops/s/seen', () => ({})).took(7);
  paint();
  paint();
  expect(said).toEqual([]);
});
