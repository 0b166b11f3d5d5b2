import { expect, test } from 'vitest';
import { appended, HISTORY_MAX, type Sample, valueBefore } from './history';

function filled(n: number): readonly Sample[] {
  let samples: readonly Sample[] = [];
  for (let i = 0; i < n; i++) samples = appended(samples, i * 1000, i);
  return samples;
}

test('takes newer values only, none for "no value", and stays bounded', () => {
  const samples = filled(3);
  expect(appended(samples, 2000, 99)).toBe(samples);
  expect(appended(samples, 1000, 99)).toBe(samples);
  expect(appended(samples, 9000, null)).toBe(samples);
  expect(filled(HISTORY_MAX + 5)).toHaveLength(HISTORY_MAX);
  expect(filled(HISTORY_MAX + 5)[0]?.value).toBe(5);
});

test('compares with a minute ago, or with the oldest value and says how old', () => {
  expect(valueBefore(filled(100), 60_000)).toEqual({ value: 39, ageMs: 60_000 });
  expect(valueBefore(filled(21), 60_000)).toEqual({ value: 0, ageMs: 20_000 });
  expect(valueBefore(filled(5), 60_000)).toBeNull();
  expect(valueBefore([], 60_000)).toBeNull();
});
