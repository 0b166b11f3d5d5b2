import type { Group } from '../api/types';
import type { Zone } from './format';

/** What the chart draws of a window. */
export type Show = 'values' | 'count' | 'devices';
export type Theme = 'dark' | 'light';
export type TableName = 'strip' | 'chart';

/** All that decides what the page shows lives here and in the address, so a link shows the same. */
export interface ViewState {
  /** null: the page chooses. */
  aggregate: string | null;
  group: Group;
  show: Show;
  rangeMinutes: number;
  /** End of the range (ms); null follows the newest data. */
  end: number | null;
  zone: Zone;
  /** null: as the system prefers. */
  theme: Theme | null;
  /** Shown as tables instead of drawings. */
  tables: readonly TableName[];
  /** Start of the window whose outstanding devices are listed (ms). */
  window: number | null;
}

export const RANGES = [5, 15, 30, 60] as const;

export const DEFAULT_VIEW: ViewState = {
  aggregate: null,
  group: {},
  show: 'values',
  rangeMinutes: 5,
  end: null,
  zone: 'utc',
  theme: null,
  tables: [],
  window: null,
};

/** Reads the query of an address; what it does not say, or says wrongly, is as in `DEFAULT_VIEW`. */
export function parseView(search: string): ViewState {
  const query = new URLSearchParams(search);
  const group: Group = {};
  for (const [key, value] of query) if (key.startsWith('group.') && key.length > 6) group[key.slice(6)] = value;
  const range = /^(\d+)m$/.exec(query.get('range') ?? '')?.[1];
  const theme = query.get('theme');
  const show = query.get('show');
  const tables = (query.get('table') ?? '').split(',');
  return {
    aggregate: query.get('aggregate') || null,
    group: query.get('aggregate') ? group : {},
    show: show === 'count' || show === 'devices' ? show : 'values',
    rangeMinutes: RANGES.find((minutes) => String(minutes) === range) ?? DEFAULT_VIEW.rangeMinutes,
    end: time(query.get('end')),
    zone: query.get('zone') === 'local' ? 'local' : 'utc',
    theme: theme === 'dark' || theme === 'light' ? theme : null,
    tables: (['strip', 'chart'] as const).filter((name) => tables.includes(name)),
    window: time(query.get('window')),
  };
}

/** The query that `parseView` reads back; '' for the default view. */
export function formatView(view: ViewState): string {
  const query: string[] = [];
  const add = (key: string, value: string): void => {
    query.push(`${encodeURIComponent(key)}=${encodeURIComponent(value).replaceAll('%3A', ':').replaceAll('%2C', ',')}`);
  };
  if (view.aggregate !== null) {
    add('aggregate', view.aggregate);
    for (const key of Object.keys(view.group).sort()) add(`group.${key}`, view.group[key]!);
  }
  if (view.show !== 'values') add('show', view.show);
  if (view.rangeMinutes !== DEFAULT_VIEW.rangeMinutes) add('range', `${view.rangeMinutes}m`);
  if (view.end !== null) add('end', new Date(view.end).toISOString());
  if (view.zone !== 'utc') add('zone', view.zone);
  if (view.theme !== null) add('theme', view.theme);
  if (view.tables.length > 0) add('table', view.tables.join(','));
  if (view.window !== null) add('window', new Date(view.window).toISOString());
  return query.length > 0 ? `?${query.join('&')}` : '';
}

function time(text: string | null): number | null {
  if (!text) return null;
  const ms = Date.parse(text);
  return Number.isFinite(ms) ? ms : null;
}
