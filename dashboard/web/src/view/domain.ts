/** The span of event time that strip and chart show, [from, to). */
export interface Domain {
  from: number;
  to: number;
}

/**
 * Where the shown range ends when it follows the data: at the newest window, or at `now` if that is
 * close. A replay of last year's data so shows last year, not an empty today. Steps by whole windows,
 * so that bars stand still between two of them.
 */
export function followDomain(newestEnd: number | null, now: number | null, rangeMs: number, windowMs: number): Domain {
  const data = newestEnd ?? now ?? 0;
  const near = now !== null && Math.abs(now - data) <= rangeMs / 2;
  const to = Math.ceil((near ? Math.max(now, data) : data) / windowMs) * windowMs;
  return { from: to - rangeMs, to };
}

export function fixedDomain(end: number, rangeMs: number, windowMs: number): Domain {
  const to = Math.ceil(end / windowMs) * windowMs;
  return { from: to - rangeMs, to };
}
