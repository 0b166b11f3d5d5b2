import { describe, expect, test } from 'vitest';
import type { Aggregate } from '../api/types';
import { GROUPS_MAX, groupName, select, withGroup } from './selection';

const aggregate = (name: string, group_by: string[], groups: Record<string, string>[]): Aggregate => ({
  name,
  metric: '*',
  group_by,
  window: '10s',
  window_seconds: 10,
  hop_seconds: 10,
  functions: ['count'],
  groups,
});
const FLEET = aggregate('fleet', [], [{}]);
const BY_METRIC = aggregate('by_metric', ['metric'], [{ metric: 'humidity' }, { metric: 'temperature' }]);

describe('select', () => {
  test('without a wish: temperature, else the first metric, else the default', () => {
    expect(select([FLEET, BY_METRIC], null, {}, 'fleet')?.group).toEqual({ metric: 'temperature' });
    const other = aggregate('by_metric', ['metric'], [{ metric: 'rpm' }]);
    expect(select([FLEET, other], null, {}, 'fleet')?.group).toEqual({ metric: 'rpm' });
    const bare = aggregate('by_metric', ['metric'], []);
    expect(select([bare, FLEET], null, {}, 'fleet')?.aggregate.name).toBe('fleet');
    expect(select([], null, {}, 'fleet')).toBeNull();
  });

  test('what the address asks for, if there is such an aggregate', () => {
    expect(select([FLEET, BY_METRIC], 'by_metric', { metric: 'new', extra: 'x' }, 'fleet')?.group).toEqual({ metric: 'new' });
    expect(select([FLEET, BY_METRIC], 'fleet', { metric: 'x' }, 'fleet')).toMatchObject({ aggregate: { name: 'fleet' }, group: {} });
    expect(select([FLEET, BY_METRIC], 'gone', { metric: 'x' }, 'fleet')?.aggregate.name).toBe('by_metric');
  });
});

test('groupName', () => {
  expect(groupName({})).toBe('whole fleet');
  expect(groupName({ metric: 'temperature' })).toBe('temperature');
  expect(groupName({ site: 'a', metric: 't' })).toBe('metric=t · site=a');
});

test('withGroup adds a new group once, up to a limit', () => {
  expect(withGroup(BY_METRIC, { metric: 'humidity' })).toBe(BY_METRIC);
  expect(withGroup(BY_METRIC, { metric: 'noise' }).groups.map(groupName)).toEqual(['humidity', 'noise', 'temperature']);
  const full = aggregate('x', ['metric'], Array.from({ length: GROUPS_MAX }, (_, i) => ({ metric: `m${i}` })));
  expect(withGroup(full, { metric: 'more' })).toBe(full);
});
