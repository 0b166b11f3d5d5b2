import { expect, test } from 'vitest';
import { sparkPath } from './spark';

test('fills its box, breaks at gaps, and stays in the middle when nothing changes', () => {
  expect(sparkPath([0, 10], 100, 20)).toBe('M0 18L100 2');
  expect(sparkPath([1, null, 2, 2], 30, 20)).toBe('M0 18M20 2L30 2');
  expect(sparkPath([5, 5], 10, 20)).toBe('M0 10L10 10');
  expect(sparkPath([5], 10, 20)).toBe('');
  expect(sparkPath([null, 5, NaN], 10, 20)).toBe('');
});
