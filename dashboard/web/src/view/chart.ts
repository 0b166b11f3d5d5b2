import type { StoredRow } from '../model/rows';
import type { Domain } from './domain';
import type { Show } from './url';

/** Below this the band is drawn half as strong. */
export const WEAK_BELOW = 0.95;

/** The columns of the chart over one grid of windows; null is a gap. */
export interface ChartData {
  /** Middle of each window, in seconds (uPlot's unit). */
  x: number[];
  min: (number | null)[];
  max: (number | null)[];
  /** The line over settled windows. */
  solid: (number | null)[];
  /** The line over open windows, and the settled points that it starts and ends at. */
  dashed: (number | null)[];
  /** Whether too much of the window is missing to trust its band. */
  weak: boolean[];
  rows: (StoredRow | null)[];
}

/** What the line shows of a window. */
export function lineValue(row: StoredRow, show: Show): number | null {
  switch (show) {
    case 'values':
      return row.count > 0 ? row.mean : null;
    case 'count':
      return row.count;
    case 'devices':
      return row.distinct_devices;
  }
}

/** `hopMs` is from the start of a window to the start of the next, `windowMs` how long one is. */
export function chartData(
  rows: readonly StoredRow[],
  domain: Domain,
  hopMs: number,
  show: Show,
  windowMs: number = hopMs,
): ChartData {
  const data: ChartData = { x: [], min: [], max: [], solid: [], dashed: [], weak: [], rows: [] };
  const byStart = new Map(rows.map((row) => [row.startMs, row]));
  const first = Math.ceil(domain.from / hopMs) * hopMs;
  for (let start = first; start < domain.to; start += hopMs) {
    const row = byStart.get(start) ?? null;
    const band = row !== null && show === 'values' && row.count > 0;
    const value = row === null ? null : lineValue(row, show);
    data.x.push((start + windowMs / 2) / 1000);
    data.min.push(band ? row.min : null);
    data.max.push(band ? row.max : null);
    data.solid.push(row !== null && row.state !== 'open' ? value : null);
    data.dashed.push(row !== null && row.state === 'open' ? value : null);
    data.weak.push(row !== null && row.completeness !== null && row.completeness < WEAK_BELOW);
    data.rows.push(row);
  }
  // Join the dashed part to its settled neighbours; a missing window in between stays a gap.
  const open = data.rows.map((row) => row?.state === 'open');
  data.solid.forEach((value, i) => {
    if (value !== null && (open[i - 1] || open[i + 1])) data.dashed[i] = value;
  });
  return data;
}

export interface BandRun {
  weak: boolean;
  /** Indexes of the grid, inclusive. */
  from: number;
  to: number;
}

/**
 * The band as runs of equal strength without gaps. Neighbouring runs share their border point, so
 * the band has no seam; a step between a weak and a strong window counts as weak.
 */
export function bandRuns(data: Pick<ChartData, 'min' | 'max' | 'weak'>): BandRun[] {
  const runs: BandRun[] = [];
  const has = (i: number): boolean => i < data.min.length && data.min[i] !== null && data.max[i] !== null;
  let i = 0;
  while (i < data.min.length) {
    if (!has(i)) {
      i += 1;
      continue;
    }
    if (!has(i + 1)) {
      const last = runs[runs.length - 1];
      if (last?.to !== i) runs.push({ weak: data.weak[i]!, from: i, to: i });
      i += 1;
      continue;
    }
    const weak = data.weak[i]! || data.weak[i + 1]!;
    const last = runs[runs.length - 1];
    if (last && last.to === i && last.weak === weak) last.to = i + 1;
    else runs.push({ weak, from: i, to: i + 1 });
    i += 1;
  }
  return runs;
}
