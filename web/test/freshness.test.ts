import { describe, expect, it } from 'vitest';
import { firstSignals, freshness, type Signals } from '../src/live/freshness';

const NOW = 1_000_000;
const live: Signals = { ...firstSignals(NOW - 60_000), connection: 'open', loaded: true, heardAt: NOW - 1_000, trueAt: NOW - 1_000 };

function check(name: string, signals: Partial<Signals>, expected: ReturnType<typeof freshness>): void {
  it(name, () => expect(freshness({ ...live, ...signals }, NOW)).toEqual(expected));
}

describe('the badge', () => {
  check('says live when something was just heard', {}, { kind: 'live' });
  check('says live for a heartbeat and a half', { heardAt: NOW - 7_400 }, { kind: 'live' });
  check('says delayed when nothing is heard', { heardAt: NOW - 9_000 }, { kind: 'delayed', seconds: 9 });
  check('says delayed while something newer has not come', { behindSince: NOW - 4_000 }, { kind: 'delayed', seconds: 4 });
  check('lets something newer be on its way for a moment', { behindSince: NOW - 500 }, { kind: 'live' });
  check('says since when the service itself knows nothing newer', { staleSince: NOW - 30_000 }, { kind: 'stale', since: NOW - 30_000 });
  check('says offline since it was last known to be true', { connection: 'closed', retryAt: NOW + 500 }, { kind: 'offline', since: NOW - 1_000, retryAt: NOW + 500 });
  check('says offline also while it connects again', { connection: 'connecting' }, { kind: 'offline', since: NOW - 1_000, retryAt: null });
  check('does not say live before the baskets are there', { loaded: false, since: NOW - 1_000 }, { kind: 'connecting' });
  check('says delayed when the baskets do not come', { loaded: false, since: NOW - 9_000 }, { kind: 'delayed', seconds: 9 });
  it('connects at first without an alarm, but not for ever', () => {
    const first = firstSignals(NOW);
    expect(freshness(first, NOW + 1_000)).toEqual({ kind: 'connecting' });
    expect(freshness(first, NOW + 6_000)).toEqual({ kind: 'offline', since: NOW, retryAt: null });
  });
});
