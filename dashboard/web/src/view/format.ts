/** Numbers, spans and times as people read them. Everything here is pure. */

import type { Aggregate, Extreme, WindowRow } from '../api/types';

export type Zone = 'utc' | 'local';

/** Stands where there is no value; 0 is a value. */
export const NONE = '—';

const GROUPED = new Intl.NumberFormat('en-GB', { maximumFractionDigits: 0 });
const SCALES: readonly [number, string][] = [
  [1e12, 'T'],
  [1e9, 'G'],
  [1e6, 'M'],
];

/** A count: exact below a million, then three figures and a letter. */
export function count(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  for (const [scale, letter] of SCALES) {
    if (Math.abs(value) >= scale) return `${significant(value / scale, 3)} ${letter}`;
  }
  return GROUPED.format(value);
}

/** A count to the last one, where a sum has to be checked by eye. */
export function exact(value: number | null | undefined): string {
  return value === null || value === undefined || !Number.isFinite(value) ? NONE : GROUPED.format(value);
}

/** A measured value with four significant figures, without an exponent where it stays readable. */
export function measure(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  const size = Math.abs(value);
  if (size >= 1e6) return count(value);
  if (size >= 1000) return GROUPED.format(value);
  if (size !== 0 && size < 1e-4) return value.toExponential(2);
  return significant(value, 4);
}

/** Events per second: whole numbers from 100 on. */
export function rate(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  return value >= 100 ? count(value) : significant(value, 3);
}

function significant(value: number, figures: number): string {
  if (value === 0) return '0';
  const decimals = Math.max(0, figures - 1 - Math.floor(Math.log10(Math.abs(value))));
  const text = value.toFixed(Math.min(decimals, 10));
  return text.includes('.') ? text.replace(/\.?0+$/, '') : text;
}

/** A share of 1. Rounded down, because 99.96 % of a fleet is not all of it. */
export function percent(share: number | null | undefined): string {
  const text = percentNumber(share);
  return text === NONE ? NONE : `${text} %`;
}

/** `percent` without its sign. */
export function percentNumber(share: number | null | undefined): string {
  if (share === null || share === undefined || !Number.isFinite(share)) return NONE;
  if (share > 0 && share < 0.001) return '< 0.1';
  // 0.57 * 1000 is 569.99…: the small addend keeps a rounding error from costing a figure.
  const thousandths = Math.floor(share * 1000 + 1e-9);
  return thousandths % 10 === 0 ? String(thousandths / 10) : (thousandths / 10).toFixed(1);
}

/** A span of time: seconds up to two minutes, then the two largest units. */
export function duration(ms: number | null | undefined): string {
  if (ms === null || ms === undefined || !Number.isFinite(ms)) return NONE;
  if (ms < 0) return `-${duration(-ms)}`;
  const seconds = ms / 1000;
  if (seconds < 10 && seconds % 1 !== 0) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return two(minutes, 'min', Math.floor(seconds % 60), 's');
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return two(hours, 'h', minutes % 60, 'min');
  const days = Math.floor(hours / 24);
  if (days < 730) return two(days, 'd', hours % 24, 'h');
  return `${(days / 365.25).toFixed(1)} years`;
}

function two(large: number, largeUnit: string, small: number, smallUnit: string): string {
  return small === 0 ? `${large} ${largeUnit}` : `${large} ${largeUnit} ${small} ${smallUnit}`;
}

export function bytes(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${significant(value, 3)} ${units[unit]}`;
}

export function plural(n: number, one: string, many = `${one}s`): string {
  return `${count(n)} ${n === 1 ? one : many}`;
}

interface Parts {
  year: number;
  month: number;
  day: number;
  hour: number;
  minute: number;
  second: number;
}

function parts(ms: number, zone: Zone): Parts {
  const date = new Date(ms);
  return zone === 'utc'
    ? {
        year: date.getUTCFullYear(),
        month: date.getUTCMonth(),
        day: date.getUTCDate(),
        hour: date.getUTCHours(),
        minute: date.getUTCMinutes(),
        second: date.getUTCSeconds(),
      }
    : {
        year: date.getFullYear(),
        month: date.getMonth(),
        day: date.getDate(),
        hour: date.getHours(),
        minute: date.getMinutes(),
        second: date.getSeconds(),
      };
}

const MONTHS = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec'];
const pad = (n: number): string => String(n).padStart(2, '0');

/** `06:37:19`. */
export function clock(ms: number | null | undefined, zone: Zone): string {
  if (ms === null || ms === undefined || !Number.isFinite(ms)) return NONE;
  const p = parts(ms, zone);
  return `${pad(p.hour)}:${pad(p.minute)}:${pad(p.second)}`;
}

/** `clock` without seconds. */
export function clockMinutes(ms: number, zone: Zone): string {
  return clock(ms, zone).slice(0, 5);
}

/** `clock`, led by the day (and year) where it is not that of `reference`. */
export function moment(ms: number | null | undefined, zone: Zone, reference: number | null): string {
  if (ms === null || ms === undefined || !Number.isFinite(ms)) return NONE;
  const p = parts(ms, zone);
  const r = reference === null ? null : parts(reference, zone);
  if (r && r.year === p.year && r.month === p.month && r.day === p.day) return clock(ms, zone);
  const year = r && r.year === p.year ? '' : ` ${p.year}`;
  return `${p.day} ${MONTHS[p.month]}${year} ${clock(ms, zone)}`;
}

/** `06:37:10–06:37:20`. */
export function interval(startMs: number, endMs: number, zone: Zone, reference: number | null): string {
  return `${moment(startMs, zone, reference)}–${clock(endMs, zone)}`;
}

/** Minutes that local time is ahead of UTC at `ms`. */
export function offsetMinutes(ms: number, zone: Zone): number {
  return zone === 'utc' ? 0 : -new Date(ms).getTimezoneOffset();
}

/** `UTC`, or `UTC+02:00` for the zone of this browser. */
export function zoneName(zone: Zone, ms: number): string {
  if (zone === 'utc') return 'UTC';
  const offset = offsetMinutes(ms, zone);
  const size = Math.abs(offset);
  return `UTC${offset < 0 ? '-' : '+'}${pad(Math.floor(size / 60))}:${pad(size % 60)}`;
}

/** Milliseconds of an RFC 3339 time; null for null and for what is none. */
export function parseTime(time: string | null | undefined): number | null {
  if (time === null || time === undefined) return null;
  const ms = Date.parse(time);
  return Number.isFinite(ms) ? ms : null;
}

/** Who set an extreme, and when; undefined where nobody knows. */
export function origin(at: Extreme | undefined, zone: Zone): string | undefined {
  if (!at) return undefined;
  const ms = parseTime(at.time);
  return ms === null ? at.device : `${at.device} at ${moment(ms, zone, null)} ${zoneName(zone, ms)}`;
}

/** The quantiles that a window has, by name: the median and the highest one. */
export function quantiles(row: WindowRow): [string, number][] {
  const all: [string, number | undefined][] = [
    ['p50', row.p50],
    ['p99', row.p99],
  ];
  return all.filter((q): q is [string, number] => q[1] !== undefined);
}

/** How long the windows of an aggregate are, and how often one begins. */
export function windowsName(aggregate: Aggregate): string {
  const every = aggregate.hop_seconds === aggregate.window_seconds ? '' : ` every ${aggregate.hop_seconds}s`;
  return `${aggregate.window} windows${every}`;
}

export type Trend = 'up' | 'down' | 'same';

export function trend(now: number, before: number): Trend {
  return now > before ? 'up' : now < before ? 'down' : 'same';
}
