/** One figure over the last minutes, as this page saw it. */
export interface Sample {
  at: number;
  value: number;
}

export const HISTORY_MAX = 300;
/** One sample a second is what the stream brings at most. */
const SPACING_MS = 900;

/** `samples` and one more, bounded; a sample that is not newer changes nothing. */
export function appended(samples: readonly Sample[], at: number, value: number | null): readonly Sample[] {
  const last = samples[samples.length - 1];
  if (value === null || !Number.isFinite(value) || (last && at < last.at + SPACING_MS)) return samples;
  return [...samples.slice(-(HISTORY_MAX - 1)), { at, value }];
}

export interface Before {
  value: number;
  /** How long before the newest sample. */
  ageMs: number;
}

/** A change over less time than this says nothing. */
const AGE_MS_MIN = 10_000;

/** The value about `ageMs` before the newest one, or the oldest there is; null if that is too young. */
export function valueBefore(samples: readonly Sample[], ageMs: number): Before | null {
  const last = samples[samples.length - 1];
  if (!last) return null;
  const found = samples.findLast((sample) => last.at - sample.at >= ageMs) ?? samples[0]!;
  const age = last.at - found.at;
  return age < AGE_MS_MIN ? null : { value: found.value, ageMs: age };
}
