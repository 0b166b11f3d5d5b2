import type { StoredRow } from '../model/rows';
import type { Domain } from './domain';

/**
 * One bar of the completeness strip. The shares are parts of `expected` and stand on each other in
 * this order: on time, late, lossy, missing; together 1.
 */
export interface Bar {
  start: number;
  end: number;
  /** How many windows it stands for. */
  windows: number;
  expected: number;
  complete: number;
  lossy: number;
  outstanding: number;
  dormant: number;
  lateEvents: number;
  open: boolean;
  onTime: number;
  late: number;
  lossyShare: number;
  missing: number;
  completeness: number | null;
  /** Start of the window that lacks most: the one that a click asks about. */
  worst: number;
}

/** Bars get this many pixels at least; more windows than fit share one. */
const BAR_PX_MIN = 3;

/** How many windows have to share a bar so that the range fits into `width` pixels. */
export function windowsPerBar(domain: Domain, windowMs: number, width: number): number {
  const windows = Math.max(1, Math.round((domain.to - domain.from) / windowMs));
  const fit = Math.max(1, Math.floor(width / BAR_PX_MIN));
  return Math.max(1, Math.ceil(windows / fit));
}

/** Bars of `perBar` windows, aligned to the epoch so that they do not reshuffle as time goes on. */
export function barsOf(rows: readonly StoredRow[], windowMs: number, perBar: number): Bar[] {
  const bars: Bar[] = [];
  const span = windowMs * perBar;
  let members: StoredRow[] = [];
  let slot = NaN;
  for (const row of rows) {
    const own = Math.floor(row.startMs / span);
    if (own !== slot && members.length > 0) {
      bars.push(barOf(members));
      members = [];
    }
    slot = own;
    members.push(row);
  }
  if (members.length > 0) bars.push(barOf(members));
  return bars;
}

function barOf(rows: readonly StoredRow[]): Bar {
  let expected = 0;
  let complete = 0;
  let lossy = 0;
  let outstanding = 0;
  let dormant = 0;
  let late = 0;
  let lateEvents = 0;
  let worst = rows[0]!;
  for (const row of rows) {
    expected += row.expected;
    complete += row.complete;
    lossy += row.lossy;
    outstanding += row.outstanding;
    dormant = Math.max(dormant, row.dormant);
    lateEvents += row.late_events;
    late += lateDevices(row);
    if (row.outstanding > worst.outstanding) worst = row;
  }
  const share = (n: number): number => (expected > 0 ? Math.min(1, Math.max(0, n / expected)) : 0);
  return {
    start: rows[0]!.startMs,
    end: rows[rows.length - 1]!.endMs,
    windows: rows.length,
    expected,
    complete,
    lossy,
    outstanding,
    dormant,
    lateEvents,
    open: rows.some((row) => row.state === 'open'),
    onTime: share(complete - late),
    late: share(late),
    lossyShare: share(lossy),
    missing: expected > 0 ? Math.max(0, 1 - share(complete + lossy)) : 0,
    completeness: expected > 0 ? share(complete + lossy) : null,
    worst: worst.startMs,
  };
}

/**
 * How many of the complete devices became so only after the window had settled. Devices without a
 * backlog report count as caught up all along, so for them the share of late events speaks.
 */
function lateDevices(row: StoredRow): number {
  if (row.state === 'open' || row.expected <= 0) return 0;
  const then = row.settled_completeness;
  const filled = then === null ? 0 : row.complete + row.lossy - then * row.expected;
  const events = row.count > 0 ? (row.late_events / row.count) * row.complete : 0;
  // Half a device is the rounding of a share, not a late device.
  const late = Math.max(filled < 0.5 ? 0 : filled, events);
  return Math.min(row.complete, late);
}

export interface BarBox {
  x: number;
  width: number;
}

/** Everything the strip draws, as SVG paths: a handful of nodes, however many bars. */
export interface StripPaths {
  onTime: string;
  late: string;
  lossy: string;
  missing: string;
  /** Outlines of provisional bars. */
  open: string;
  /** Where ↻ stands: the middle of each run of bars with late devices. */
  lateMarks: number[];
  boxes: BarBox[];
}

export function xOf(at: number, domain: Domain, width: number): number {
  return ((at - domain.from) / (domain.to - domain.from)) * width;
}

export function stripPaths(bars: readonly Bar[], domain: Domain, width: number, height: number): StripPaths {
  const paths: StripPaths = { onTime: '', late: '', lossy: '', missing: '', open: '', lateMarks: [], boxes: [] };
  let run: { from: number; to: number; end: number } | null = null;
  const closeRun = (): void => {
    if (run) paths.lateMarks.push(px((run.from + run.to) / 2));
    run = null;
  };
  for (const bar of bars) {
    const left = xOf(bar.start, domain, width);
    const right = xOf(bar.end, domain, width);
    const gap = Math.min(2, Math.max(0.5, (right - left) * 0.15));
    const box = { x: px(left + gap / 2), width: px(Math.max(1, right - left - gap)) };
    paths.boxes.push(box);
    if (bar.expected > 0) {
      let filled = 0;
      const part = (share: number): string => {
        if (share <= 0) return '';
        // A single missing device of thousands must still be seen: two pixels at least.
        const tall = Math.max(2, share * height);
        const bottom = height - filled * height;
        filled += share;
        return rect(box.x, Math.max(0, bottom - tall), box.width, Math.min(tall, bottom));
      };
      paths.onTime += part(bar.onTime);
      paths.late += part(bar.late);
      paths.lossy += part(bar.lossyShare);
      if (bar.missing > 0) {
        const tall = Math.max(2, bar.missing * height);
        paths.missing += rect(box.x, 0, box.width, tall);
      }
    }
    if (bar.open) paths.open += rect(box.x + 0.5, 0.5, Math.max(0, box.width - 1), height - 1);
    if (bar.late > 0) {
      if (run && bar.start === run.end) {
        run.to = right;
        run.end = bar.end;
      } else {
        closeRun();
        run = { from: left, to: right, end: bar.end };
      }
    }
  }
  closeRun();
  return paths;
}

/** The bar under `x`, or the nearest one within half a bar; -1 for none. */
export function barAt(boxes: readonly BarBox[], x: number): number {
  let best = -1;
  let distance = Infinity;
  boxes.forEach((box, i) => {
    const away = x < box.x ? box.x - x : x > box.x + box.width ? x - box.x - box.width : 0;
    if (away < distance && away <= box.width / 2 + 2) {
      best = i;
      distance = away;
    }
  });
  return best;
}

function rect(x: number, y: number, width: number, height: number): string {
  return `M${px(x)} ${px(y)}h${px(width)}v${px(height)}h${px(-width)}z`;
}

const px = (n: number): number => Math.round(n * 100) / 100;
