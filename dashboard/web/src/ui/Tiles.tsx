import type { Severity } from '../api/types';
import {
  firing,
  firingHistory,
  fleetRecent,
  lagHistory,
  lagMs,
  now,
  offline,
  offlineHistory,
  overview,
  overviewLoader,
  rateHistory,
  stripLoader,
  view,
} from '../model/store';
import { type Before, valueBefore } from '../model/history';
import { newestSettled, overdue, stillFilling, type StoredRow } from '../model/rows';
import { count, duration, moment, percentNumber, plural, rate, trend } from '../view/format';
import { SeverityIcon } from './icons';
import { WidgetError } from './Panel';
import { type Change, Tile, TileSkeleton } from './Tile';

const MINUTE = 60_000;
const SEVERITIES: readonly Severity[] = ['critical', 'error', 'warning', 'info'];

export function Tiles() {
  const ready = overview.value !== null;
  const { loaded: rowsLoaded, error: rowsError } = stripLoader.status.value;
  const rowsReady = ready && (rowsLoaded || rowsError !== null || fleetRecent.value.length > 0);
  const { error } = overviewLoader.status.value;
  return (
    <section aria-label="Key figures">
      {error !== null && <WidgetError what="the overview" error={error} asOf={now.value} />}
      <ul class="tiles">
        {rowsReady ? <ActiveDevices /> : <TileSkeleton title="Active devices" />}
        {ready ? <EventRate /> : <TileSkeleton title="Event rate" />}
        {ready ? <Lag /> : <TileSkeleton title="Lag" />}
        {rowsReady ? <Completeness /> : <TileSkeleton title="Completeness" />}
        {ready ? <Offline /> : <TileSkeleton title="Offline devices" />}
        {ready ? <Firing /> : <TileSkeleton title="Alerts firing" />}
      </ul>
    </section>
  );
}

function windowName(row: StoredRow): string {
  return `window ${moment(row.startMs, view.value.zone, now.value)}`;
}

function ActiveDevices() {
  const rows = fleetRecent.value;
  const [last, before] = newestSettled(rows, 2);
  const expected = last?.expected ?? 0;
  const devices = last?.distinct_devices ?? null;
  const earlier = before?.distinct_devices ?? null;
  return (
    <Tile
      name="active"
      title="Active devices"
      href="#completeness"
      value={devices !== null ? count(devices) : null}
      unit={last && expected > 0 ? `of ${count(expected)}` : ''}
      why={last ? 'the aggregate does not count devices' : 'no window has settled yet'}
      change={devices !== null && earlier !== null ? difference(devices, earlier, count, 'vs previous', 'down') : null}
      note={last && windowName(last)}
      spark={settledValues(rows, (row) => row.distinct_devices)}
    />
  );
}

function EventRate() {
  const value = overview.value?.events_per_second ?? null;
  const history = rateHistory.value;
  const before = valueBefore(history, MINUTE);
  const totals = overview.value?.totals;
  return (
    <Tile
      name="rate"
      title="Event rate"
      href="#ledger"
      value={totals && totals.accepted > 0 && value !== null ? rate(value) : null}
      unit="events/s"
      why="no event has arrived yet"
      change={value !== null && before !== null ? difference(value, before.value, rate, since(before)) : null}
      note={totals && `${count(totals.counted)} counted in all`}
      spark={history.map((sample) => sample.value)}
    />
  );
}

function Lag() {
  const lag = lagMs.value;
  const before = valueBefore(lagHistory.value, MINUTE);
  const whole = (ms: number): number => Math.round(ms / 1000) * 1000;
  const [value, unit] = lag === null ? [null, ''] : split(duration(whole(lag)));
  const held = overview.value?.held_back_by;
  return (
    <Tile
      name="lag"
      title="Lag"
      href="#completeness"
      value={value}
      unit={unit}
      why="nothing is complete yet"
      change={
        lag !== null && before !== null
          ? difference(whole(lag), whole(before.value), duration, since(before), 'up')
          : null
      }
      note={held && `slowest: ${held.agent}`}
      spark={lagHistory.value.map((sample) => sample.value)}
      tone={lag !== null && lag > 5 * MINUTE ? 'critical' : lag !== null && lag > MINUTE ? 'warning' : undefined}
    />
  );
}

