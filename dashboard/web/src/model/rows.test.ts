import { describe, expect, test } from 'vitest';
import { newestSettled, overdue, ROWS_PER_SERIES_MAX, RowStore, seriesKey, stillFilling } from './rows';
import { storedRow, T0, WINDOW_MS, windowRow } from './testing';

const FLEET = seriesKey('fleet', {});

function store(...keys: string[]): RowStore {
  const rows = new RowStore();
  rows.keepOnly(keys.length > 0 ? keys : [FLEET]);
  return rows;
}

describe('RowStore', () => {
  test('a greater or equal revision replaces, a smaller one does not', () => {
    const rows = store();
    rows.merge([windowRow(0, { revision: 5, count: 5 })]);
    expect(rows.merge([windowRow(0, { revision: 4, count: 4 })])).toBe(0);
    expect(rows.select(FLEET)[0]?.count).toBe(5);
    expect(rows.merge([windowRow(0, { revision: 5, count: 55 })])).toBe(1);
    rows.merge([windowRow(0, { revision: 6, count: 6 })]);
    expect(rows.select(FLEET).map((row) => row.count)).toEqual([6]);
  });

  test('every order of arrival ends in the same rows', () => {
    const news = [1, 2, 3].flatMap((revision) => [0, 1].map((i) => windowRow(i, { revision, count: revision * 10 + i })));
    const orders = [news, [...news].reverse(), [3, 0, 5, 1, 4, 2].map((i) => news[i]!)];
    for (const order of orders) {
      const rows = store();
      for (const row of order) rows.merge([row]);
      expect(rows.select(FLEET).map((row) => row.count)).toEqual([30, 31]);
    }
  });

  test('groups are series of their own, whatever the order of their keys', () => {
    const key = seriesKey('by', { site: 'a', metric: 't' });
    expect(key).toBe(seriesKey('by', { metric: 't', site: 'a' }));
    const rows = store(key);
    rows.merge([
      windowRow(0, { aggregate: 'by', group: { metric: 't', site: 'a' } }),
      windowRow(1, { aggregate: 'by', group: { metric: 't', site: 'b' } }),
      windowRow(2),
    ]);
    expect(rows.select(key)).toHaveLength(1);
    expect(rows.select(FLEET)).toEqual([]);
  });

  test('selects by start, half open, oldest first', () => {
    const rows = store();
    rows.merge([3, 1, 0, 2].map((i) => windowRow(i)));
    const found = rows.select(FLEET, T0 + WINDOW_MS, T0 + 3 * WINDOW_MS);
    expect(found.map((row) => (row.startMs - T0) / WINDOW_MS)).toEqual([1, 2]);
  });

  test('after a clear an older revision is taken: the server started over', () => {
    const rows = store();
    rows.merge([windowRow(0, { revision: 900 })]);
    rows.clear();
    expect(rows.merge([windowRow(0, { revision: 2 })])).toBe(1);
  });

  test('holds a bounded number of rows, the newest ones', () => {
    const rows = store();
    rows.merge(Array.from({ length: ROWS_PER_SERIES_MAX + 50 }, (_, i) => windowRow(i)));
    const held = rows.select(FLEET);
    expect(held.length).toBeLessThanOrEqual(ROWS_PER_SERIES_MAX);
    expect(held[held.length - 1]?.startMs).toBe(T0 + (ROWS_PER_SERIES_MAX + 49) * WINDOW_MS);
  });

  test('drops a row without a readable time', () => {
    expect(store().merge([windowRow(0, { start: 'yesterday' })])).toBe(0);
  });
});

test('newestSettled skips what is open', () => {
  const rows = [storedRow(0), storedRow(1, { state: 'revised' }), storedRow(2, { state: 'open' })];
  expect(newestSettled(rows, 5).map((row) => row.state)).toEqual(['revised', 'settled']);
  expect(newestSettled([storedRow(0, { state: 'open' })], 1)).toEqual([]);
});

test('overdue counts open windows whose end is well past', () => {
  const rows = [storedRow(0), storedRow(1, { state: 'open' }), storedRow(2, { state: 'open' }), storedRow(3, { state: 'open' })];
  expect(overdue(rows, T0 + 5 * WINDOW_MS)).toBe(2);
  expect(overdue(rows, null)).toBe(0);
});

test('stillFilling counts settled windows that await devices', () => {
  const rows = [storedRow(0, { outstanding: 1 }), storedRow(1), storedRow(2, { state: 'open', outstanding: 5 })];
  expect(stillFilling(rows)).toBe(1);
});
