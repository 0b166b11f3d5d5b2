import { expect, test } from 'vitest';
import { BACKOFF_MS_MAX, backoffMs } from './backoff';

test('doubles up to a limit and spreads over the upper half', () => {
  expect([0, 1, 2, 3].map((attempt) => backoffMs(attempt, 0.999999))).toEqual([500, 1000, 2000, 4000]);
  expect(backoffMs(0, 0)).toBe(250);
  expect(backoffMs(1000, 0.999999)).toBe(BACKOFF_MS_MAX);
  expect(backoffMs(1000, 0)).toBe(BACKOFF_MS_MAX / 2);
  expect(backoffMs(0, 0.999999, 0)).toBe(500);
  expect(backoffMs(1, 0.999999, 2000)).toBe(4000);
});
