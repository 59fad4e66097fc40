// The source over Resgate, against a real WebSocket that speaks as much of the RES client protocol as the page needs.

import type { AddressInfo } from 'node:net';
import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import { WebSocket, WebSocketServer } from 'ws';
import { Problem } from '../src/api/problem';
import type { Basket, BasketPage } from '../src/api/types';
import { ResgateSource } from '../src/live/resgate';
import { BasketStore } from '../src/live/store';
import { basket, SHOP, session, until, update } from './made';

const OF = `ezout.shop.${SHOP}`;
const HEARTBEAT_MS = 60;

let end = () => {};
afterEach(() => end());
// As browsers have it.
beforeAll(() => {
  globalThis.WebSocket ??= WebSocket as unknown as typeof globalThis.WebSocket;
});

/** A basket as a model: what is no plain value is wrapped. */
function modelOf(of: Basket): object {
  const plain = { ...of, handled_by: null, handled_until: null };
  return Object.fromEntries(Object.entries(plain).map(([name, value]) => [name, typeof value === 'object' && value !== null ? { data: value } : value]));
}

/** A gateway with the basket 1, a service that says what `truth` is, and a source that follows them. */
async function begin(options: { refuses?: boolean; heartbeatMs?: number } = {}) {
  const server = new WebSocketServer({ host: '127.0.0.1', port: 0 });
  await new Promise((resolve) => server.once('listening', resolve));
  const gateway = {
    baskets: [basket(1)],
    sockets: [] as WebSocket[],
    send: (event: string, data: object) => gateway.sockets.at(-1)?.send(JSON.stringify({ event: `${OF}.${event}`, data })),
    change: (number: number, more: Partial<Basket>) => gateway.send(`basket.${session(number)}.change`, { values: more }),
  };
  const answerOf = (method: string): object => {
    if (method === 'version') return { result: { protocol: '1.2.3' } };
    if (method.startsWith('auth.')) return { result: { payload: null } };
    if (options.refuses) return { error: { code: 'system.accessDenied', message: 'Access denied' } };
    if (method === `subscribe.${OF}.feed`) return { result: { models: { [`${OF}.feed`]: {} } } };
    const rid = (one: Basket) => `${OF}.basket.${one.session_id}`;
    return {
      result: {
        collections: { [`${OF}.baskets`]: gateway.baskets.map((one) => ({ rid: rid(one) })) },
        models: Object.fromEntries(gateway.baskets.map((one) => [rid(one), modelOf(one)])),
      },
    };
  };
  server.on('connection', (socket) => {
    gateway.sockets.push(socket);
    socket.on('message', (message) => {
      const { id, method } = JSON.parse(String(message)) as { id: number; method: string };
      socket.send(JSON.stringify({ id, ...answerOf(method) }));
    });
  });
  const truth: { page: BasketPage; problem: Problem | null; asked: number } = { page: { sequence: 100, baskets: [basket(1)], next: null }, problem: null, asked: 0 };
  const store = new BasketStore({ schedule: (flush) => flush() });
  let gaveUp = false;
  const source = new ResgateSource(
    {
      url: `ws://127.0.0.1:${(server.address() as AddressInfo).port}`,
      shop: SHOP,
      token: () => 'token',
      renew: () => Promise.resolve(null),
      newest: () => {
        truth.asked += 1;
        return truth.problem === null ? Promise.resolve(truth.page) : Promise.reject(truth.problem);
      },
      heartbeatMs: options.heartbeatMs ?? HEARTBEAT_MS,
      unreachable: () => {
        gaveUp = true;
      },
    },
    store,
  );
  end = () => {
    source.stop();
    for (const socket of gateway.sockets) socket.terminate();
    server.close();
  };
  source.start();
  return { gateway, truth, store, gaveUp: () => gaveUp };
}

/** The badge, a second and a half later than it is. */
const soon = (store: BasketStore) => store.freshness(Date.now() + 1_500).kind;
/** Waits until the service was asked twice more, so that an answer of now was taken. */
async function probed(truth: { asked: number }): Promise<void> {
  const before = truth.asked;
  await until(() => truth.asked >= before + 2, 'two more questions');
}

