// The source over Server-Sent Events, against a real server that sends what the service sends.

import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { SseSource } from '../src/live/sse';
import { BasketStore } from '../src/live/store';
import { basket, session, until, update } from './made';

interface Connection {
  request: IncomingMessage;
  response: ServerResponse;
  send: (event: string, data: unknown, id?: string) => void;
  raw: (text: string) => void;
}

let running: { server: Server; source: SseSource } | null = null;

afterEach(async () => {
  running?.source.stop();
  running?.server.closeAllConnections();
  await new Promise<void>((resolve) => (running === null ? resolve() : running.server.close(() => resolve())));
  running = null;
});

/** A server, a source that follows it into a store, and each connection that the source makes. */
async function begin(options: { tokens?: (string | null)[]; status?: (connection: number) => number; code?: string; heartbeatMs?: number } = {}) {
  const connections: Connection[] = [];
  let asked = 0;
  const server = createServer((request, response) => {
    asked += 1;
    const status = options.status?.(asked) ?? 200;
    if (status !== 200) {
      response.writeHead(status, { 'content-type': 'application/problem+json' });
      response.end(JSON.stringify({ status, code: options.code ?? 'access_unavailable', title: '', detail: '' }));
      return;
    }
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    response.flushHeaders();
    connections.push({
      request,
      response,
      raw: (text) => response.write(text),
      send: (event, data, id) => response.write(`${id === undefined ? '' : `id: ${id}\n`}event: ${event}\ndata: ${JSON.stringify(data)}\n\n`),
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const tokens = options.tokens ?? ['first'];
  let token = 0;
  const store = new BasketStore({ schedule: (flush) => flush() });
  const source = new SseSource(
    {
      url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/updates`,
      headers: () => ({ authorization: `Bearer ${tokens[token]}` }),
      renew: () => {
        const next = tokens[token + 1];
        if (next === undefined || next === null) return Promise.resolve(null);
        token += 1;
        return Promise.resolve(next);
      },
      heartbeatMs: options.heartbeatMs ?? 200,
    },
    store,
  );
  running = { server, source };
  source.start();
  const connection = async (number: number): Promise<Connection> => {
    await until(() => connections.length >= number, `connection ${number}`);
    return connections[number - 1] as Connection;
  };
  return { store, connection, connections };
}

function helloAndSnapshot(connection: Connection, baskets = [basket(1)]): void {
  connection.raw('retry: 10\n');
  connection.send('hello', { recovered: false, reason: 'new', oldest: null, place: '9-100' });
  connection.send('snapshot', { baskets, more: false }, '9-100');
}

describe('the source over SSE', () => {
  it('shows a snapshot of several pages and what follows it', async () => {
    const { store, connection } = await begin();
    const first = await connection(1);
    first.send('hello', { recovered: false, reason: 'new', oldest: null, place: '9-100' });
    first.send('snapshot', { baskets: [basket(1)], more: true });
    first.send('snapshot', { baskets: [basket(2)], more: false }, '9-100');
    first.send('update', update(1, 2), '10-102');
    await until(() => store.row(session(1))?.version === 2);
    expect(store.size).toBe(2);
    expect(store.signalled.sequence).toBe(102);
    expect(store.freshness()).toEqual({ kind: 'live' });
  });

  it('sends the token, and comes back with its place when it was cut off', async () => {
    const { store, connection } = await begin();
    const first = await connection(1);
    helloAndSnapshot(first);
    first.send('update', update(1, 2), '10-102');
    await until(() => store.row(session(1))?.version === 2);
    expect(first.request.headers.authorization).toBe('Bearer first');
    expect(first.request.headers['last-event-id']).toBeUndefined();
    first.response.destroy();
    await until(() => store.freshness().kind === 'offline', 'it says that it is offline');
    const second = await connection(2);
    expect(second.request.headers['last-event-id']).toBe('10-102');
    second.send('hello', { recovered: true, place: '10-102' });
    second.send('update', update(1, 3), '11-103');
    await until(() => store.row(session(1))?.version === 3);
  });

  /** One whose connection was lost when it had the place `10-102`, and whose next one has begun. */
  async function comeBack() {
    const begun = await begin();
    const first = await begun.connection(1);
    helloAndSnapshot(first);
    first.send('update', update(1, 2), '10-102');
    await until(() => begun.store.row(session(1))?.version === 2);
    first.response.destroy();
    return { ...begun, second: await begun.connection(2) };
  }
  /** The badge, a second and a half later than it is. */
  const soon = (store: BasketStore) => store.freshness(Date.now() + 1_500).kind;

  it('is live at once when it comes back and has the newest already', async () => {
    const { store, second } = await comeBack();
    second.send('hello', { recovered: true, place: '10-102', newest: '10-102', stale_since: null });
    await until(() => store.signalled.connection === 'open');
    expect(soon(store)).toBe('live');
  });

  it.each([['9-101'], [null]])('has the newest where that is %j', async (newest) => {
    const { store, second } = await comeBack();
    second.send('hello', { recovered: true, place: '10-102', newest, stale_since: null });
    await until(() => store.signalled.connection === 'open');
    expect(soon(store)).toBe('live');
  });

  it('is not live over old rows, but when what happened meanwhile came', async () => {
    const { store, second } = await comeBack();
    second.send('hello', { recovered: true, place: '10-102', newest: '12-104', stale_since: null });
    await until(() => store.signalled.connection === 'open');
    expect(soon(store)).toBe('delayed');
    second.send('update', update(1, 3), '11-103');
    await until(() => store.row(session(1))?.version === 3);
    expect(soon(store)).toBe('delayed');
    second.send('update', update(1, 4), '12-104');
    await until(() => store.row(session(1))?.version === 4);
    expect(soon(store)).toBe('live');
  });

  it('is not live before the snapshot that replaces the old rows is whole', async () => {
    const { store, second } = await comeBack();
    second.send('hello', { recovered: false, reason: 'aged_out', oldest: '800-744', place: '1042-977', newest: '1042-977', stale_since: null });
    second.send('snapshot', { baskets: [basket(1, { version: 9 })], more: true });
    await until(() => store.row(session(1))?.version === 9);
    expect(soon(store)).toBe('delayed');
    second.send('heartbeat', { place: '1042-977', sequence: 977, stale_since: null });
    second.send('snapshot', { baskets: [basket(2)], more: false }, '1042-977');
    await until(() => store.size === 2);
    expect(soon(store)).toBe('live');
  });

  it('is live with the first heartbeat where the service does not say what is the newest', async () => {
    const { store, second } = await comeBack();
    second.send('hello', { recovered: true, place: '10-102' });
    await until(() => store.signalled.connection === 'open');
    expect(soon(store)).toBe('delayed');
    second.send('heartbeat', { place: '10-102', sequence: 102, stale_since: null });
    await until(() => store.signalled.behindSince === null);
    expect(soon(store)).toBe('live');
  });

  it('is live again with the newest of what it was spared, also where it is never quiet', async () => {
    const { store, connection } = await begin();
    const first = await connection(1);
    helloAndSnapshot(first);
    await until(() => store.size === 1);
    first.send('coalesced', { left_out: 3, newest: '14-106' });
    first.send('update', update(1, 5), '13-105');
    await until(() => store.row(session(1))?.version === 5);
    expect(soon(store)).toBe('delayed');
    first.send('update', update(2, 2), '14-106');
    await until(() => store.size === 2);
    expect(soon(store)).toBe('live');
  });

  it('expects to hear something as often as the service says', async () => {
    const { store, connection } = await begin();
    const first = await connection(1);
    first.send('hello', { recovered: false, reason: 'new', oldest: null, place: '9-100', newest: '9-100', stale_since: null, heartbeat_ms: 30_000 });
    first.send('snapshot', { baskets: [basket(1)], more: false }, '9-100');
    await until(() => store.size === 1);
    expect(store.freshness(Date.now() + 31_000).kind).toBe('live');
    expect(store.freshness(Date.now() + 40_000).kind).toBe('delayed');
  });

  it('says from the beginning that the service itself is stale', async () => {
    const { store, second } = await comeBack();
    second.send('hello', { recovered: true, place: '10-102', newest: '10-102', stale_since: '2026-03-01T10:00:00Z' });
    await until(() => store.signalled.connection === 'open');
    expect(store.freshness()).toEqual({ kind: 'stale', since: Date.parse('2026-03-01T10:00:00Z') });
  });

  it('comes back at once the first time, and pauses ever longer where it is sent away again and again', async () => {
    const { store, connection } = await begin();
    const pauses: { none: boolean; atLeast: number }[] = [];
    let began = 0;
    store.onSignals(() => {
      const { connection: is, retryAt } = store.signalled;
      if (is === 'closed' && retryAt !== null) pauses.push({ none: retryAt <= Date.now(), atLeast: retryAt - began });
    });
    const away = async (number: number, event: string) => {
      const one = await connection(number);
      one.raw('retry: 40\n');
      one.send('hello', { recovered: number > 1, reason: 'new', oldest: null, place: '9-100', newest: '9-100', stale_since: null });
      if (number === 1) one.send('snapshot', { baskets: [basket(1)], more: false }, '9-100');
      await until(() => store.signalled.connection === 'open');
      began = Date.now();
      one.send(event, { reason: event });
      await until(() => pauses.length === number);
    };
    await away(1, 'lost');
    await away(2, 'lost');
    await away(3, 'lost');
    // At least as long as it says, reckoned from before it was sent away.
    expect(pauses[0]?.none).toBe(true);
    expect(pauses[1]?.atLeast).toBeGreaterThanOrEqual(40);
    expect(pauses[2]?.atLeast).toBeGreaterThanOrEqual(80);
    (await connection(4)).send('hello', { recovered: true, place: '9-100', newest: '9-100', stale_since: null });
    (await connection(4)).send('heartbeat', { place: '9-100', sequence: 100, stale_since: null });
    await away(4, 'lagging');
    expect(pauses[3]?.atLeast).toBeGreaterThanOrEqual(40);
  });

  it('does not take half a frame for one that it has', async () => {
    const { store, connection } = await begin();
    const first = await connection(1);
    helloAndSnapshot(first);
    await until(() => store.size === 1);
    first.raw(`id: 10-102\nevent: update\ndata: {"session_id":"`);
    await new Promise((resolve) => setTimeout(resolve, 30));
    first.response.destroy();
    const second = await connection(2);
    expect(second.request.headers['last-event-id']).toBe('9-100');
  });

  it('takes a new snapshot when its place is no longer known, and forgets what is not in it', async () => {
    const { store, connection } = await begin();
    helloAndSnapshot(await connection(1), [basket(1), basket(2)]);
    await until(() => store.size === 2);
    (await connection(1)).response.destroy();
    const second = await connection(2);
    second.send('hello', { recovered: false, reason: 'aged_out', oldest: '800-744', place: '1042-977' });
    second.send('snapshot', { baskets: [basket(2), basket(3)], more: false }, '1042-977');
    await until(() => store.row(session(3)) !== undefined);
    expect(store.row(session(1))).toBeUndefined();
  });

  it('passes over an update that the snapshot has, and does not believe that something is missing', async () => {
    const { store, connection, connections } = await begin();
    const first = await connection(1);
    helloAndSnapshot(first);
    first.raw('id: 10-101\n\n');
    for (let beat = 0; beat < 3; beat += 1) first.send('heartbeat', { place: '10-101', sequence: 101, stale_since: null });
    await until(() => store.signalled.sequence === 101);
    expect(store.freshness()).toEqual({ kind: 'live' });
    expect(connections.length).toBe(1);
  });

  it('says that it is stale when the service says so, until it says otherwise', async () => {
    const { store, connection } = await begin();
    const first = await connection(1);
    helloAndSnapshot(first);
    first.send('heartbeat', { place: '9-100', sequence: 100, stale_since: '2026-03-01T10:00:00Z' });
    await until(() => store.freshness().kind === 'stale');
    expect(store.freshness()).toEqual({ kind: 'stale', since: Date.parse('2026-03-01T10:00:00Z') });
    first.send('heartbeat', { place: '9-100', sequence: 100, stale_since: null });
    await until(() => store.freshness().kind === 'live');
  });

  it('comes back for what a heartbeat says is newer than what it has', async () => {
    const { store, connection } = await begin();
    const first = await connection(1);
    helloAndSnapshot(first);
    first.send('heartbeat', { place: '12-104', sequence: 104, stale_since: null });
    await until(() => store.signalled.behindSince !== null);
    expect(store.signalled.sequence).toBe(100);
    first.send('heartbeat', { place: '12-104', sequence: 104, stale_since: null });
    const second = await connection(2);
    expect(second.request.headers['last-event-id']).toBe('9-100');
  });

  it('takes silence for a dead connection', async () => {
    const { store, connection } = await begin({ heartbeatMs: 40 });
    helloAndSnapshot(await connection(1));
    await until(() => store.size === 1);
    const second = await connection(2);
    expect(second.request.headers['last-event-id']).toBe('9-100');
  });

  it('goes on with a new token when the old one has ended', async () => {
    const { store, connection } = await begin({ tokens: ['first', 'second'] });
    const first = await connection(1);
    helloAndSnapshot(first);
    first.send('bye', { reason: 'expired' });
    const second = await connection(2);
    expect(second.request.headers.authorization).toBe('Bearer second');
    expect(second.request.headers['last-event-id']).toBe('9-100');
    expect(store.endedWith).toBeNull();
  });

  it.each([
    ['expired', ['first']],
    ['revoked', ['first', 'second']],
    ['denied', ['first', 'second']],
  ] as const)('ends with the reason when it was sent away as %s', async (reason, tokens) => {
    const { store, connection, connections } = await begin({ tokens: [...tokens] });
    const first = await connection(1);
    helloAndSnapshot(first);
    first.send('bye', { reason });
    await until(() => store.endedWith !== null);
    expect(store.endedWith).toBe(reason);
    expect(store.freshness().kind).toBe('offline');
    expect(connections.length).toBe(1);
  });

  it('tries again while the service cannot say who may look', async () => {
    const { store, connection } = await begin({ status: (number) => (number < 2 ? 503 : 200) });
    helloAndSnapshot(await connection(1));
    await until(() => store.size === 1);
  });

  it('does not try again where it may not look', async () => {
    const { store } = await begin({ status: () => 404, code: 'not_found' });
    await until(() => store.endedWith !== null);
    expect(store.endedWith).toBe('denied');
  });

  it('hears who handles what', async () => {
    const { store, connection } = await begin();
    const first = await connection(1);
    helloAndSnapshot(first);
    first.send('handlings', { handlings: [{ session_id: session(1), handled_by: 'Mia', handled_until: '2999-01-01T00:00:00Z' }] });
    await until(() => store.row(session(1))?.handledBy === 'Mia');
    first.send('handling', { session_id: session(1), handled_by: null, handled_until: null });
    await until(() => store.row(session(1))?.handledBy === null);
  });
});
