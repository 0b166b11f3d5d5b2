import { describe, expect, test } from 'vitest';
import { windowRow } from '../model/testing';
import { bytes, clock, count, duration, exact, interval, measure, moment, NONE, origin, parseTime, percent, plural, quantiles, rate, windowsName, zoneName } from './format';

test('no value is a dash and 0 is 0, everywhere', () => {
  for (const format of [count, exact, measure, rate, percent, duration, bytes]) {
    expect(format(null)).toBe(NONE);
    expect(format(undefined)).toBe(NONE);
    expect(format(NaN)).toBe(NONE);
    expect(format(0)).toMatch(/^0/);
  }
  expect(clock(null, 'utc')).toBe(NONE);
  expect(moment(null, 'utc', 0)).toBe(NONE);
});

test('count and exact', () => {
  expect(count(12_480)).toBe('12,480');
  expect(count(999_999)).toBe('999,999');
  expect(count(1_234_567)).toBe('1.23 M');
  expect(count(10_000_000_000)).toBe('10 G');
  expect(exact(1_234_567)).toBe('1,234,567');
});

test('measure keeps four figures', () => {
  expect(measure(21.23456)).toBe('21.23');
  expect(measure(0.012345678)).toBe('0.01235');
  expect(measure(-3)).toBe('-3');
  expect(measure(1013.25)).toBe('1,013');
  expect(measure(0.00001234)).toBe('1.23e-5');
  expect(measure(2_500_000)).toBe('2.5 M');
});

test('percent never rounds up to complete', () => {
  expect(percent(1)).toBe('100 %');
  expect(percent(0.99999)).toBe('99.9 %');
  expect(percent(0.57)).toBe('57 %');
  expect(percent(0.9995)).toBe('99.9 %');
  expect(percent(0.00001)).toBe('< 0.1 %');
});

test('duration', () => {
  expect(duration(400)).toBe('0.4 s');
  expect(duration(72_000)).toBe('72 s');
  expect(duration(150_000)).toBe('2 min 30 s');
  expect(duration(3 * 3600_000 + 20 * 60_000)).toBe('3 h 20 min');
  expect(duration(8 * 3600_000)).toBe('8 h');
  expect(duration(26 * 3600_000)).toBe('1 d 2 h');
  expect(duration(6 * 365.25 * 86_400_000)).toBe('6.0 years');
  expect(duration(-5000)).toBe('-5 s');
});

test('bytes and plural', () => {
  expect(bytes(512)).toBe('512 B');
  expect(bytes(34_000)).toBe('33.2 KiB');
  expect(plural(1, 'window')).toBe('1 window');
  expect(plural(0, 'window')).toBe('0 windows');
});

describe('times', () => {
  const at = Date.parse('2026-11-22T06:37:19.250Z');

  test('clock and moment name the day only where it differs', () => {
    expect(clock(at, 'utc')).toBe('06:37:19');
    expect(moment(at, 'utc', at)).toBe('06:37:19');
    expect(moment(at - 86_400_000, 'utc', at)).toBe('21 Nov 06:37:19');
    expect(moment(Date.parse('2020-07-12T00:01:34Z'), 'utc', at)).toBe('12 Jul 2020 00:01:34');
    expect(interval(at, at + 10_000, 'utc', at)).toBe('06:37:19–06:37:29');
  });

  test('local time follows the zone of the browser', () => {
    // Set by vite.config.ts for the tests: half an hour off, so that a mix-up shows.
    expect(clock(at, 'local')).toBe('12:07:19');
    expect(zoneName('local', at)).toBe('UTC+05:30');
    expect(zoneName('utc', at)).toBe('UTC');
  });

  test('parseTime takes microseconds and refuses nonsense', () => {
    expect(parseTime('2026-11-22T06:37:19.250123Z')).toBe(at);
    expect(parseTime('soon')).toBeNull();
    expect(parseTime(null)).toBeNull();
  });
});

test('windows say how often they begin only where they overlap', () => {
  const aggregate = { name: 'a', metric: '*', group_by: [], window: '60s', window_seconds: 60, functions: [], groups: [] };
  expect(windowsName({ ...aggregate, hop_seconds: 60 })).toBe('60s windows');
  expect(windowsName({ ...aggregate, hop_seconds: 10 })).toBe('60s windows every 10s');
});

test('extremes and quantiles are told where they are known', () => {
  expect(origin({ time: '2026-11-22T06:37:10.5Z', device: 'd-1' }, 'utc')).toBe('d-1 at 22 Nov 2026 06:37:10 UTC');
  expect(origin(undefined, 'utc')).toBeUndefined();
  expect(quantiles(windowRow(0))).toEqual([]);
  expect(quantiles(windowRow(0, { p50: 0, p99: 3 }))).toEqual([
    ['p50', 0],
    ['p99', 3],
  ]);
});
