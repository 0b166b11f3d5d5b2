import type { Group, WindowRow } from '../api/types';

export interface StoredRow extends WindowRow {
  startMs: number;
  endMs: number;
}

/** Names one series of windows: an aggregate and one of its groups. */
export function seriesKey(aggregate: string, group: Group): string {
  const pairs = Object.entries(group).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
  return JSON.stringify([aggregate, pairs]);
}

/** More windows of one series than any range of the page shows. */
export const ROWS_PER_SERIES_MAX = 4_000;

/**
 * The windows of the series on the page. REST answers and live frames overtake each other, so a row
 * replaces the one held only if its revision is not smaller; then every order of arrival ends in the
 * same content.
 */
export class RowStore {
  private readonly series = new Map<string, Map<number, StoredRow>>();

  /** Rows of other series than these are dropped on arrival. */
  keepOnly(keys: Iterable<string>): void {
    const wanted = new Set(keys);
    for (const key of this.series.keys()) if (!wanted.has(key)) this.series.delete(key);
    for (const key of wanted) if (!this.series.has(key)) this.series.set(key, new Map());
  }

  /** Forgets all rows, not which series are wanted: after a reset revisions start anew. */
  clear(): void {
    for (const rows of this.series.values()) rows.clear();
  }

  /** Takes rows in any order; says how many changed something. */
  merge(rows: readonly WindowRow[]): number {
    let changed = 0;
    for (const row of rows) {
      const held = this.series.get(seriesKey(row.aggregate, row.group));
      if (!held) continue;
      const startMs = Date.parse(row.start);
      const endMs = Date.parse(row.end);
      if (!Number.isFinite(startMs) || !Number.isFinite(endMs)) continue;
      const old = held.get(startMs);
      if (old && old.revision > row.revision) continue;
      held.set(startMs, { ...row, startMs, endMs });
      changed += 1;
      if (held.size > ROWS_PER_SERIES_MAX) dropOldest(held);
    }
    return changed;
  }

  /** Rows with a start in [from, to), oldest first. */
  select(key: string, from = -Infinity, to = Infinity): StoredRow[] {
    const rows: StoredRow[] = [];
    for (const row of this.series.get(key)?.values() ?? []) {
      if (row.startMs >= from && row.startMs < to) rows.push(row);
    }
    return rows.sort((a, b) => a.startMs - b.startMs);
  }
}

function dropOldest(rows: Map<number, StoredRow>): void {
  // A tenth at once, so that the sort is rare.
  const starts = [...rows.keys()].sort((a, b) => a - b);
  for (const start of starts.slice(0, ROWS_PER_SERIES_MAX / 10)) rows.delete(start);
}

/** The newest windows whose figures are final for now, newest first. */
export function newestSettled(rows: readonly StoredRow[], count: number): StoredRow[] {
  const found: StoredRow[] = [];
  for (let i = rows.length - 1; i >= 0 && found.length < count; i--) {
    const row = rows[i]!;
    if (row.state !== 'open') found.push(row);
  }
  return found;
}

/** A window that ends now is not late; one that is still open this much later is. */
const OVERDUE_MS = 15_000;

/** Windows that should have settled, but await too many devices for it. */
export function overdue(rows: readonly StoredRow[], now: number | null): number {
  if (now === null) return 0;
  return rows.filter((row) => row.state === 'open' && row.endMs + OVERDUE_MS < now).length;
}

/** Windows that settled although devices were, or are, still awaited: these will be revised. */
export function stillFilling(rows: readonly StoredRow[]): number {
  return rows.filter((row) => row.state !== 'open' && row.outstanding > 0).length;
}
