/** What the HTTP interface of the server says. Names and meaning are those of `/api/openapi.json`. */

/** RFC 3339, UTC, up to microseconds. */
export type Time = string;

export interface Overview {
  /** The newest ingest time that the processor knows: the clock of everything shown. */
  now: Time | null;
  devices: { expected: number; online: number; buffering: number; silent: number };
  agents: { known: number; online: number; buffering: number };
  /** Counted events, mean over the last 10 s of ingest time. */
  events_per_second: number;
  totals: Totals;
  alerts: { firing: Record<Severity, number>; unacknowledged: number };
  /** Every expected device has progressed to here (event time); null before the first. */
  complete_to: Time | null;
  held_back_by: { agent: string; devices: number; progress: Time } | null;
  incidents: number;
  default_aggregate: string | null;
}

/** accepted = counted + duplicate + quarantined + too_old, once nothing is in flight. */
export interface Totals {
  accepted: number;
  counted: number;
  duplicate: number;
  quarantined: number;
  too_old: number;
  /** Refused at the door, so never accepted. */
  refused: number;
  broken_promises: number;
}

export type Group = Record<string, string>;

export interface Aggregate {
  name: string;
  metric: string;
  group_by: string[];
  window: string;
  window_seconds: number;
  /** From the start of a window to the start of the next. */
  hop_seconds: number;
  functions: string[];
  /** Known group values, up to 100. */
  groups: Group[];
}

export type WindowState = 'open' | 'settled' | 'revised';

/** Who set an extreme, and when (event time). */
export interface Extreme {
  time: Time;
  device: string;
}

export interface WindowRow {
  aggregate: string;
  group: Group;
  start: Time;
  end: Time;
  state: WindowState;
  revision: number;
  count: number;
  sum: number | null;
  mean: number | null;
  min: number | null;
  max: number | null;
  min_at?: Extreme;
  max_at?: Extreme;
  /** Null, or absent, where the aggregate does not declare it. */
  distinct_devices: number | null;
  p50?: number;
  p90?: number;
  p95?: number;
  p99?: number;
  /** A quantile is off by at most this share of itself. */
  quantile_relative_error?: number;
  distinct_values?: number;
  distinct_values_relative_error?: number;
  expected: number;
  complete: number;
  lossy: number;
  outstanding: number;
  dormant: number;
  completeness: number | null;
  /** Events that arrived after the window had settled. */
  late_events: number;
  settled_completeness: number | null;
}

export interface Backlog {
  events: number;
  bytes: number;
  oldest: Time | null;
}

export interface OutstandingDevice {
  device: string;
  agent: string | null;
  last_contact: Time | null;
  progress: Time | null;
  backlog: Backlog | null;
  online: boolean | null;
}

export type Severity = 'critical' | 'error' | 'warning' | 'info';
/** `dropped` comes on the live stream only: the alert is none. */
export type AlertState = 'pending' | 'firing' | 'resolved' | 'dropped';

export interface Alert {
  id: string;
  rule: string;
  severity: Severity;
  state: AlertState;
  device: string;
  metric: string | null;
  group: Group;
  /** The newest evidence. */
  value: number | null;
  threshold: number | null;
  /** Event time. */
  began: Time;
  /** Ingest time at which it was learned. */
  reported: Time;
  resolved: Time | null;
  notified: boolean;
  summary: string;
}

export interface QuarantineItem {
  /** What to release it by; null if it cannot be released. */
  id: string | null;
  time: Time;
  kind: 'refused' | 'quarantined';
  source: string | null;
  agent: string | null;
  device: string | null;
  metric: string | null;
  event_time: Time | null;
  reason: string;
  message: string;
  count: number;
}

export interface Quarantine {
  totals: Record<string, number>;
  items: QuarantineItem[];
}

export interface Page<T> {
  items: T[];
  next: string | null;
  total?: number | null;
}

/** One `windows` frame of the live stream. */
export interface WindowsFrame {
  items: WindowRow[];
  /** Changed rows that did not fit into the frame. */
  dropped: number;
}
