// How fast each stage goes on: the difference of what the service said, over the last seconds.

import type { Operations } from '../api/types';

export interface Sample {
  at: number;
  /** How many events each stage is through with. */
  through: Map<string, number>;
}

/** Long enough that a rate does not flicker, short enough that a stop is seen. */
const OVER_MS = 10_000;

export function sampleOf(operations: Operations): Sample {
  // Sequences have gaps where a journal lies in several streams, and corrections have other events between them, so all are counted.
  const through = new Map<string, number>();
  for (const stage of operations.stages) through.set(stage.stage, operations.journal.messages - (stage.lag_events ?? 0));
  through.set('corrections', operations.corrections.decided);
  if (operations.updates !== null) through.set('updates', operations.updates.last_place);
  return { at: Date.parse(operations.at), through };
}

/** The samples that rates are made of, with one more. A service that was started anew begins anew. */
export function withSample(samples: readonly Sample[], sample: Sample): Sample[] {
  const last = samples[samples.length - 1];
  if (last !== undefined && sample.at <= last.at) return sample.at < last.at ? [sample] : [...samples];
  return [...samples.filter((one) => sample.at - one.at <= OVER_MS), sample];
}

/** Events a second of a stage; null as long as there is nothing to compare with. */
export function rateOf(samples: readonly Sample[], stage: string): number | null {
  const first = samples.find((one) => one.through.has(stage));
  const last = samples[samples.length - 1];
  const from = first?.through.get(stage);
  const to = last?.through.get(stage);
  if (first === undefined || last === undefined || from === undefined || to === undefined || last.at <= first.at) return null;
  return Math.max(0, to - from) / ((last.at - first.at) / 1000);
}
