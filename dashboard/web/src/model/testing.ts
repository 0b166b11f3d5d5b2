import type { Alert, WindowRow } from '../api/types';
import type { StoredRow } from './rows';

/** Rows and alerts for tests: complete and settled unless said otherwise. */

export const T0 = Date.parse('2026-11-22T06:30:00Z');
export const WINDOW_MS = 10_000;

export function windowRow(index: number, change: Partial<WindowRow> = {}): WindowRow {
  return {
    aggregate: 'fleet',
    group: {},
    start: new Date(T0 + index * WINDOW_MS).toISOString(),
    end: new Date(T0 + (index + 1) * WINDOW_MS).toISOString(),
    state: 'settled',
    revision: 1,
    count: 100,
    sum: 2000,
    mean: 20,
    min: 10,
    max: 30,
    distinct_devices: 10,
    expected: 10,
    complete: 10,
    lossy: 0,
    outstanding: 0,
    dormant: 0,
    completeness: 1,
    late_events: 0,
    settled_completeness: 1,
    ...change,
  };
}

export function storedRow(index: number, change: Partial<WindowRow> = {}): StoredRow {
  const row = windowRow(index, change);
  return { ...row, startMs: Date.parse(row.start), endMs: Date.parse(row.end) };
}

export function alertOf(id: string, change: Partial<Alert> = {}): Alert {
  return {
    id,
    rule: 'hot',
    severity: 'warning',
    state: 'firing',
    device: 'd-1',
    metric: 'temperature',
    group: {},
    value: 81,
    threshold: 80,
    began: '2026-11-22T03:12:00Z',
    reported: '2026-11-22T06:40:00Z',
    resolved: null,
    notified: true,
    summary: '',
    ...change,
  };
}
