export const BACKOFF_MS_MIN = 500;
export const BACKOFF_MS_MAX = 15_000;

/**
 * How long to wait before try number `attempt` (0 = the first after a cut). Doubles up to a limit;
 * `random` in [0, 1) spreads the pages of a control room over the upper half, so that a server that
 * comes back is not met by all of them in the same instant.
 */
export function backoffMs(attempt: number, random: number, base = BACKOFF_MS_MIN): number {
  // A server that asks for no pause at all does not get a storm.
  const full = Math.min(BACKOFF_MS_MAX, Math.max(base, BACKOFF_MS_MIN) * 2 ** Math.min(attempt, 16));
  return Math.round(full * (0.5 + random / 2));
}
