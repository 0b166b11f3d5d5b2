import { expect, test } from 'vitest';
import { ALERTS_MAX, mergeAlerts } from './alerts';
import { alertOf } from './testing';

const ids = (list: { id: string }[]): string[] => list.map((alert) => alert.id);

test('firing before pending before resolved, the worst first, then the newest', () => {
  const list = mergeAlerts(
    [],
    [
      alertOf('resolved', { state: 'resolved', severity: 'critical', resolved: '2026-11-22T07:00:00Z' }),
      alertOf('pending', { state: 'pending', severity: 'critical' }),
      alertOf('old', { reported: '2026-11-22T01:00:00Z' }),
      alertOf('new', { reported: '2026-11-22T02:00:00Z' }),
      alertOf('worst', { severity: 'critical', reported: '2026-11-22T00:00:00Z' }),
    ],
  );
  expect(ids(list)).toEqual(['worst', 'new', 'old', 'pending', 'resolved']);
});

test('news replaces by id, and a resolved one stays resolved', () => {
  const first = mergeAlerts([], [alertOf('a', { value: 1 })]);
  expect(mergeAlerts(first, [alertOf('a', { value: 2 })])[0]?.value).toBe(2);
  const over = mergeAlerts(first, [alertOf('a', { state: 'resolved', resolved: '2026-11-22T07:00:00Z' })]);
  expect(mergeAlerts(over, [alertOf('a')])[0]?.state).toBe('resolved');
});

test('one that is none is gone', () => {
  const held = mergeAlerts([], [alertOf('a'), alertOf('b')]);
  expect(ids(mergeAlerts(held, [alertOf('a', { state: 'dropped' })]))).toEqual(['b']);
  expect(mergeAlerts([], [alertOf('c', { state: 'dropped' })])).toEqual([]);
});

test('is bounded, and never at the cost of a firing one', () => {
  const many = Array.from({ length: ALERTS_MAX + 10 }, (_, i) =>
    alertOf(`r${i}`, { state: 'resolved', resolved: '2026-11-22T07:00:00Z' }),
  );
  const list = mergeAlerts(many, [alertOf('fire', { severity: 'info' })]);
  expect(list).toHaveLength(ALERTS_MAX);
  expect(list[0]?.id).toBe('fire');
});
