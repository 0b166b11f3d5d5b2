import { expect, test } from 'vitest';
import { DEFAULT_VIEW, formatView, parseView, type ViewState } from './url';

test('the default view needs no query', () => {
  expect(formatView(DEFAULT_VIEW)).toBe('');
  expect(parseView('')).toEqual(DEFAULT_VIEW);
});

test('everything survives the way through the address', () => {
  const view: ViewState = {
    aggregate: 'by metric & site',
    group: { site: 'plant-1', metric: 'temperature' },
    show: 'count',
    rangeMinutes: 60,
    end: Date.parse('2026-11-22T06:37:20Z'),
    zone: 'local',
    theme: 'light',
    tables: ['strip', 'chart'],
    window: Date.parse('2026-11-22T06:30:10Z'),
  };
  expect(parseView(formatView(view))).toEqual(view);
  expect(formatView({ ...DEFAULT_VIEW, end: view.end, tables: ['chart'] })).toBe('?end=2026-11-22T06:37:20.000Z&table=chart');
});

test('what is wrong is as if it were not said', () => {
  expect(parseView('?range=7m&zone=mars&theme=pink&end=never&table=x&show=all&window=&group.=x')).toEqual(DEFAULT_VIEW);
  expect(parseView('?group.metric=t').group).toEqual({});
});