function Completeness() {
  const rows = fleetRecent.value;
  const [last, before] = newestSettled(rows, 2);
  const filling = stillFilling(rows);
  // "100 %" of a window of minutes ago must not hide that no window has settled since.
  const waiting = overdue(rows, now.value);
  const value = last?.completeness ?? null;
  const change =
    value !== null && before?.completeness != null
      ? difference(value * 100, before.completeness * 100, (points) => (Math.round(points * 10) / 10).toString(), 'points vs previous', 'down')
      : null;
  return (
    <Tile
      name="completeness"
      title="Completeness"
      href="#completeness"
      value={value === null ? null : percentNumber(value)}
      unit="%"
      why={last ? 'no device was expected' : 'no window has settled yet'}
      change={change}
      note={
        last &&
        (waiting > 0
          ? `${plural(waiting, 'window')} since: still open`
          : filling > 0
            ? `${plural(filling, 'window')} being revised`
            : windowName(last))
      }
      spark={settledValues(rows, (row) => row.completeness)}
      tone={value === null ? undefined : value < 0.95 || waiting > 0 ? 'warning' : 'ok'}
    />
  );
}

function Offline() {
  const devices = overview.value!.devices;
  const agents = overview.value!.agents;
  const value = offline.value;
  const before = valueBefore(offlineHistory.value, MINUTE);
  const known = devices.expected > 0 || devices.online > 0;
  const buffering = agents.buffering > 0 ? `behind ${plural(agents.buffering, 'agent')}` : 'buffering';
  return (
    <Tile
      name="offline"
      title="Offline devices"
      href="#completeness"
      value={known && value !== null ? count(value) : null}
      unit={known ? `of ${count(devices.expected)}` : ''}
      why="no device is known yet"
      change={value !== null && before !== null ? difference(value, before.value, count, since(before), 'up') : null}
      note={`${count(devices.buffering)} ${buffering} · ${count(devices.silent)} silent`}
      spark={offlineHistory.value.map((sample) => sample.value)}
      tone={value !== null && value > 0 ? 'warning' : undefined}
    />
  );
}

function Firing() {
  const counts = overview.value!.alerts.firing;
  const total = firing.value ?? 0;
  const before = valueBefore(firingHistory.value, MINUTE);
  const some = SEVERITIES.filter((severity) => counts[severity] > 0);
  return (
    <Tile
      name="firing"
      title="Alerts firing"
      href="#alerts"
      value={count(total)}
      why=""
      change={before !== null ? difference(total, before.value, count, since(before), 'up') : null}
      note={
        some.length === 0
          ? 'nothing is firing'
          : some.map((severity) => (
              <span class="severity-count" key={severity}>
                <SeverityIcon severity={severity} /> {count(counts[severity])} {severity}
              </span>
            ))
      }
      spark={firingHistory.value.map((sample) => sample.value)}
      tone={counts.critical + counts.error > 0 ? 'critical' : total > 0 ? 'warning' : undefined}
    />
  );
}

function difference(
  value: number,
  before: number,
  text: (size: number) => string,
  span: string,
  badWhen?: 'up' | 'down',
): Change {
  const size = text(Math.abs(value - before));
  // A change too small to print is none.
  const way = size === text(0) ? 'same' : trend(value, before);
  return way === 'same'
    ? { trend: way, text: span.startsWith('in ') ? `as ${span.slice(3)} ago` : 'as the window before' }
    : { trend: way, text: `${size} ${span}`, bad: way === badWhen };
}

function since(before: Before): string {
  return `in ${duration(Math.round(before.ageMs / 1000) * 1000)}`;
}

function settledValues(rows: readonly StoredRow[], value: (row: StoredRow) => number | null): (number | null)[] {
  return rows.filter((row) => row.state !== 'open').map(value);
}

/** `3 h 20 min` reads as a value `3` and a unit `h 20 min`. */
function split(text: string): [string, string] {
  const space = text.indexOf(' ');
  return space < 0 ? [text, ''] : [text.slice(0, space), text.slice(space + 1)];
}
