import { describe, expect, test } from 'vitest';
import { storedRow, T0, WINDOW_MS } from '../model/testing';
import { barAt, barsOf, stripPaths, windowsPerBar } from './strip';

const DOMAIN = { from: T0, to: T0 + 10 * WINDOW_MS };

describe('barsOf', () => {
  test('complete and on time', () => {
    const [bar] = barsOf([storedRow(0)], WINDOW_MS, 1);
    expect(bar).toMatchObject({ onTime: 1, late: 0, lossyShare: 0, missing: 0, completeness: 1, open: false, windows: 1 });
  });

  test('an outage that fills from below: on time, late and missing add up to all', () => {
    const row = storedRow(0, { state: 'revised', complete: 9, outstanding: 1, completeness: 0.9, settled_completeness: 0.6 });
    const bar = barsOf([row], WINDOW_MS, 1)[0]!;
    expect(bar.onTime).toBeCloseTo(0.6);
    expect(bar.late).toBeCloseTo(0.3);
    expect(bar.missing).toBeCloseTo(0.1);
    expect(bar.onTime + bar.late + bar.lossyShare + bar.missing).toBeCloseTo(1);
  });

  test('late events speak for devices that report no backlog', () => {
    const bar = barsOf([storedRow(0, { state: 'revised', count: 100, late_events: 25 })], WINDOW_MS, 1)[0]!;
    expect(bar.late).toBeCloseTo(0.25);
    expect(bar.onTime).toBeCloseTo(0.75);
  });

  test('an open window has nothing late; a rounded share makes no late device', () => {
    expect(barsOf([storedRow(0, { state: 'open', settled_completeness: null, late_events: 5 })], WINDOW_MS, 1)[0]?.late).toBe(0);
    const rounded = storedRow(0, { expected: 3, complete: 3, settled_completeness: 0.9999 });
    expect(barsOf([rounded], WINDOW_MS, 1)[0]?.late).toBe(0);
  });

  test('lossy devices are apart from the complete ones', () => {
    const bar = barsOf([storedRow(0, { complete: 8, lossy: 2 })], WINDOW_MS, 1)[0]!;
    expect(bar).toMatchObject({ onTime: 0.8, lossyShare: 0.2, missing: 0, completeness: 1 });
  });

  test('nothing expected is no completeness, not 0 and not 100 %', () => {
    const bar = barsOf([storedRow(0, { expected: 0, complete: 0, completeness: null })], WINDOW_MS, 1)[0]!;
    expect(bar.completeness).toBeNull();
    expect(bar.missing).toBe(0);
  });

  test('windows share bars on fixed borders, weighed by devices, and point at the worst', () => {
    const rows = [
      storedRow(0),
      storedRow(1, { complete: 4, outstanding: 6 }),
      storedRow(2),
      storedRow(3, { state: 'open' }),
    ];
    const bars = barsOf(rows, WINDOW_MS, 2);
    expect(bars.map((bar) => bar.windows)).toEqual([2, 2]);
    expect(bars[0]).toMatchObject({ expected: 20, complete: 14, outstanding: 6, worst: T0 + WINDOW_MS });
    expect(bars[0]?.completeness).toBeCloseTo(0.7);
    expect(bars[1]?.open).toBe(true);
    // One window fewer at the front must not move the border.
    expect(barsOf(rows.slice(1), WINDOW_MS, 2).map((bar) => bar.windows)).toEqual([1, 2]);
  });
});

test('windowsPerBar grows as the room shrinks', () => {
  const hour = { from: 0, to: 3_600_000 };
  expect(windowsPerBar(hour, WINDOW_MS, 1400)).toBe(1);
  expect(windowsPerBar(hour, WINDOW_MS, 360)).toBe(3);
  expect(windowsPerBar(hour, WINDOW_MS, 0)).toBeGreaterThan(1);
});

describe('stripPaths', () => {
  test('a full bar stands from top to bottom, a missing part hangs from the top', () => {
    const half = storedRow(1, { complete: 5, outstanding: 5, completeness: 0.5, settled_completeness: 0.5 });
    const paths = stripPaths(barsOf([storedRow(0), half], WINDOW_MS, 1), DOMAIN, 1000, 100);
    expect(paths.boxes).toEqual([
      { x: 1, width: 98 },
      { x: 101, width: 98 },
    ]);
    expect(paths.onTime).toBe('M1 0h98v100h-98zM101 50h98v50h-98z');
    expect(paths.missing).toBe('M101 0h98v50h-98z');
    expect(paths.late).toBe('');
    expect(paths.open).toBe('');
  });

  test('one missing device of many is still seen', () => {
    const row = storedRow(0, { expected: 10_000, complete: 9_999, outstanding: 1, settled_completeness: 0.9999 });
    expect(stripPaths(barsOf([row], WINDOW_MS, 1), DOMAIN, 1000, 100).missing).toBe('M1 0h98v2h-98z');
  });

  test('↻ stands once over each run of late bars', () => {
    const late = { state: 'revised' as const, settled_completeness: 0.5 };
    const rows = [storedRow(0, late), storedRow(1, late), storedRow(2), storedRow(5, late)];
    expect(stripPaths(barsOf(rows, WINDOW_MS, 1), DOMAIN, 1000, 100).lateMarks).toEqual([100, 550]);
  });

  test('open bars have an outline', () => {
    const paths = stripPaths(barsOf([storedRow(0, { state: 'open' })], WINDOW_MS, 1), DOMAIN, 1000, 100);
    expect(paths.open).toBe('M1.5 0.5h97v99h-97z');
  });
});

test('barAt finds the bar under the pointer and none far away', () => {
  const boxes = [
    { x: 1, width: 8 },
    { x: 11, width: 8 },
  ];
  expect(barAt(boxes, 5)).toBe(0);
  expect(barAt(boxes, 10.4)).toBe(1);
  expect(barAt(boxes, 60)).toBe(-1);
  expect(barAt([], 5)).toBe(-1);
});
