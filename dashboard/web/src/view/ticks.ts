const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const STEPS = [
  SECOND, 2 * SECOND, 5 * SECOND, 10 * SECOND, 15 * SECOND, 30 * SECOND,
  MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 15 * MINUTE, 30 * MINUTE,
  HOUR, 2 * HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, 24 * HOUR,
]; // prettier-ignore

/**
 * Round times in [from, to], at most `most` of them. `offset` (minutes ahead of UTC) makes them
 * round in the zone that is shown.
 */
export function timeTicks(from: number, to: number, most: number, offset: number): number[] {
  const span = to - from;
  if (!(span > 0) || most < 1) return [];
  const step = STEPS.find((candidate) => span / candidate <= most) ?? Math.ceil(span / most / (24 * HOUR)) * 24 * HOUR;
  const shift = offset * MINUTE;
  const ticks: number[] = [];
  for (let at = Math.ceil((from + shift) / step) * step - shift; at <= to; at += step) ticks.push(at);
  return ticks;
}
