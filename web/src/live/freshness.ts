// Whether what is on the screen is still true. It is judged by what was heard, never by what should have been.
//
// - live: something was heard within a heartbeat and a half, the service says that its own sources are there, and what it says is the
//   newest is what we have.
// - delayed: connected, but nothing was heard for longer, or there is something newer that has not come yet.
// - stale: connected, and the service itself says that it has not been able to know anything newer since then.
// - offline: no connection.

export interface Signals {
  connection: 'connecting' | 'open' | 'closed';
  /** Since when the connection is so. */
  since: number;
  /** When the next attempt to connect is made. */
  retryAt: number | null;
  /** When anything was last heard. */
  heardAt: number | null;
  /** How often something is to be heard, in milliseconds. */
  heartbeatMs: number;
  /** Since when the service does not know anything newer, as it says. */
  staleSince: number | null;
  /** Since when there is something newer than what we have. */
  behindSince: number | null;
  /** The place in the journal up to which all is here. */
  sequence: number | null;
  /** When what is here was last known to be all there is. */
  trueAt: number | null;
  /** Whether there is anything on the screen yet. */
  loaded: boolean;
}

export type Freshness =
  | { kind: 'connecting' }
  | { kind: 'live' }
  | { kind: 'delayed'; seconds: number }
  | { kind: 'stale'; since: number }
  | { kind: 'offline'; since: number; retryAt: number | null };

export const HEARTBEAT_MS = 5_000;
/** What a heartbeat may be late on its way without being worth a word. */
const GRACE_MS = 2_500;
/** So long something newer may be on its way. */
const ON_ITS_WAY_MS = 1_000;

export function firstSignals(now: number): Signals {
  return {
    connection: 'connecting',
    since: now,
    retryAt: null,
    heardAt: null,
    heartbeatMs: HEARTBEAT_MS,
    staleSince: null,
    behindSince: null,
    sequence: null,
    trueAt: null,
    loaded: false,
  };
}

export function freshness(signals: Signals, now: number): Freshness {
  if (signals.connection !== 'open') {
    // The first connection is nothing to be alarmed by for some seconds; afterwards what is shown may be old from the first moment.
    if (!signals.loaded && signals.retryAt === null && now - signals.since < HEARTBEAT_MS) return { kind: 'connecting' };
    return { kind: 'offline', since: signals.trueAt ?? signals.since, retryAt: signals.retryAt };
  }
  if (signals.staleSince !== null) return { kind: 'stale', since: signals.staleSince };
  if (signals.heardAt === null || !signals.loaded) {
    return now - signals.since < HEARTBEAT_MS ? { kind: 'connecting' } : { kind: 'delayed', seconds: seconds(now - signals.since) };
  }
  const silence = now - signals.heardAt;
  if (silence > signals.heartbeatMs + GRACE_MS) return { kind: 'delayed', seconds: seconds(silence) };
  if (signals.behindSince !== null && now - signals.behindSince > ON_ITS_WAY_MS) {
    return { kind: 'delayed', seconds: seconds(now - signals.behindSince) };
  }
  return { kind: 'live' };
}

function seconds(ms: number): number {
  return Math.max(1, Math.round(ms / 1000));
}
