import { describe, expect, it } from 'vitest';
import type { Operations } from '../src/api/types';
import { rateOf, type Sample, sampleOf, withSample } from '../src/operations/rates';

const at = (seconds: number, journal: number): Sample =>
  sampleOf({
    at: new Date(seconds * 1000).toISOString(),
    journal: { messages: journal },
    stages: [{ stage: 'journal', sequence: journal * 4, lag_events: 0, lag_seconds: 0 }],
    corrections: { waiting: 0, decided: journal / 10, held_shops: [] },
    updates: { last_place: journal * 2, messages: 0, bytes: 0, last_at: null },
  } as unknown as Operations);

function after(...samples: Sample[]): Sample[] {
  return samples.reduce<Sample[]>(withSample, []);
}

describe('the rate of a stage', () => {
  it('is not known from one look', () => {
    expect(rateOf(after(at(0, 10)), 'journal')).toBeNull();
  });

  it('is the difference of the last ten seconds', () => {
    expect(rateOf(after(at(0, 0), at(2, 1000), at(4, 1040), at(12, 1200)), 'journal')).toBe(20);
    expect(rateOf(after(at(2, 1000), at(12, 1200)), 'updates')).toBe(40);
    expect(rateOf(after(at(2, 1000), at(12, 1200)), 'corrections')).toBe(2);
  });

  it('begins anew when the clock of the service goes back, and passes over an answer that came twice', () => {
    expect(rateOf(after(at(10, 100), at(5, 0)), 'journal')).toBeNull();
    expect(rateOf(after(at(0, 0), at(2, 20), at(2, 20)), 'journal')).toBe(10);
  });

  it('is never below nothing, and not known of a stage that is not there', () => {
    expect(rateOf(after(at(0, 100), at(2, 0)), 'journal')).toBe(0);
    expect(rateOf(after(at(0, 100), at(2, 0)), 'projected')).toBeNull();
  });
});
