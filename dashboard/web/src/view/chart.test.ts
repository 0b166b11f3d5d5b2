import { describe, expect, test } from 'vitest';
import { storedRow, T0, WINDOW_MS } from '../model/testing';
import { bandRuns, chartData } from './chart';

const DOMAIN = { from: T0, to: T0 + 6 * WINDOW_MS };

describe('chartData', () => {
  test('solid up to the last settled window, dashed from there on', () => {
    const rows = [storedRow(0, { mean: 1 }), storedRow(1, { mean: 2 }), storedRow(2, { state: 'open', mean: 3 }), storedRow(3, { state: 'open', mean: 4 })];
    const data = chartData(rows, DOMAIN, WINDOW_MS, 'values');
    expect(data.solid).toEqual([1, 2, null, null, null, null]);
    expect(data.dashed).toEqual([null, 2, 3, 4, null, null]);
    expect(data.x[0]).toBe((T0 + WINDOW_MS / 2) / 1000);
  });

  test('overlapping windows stand a hop apart, each at its middle', () => {
    const data = chartData([storedRow(0), storedRow(1)], DOMAIN, WINDOW_MS, 'values', 3 * WINDOW_MS);
    expect(data.solid.slice(0, 3)).toEqual([20, 20, null]);
    expect(data.x[0]).toBe((T0 + 1.5 * WINDOW_MS) / 1000);
    expect(data.x[1]).toBe((T0 + 2.5 * WINDOW_MS) / 1000);
  });

  test('a missing window is a gap, never joined', () => {
    const rows = [storedRow(0), storedRow(2), storedRow(4, { state: 'open' })];
    const data = chartData(rows, DOMAIN, WINDOW_MS, 'values');
    expect(data.solid).toEqual([20, null, 20, null, null, null]);
    expect(data.dashed).toEqual([null, null, null, null, 20, null]);
    expect(data.min).toEqual([10, null, 10, null, 10, null]);
  });

  test('a window without numbers has no value; its count is one', () => {
    const text = [storedRow(0, { mean: null, min: null, max: null })];
    expect(chartData(text, DOMAIN, WINDOW_MS, 'values').solid[0]).toBeNull();
    const counted = chartData(text, DOMAIN, WINDOW_MS, 'count');
    expect(counted.solid[0]).toBe(100);
    expect(counted.max[0]).toBeNull();
    expect(chartData(text, DOMAIN, WINDOW_MS, 'devices').solid[0]).toBe(10);
  });

  test('below 95 % the band is weak; unknown completeness is not', () => {
    const rows = [storedRow(0, { completeness: 0.94 }), storedRow(1, { completeness: 0.95 }), storedRow(2, { completeness: null })];
    expect(chartData(rows, DOMAIN, WINDOW_MS, 'values').weak.slice(0, 3)).toEqual([true, false, false]);
  });
});

describe('bandRuns', () => {
  const runs = (band: (number | null)[], weak: number[]): string[] =>
    bandRuns({ min: band, max: band, weak: band.map((_, i) => weak.includes(i)) }).map(
      (run) => `${run.from}-${run.to}${run.weak ? ' weak' : ''}`,
    );

  test('one run where nothing changes, split at gaps', () => {
    expect(runs([1, 1, 1, 1], [])).toEqual(['0-3']);
    expect(runs([1, 1, null, 1, 1], [])).toEqual(['0-1', '3-4']);
  });

  test('runs of different strength share their border', () => {
    expect(runs([1, 1, 1, 1, 1], [2])).toEqual(['0-1', '1-3 weak', '3-4']);
  });

  test('a lone window is a run of one', () => {
    expect(runs([null, 1, null, 1], [3])).toEqual(['1-1', '3-3 weak']);
    expect(runs([], [])).toEqual([]);
  });
});
