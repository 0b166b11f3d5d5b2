import type { Alert, AlertState, Severity } from '../api/types';

const SEVERITY_RANK: Record<Severity, number> = { critical: 0, error: 1, warning: 2, info: 3 };
const STATE_RANK: Record<AlertState, number> = { firing: 0, pending: 1, resolved: 2, dropped: 3 };

/** Beyond this the list is a page of its own; resolved ones go first, the oldest of them first. */
export const ALERTS_MAX = 200;

/** The worst and newest first; what is over comes last. */
export function compareAlerts(a: Alert, b: Alert): number {
  return (
    STATE_RANK[a.state] - STATE_RANK[b.state] ||
    (a.state === 'resolved' ? 0 : SEVERITY_RANK[a.severity] - SEVERITY_RANK[b.severity]) ||
    lastChange(b) - lastChange(a) ||
    (a.id < b.id ? -1 : 1)
  );
}

/** `held` with `news` on top, by id, in the order of `compareAlerts`. */
export function mergeAlerts(held: readonly Alert[], news: readonly Alert[]): Alert[] {
  const byId = new Map(held.map((alert) => [alert.id, alert]));
  for (const alert of news) {
    // Late values showed that it is none.
    if (alert.state === 'dropped') {
      byId.delete(alert.id);
      continue;
    }
    const old = byId.get(alert.id);
    // An episode ends once: an answer that was under way while it ended must not open it again.
    if (old?.state === 'resolved' && alert.state !== 'resolved') continue;
    byId.set(alert.id, alert);
  }
  return [...byId.values()].sort(compareAlerts).slice(0, ALERTS_MAX);
}

function lastChange(alert: Alert): number {
  return Date.parse(alert.resolved ?? alert.reported);
}
