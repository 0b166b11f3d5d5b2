import { expect, test } from 'vitest';
import { timeTicks } from './ticks';

const at = (time: string): number => Date.parse(`2026-11-22T${time}Z`);
const texts = (ticks: number[]): string[] => ticks.map((tick) => new Date(tick).toISOString().slice(11, 19));

test('round times within the span, not more than asked for', () => {
  expect(texts(timeTicks(at('06:22:10'), at('06:37:20'), 4, 0))).toEqual(['06:25:00', '06:30:00', '06:35:00']);
  expect(texts(timeTicks(at('06:00:00'), at('06:01:00'), 6, 0))).toHaveLength(7);
});

test('round in the zone that is shown', () => {
  // At UTC+05:45 full hours are a quarter past in UTC.
  expect(texts(timeTicks(at('00:00:00'), at('03:00:00'), 3, 345))).toEqual(['00:15:00', '01:15:00', '02:15:00']);
});

test('nothing for an empty span; days for a long one', () => {
  expect(timeTicks(5, 5, 4, 0)).toEqual([]);
  const year = timeTicks(0, 365 * 86_400_000, 5, 0);
  expect(year.length).toBeGreaterThan(1);
  expect(year.length).toBeLessThanOrEqual(6);
});