describe('the source over Resgate', () => {
  it('shows the baskets and what happens to them', async () => {
    const { gateway, truth, store, gaveUp } = await begin();
    await until(() => store.size === 1 && truth.asked > 0);
    gateway.change(1, { version: 2, total: 9 });
    gateway.send('feed.update', update(1, 2, { product_name: 'Figs' }, { total: 9 }));
    await until(() => store.row(session(1))?.lastProduct === 'Figs');
    truth.page = { ...truth.page, sequence: 102, baskets: [basket(1, { version: 2 })] };
    await probed(truth);
    expect(store.row(session(1))?.total).toBe(9);
    expect(soon(store)).toBe('live');
    expect(gaveUp()).toBe(false);
  });

  it('is not live while the service has something newer, and is when it came', async () => {
    const { gateway, truth, store } = await begin({ heartbeatMs: 2_000 });
    await until(() => store.size === 1 && truth.asked > 0);
    truth.page = { ...truth.page, baskets: [basket(1, { version: 2 })] };
    await until(() => store.signalled.behindSince !== null);
    expect(soon(store)).toBe('delayed');
    gateway.change(1, { version: 2 });
    await until(() => store.row(session(1))?.version === 2);
    expect(store.signalled.behindSince).toBeNull();
  });

  it.each([
    ['something newer', basket(1, { version: 2 })],
    ['the end of a basket', basket(1, { version: 2, status: 'paid' })],
    ['a basket that is not there', basket(7)],
  ])('gives up where the gateway goes on without %s', async (_, newest) => {
    const { truth, store, gaveUp } = await begin();
    await until(() => store.size === 1 && truth.asked > 0);
    truth.page = { ...truth.page, baskets: [newest] };
    await until(gaveUp);
    expect(soon(store)).not.toBe('live');
  });

  it('does not miss the end of a basket that it has seen', async () => {
    const { gateway, truth, store, gaveUp } = await begin();
    await until(() => store.size === 1 && truth.asked > 0);
    gateway.send('feed.update', update(1, 2, { action: 'CHECKOUT' }, { status: 'paid' }));
    gateway.send('baskets.remove', { idx: 0 });
    await until(() => store.row(session(1))?.status === 'paid');
    truth.page = { ...truth.page, baskets: [basket(1, { version: 2, status: 'paid' })] };
    await probed(truth);
    await probed(truth);
    expect(gaveUp()).toBe(false);
    expect(soon(store)).toBe('live');
  });

  it('is not live over old rows when the connection is back, until the service says that they are the newest', async () => {
    const { gateway, truth, store } = await begin();
    await until(() => store.size === 1 && truth.asked > 0);
    const seen: string[] = [];
    gateway.sockets[0]?.terminate();
    await until(() => store.signalled.connection === 'closed');
    store.onSignals(() => {
      if (store.signalled.connection === 'open') seen.push(soon(store));
    });
    await until(() => seen.includes('live'));
    expect(seen[0]).toBe('delayed');
  });

  it.each([
    [401, 'token_expired', 'expired'],
    [401, 'token_revoked', 'revoked'],
    [403, 'forbidden', 'denied'],
    [404, 'not_found', 'denied'],
  ] as const)('ends as the service says: %d %s is %s', async (status, code, ending) => {
    const { truth, store } = await begin();
    await until(() => store.size === 1);
    truth.problem = new Problem({ status, code });
    await until(() => store.endedWith !== null);
    expect(store.endedWith).toBe(ending);
  });

  it('asks the service whether a refusal is about the token or the shop', async () => {
    const { truth, store } = await begin({ refuses: true });
    truth.problem = new Problem({ status: 403, code: 'forbidden' });
    await until(() => store.endedWith !== null);
    expect(store.endedWith).toBe('denied');
  });

  it('leaves a gateway that refuses what the service gives', async () => {
    const { store, gaveUp } = await begin({ refuses: true });
    await until(gaveUp);
    expect(store.endedWith).toBeNull();
  });
});
