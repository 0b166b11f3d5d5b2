import { computed } from '@preact/signals';
import { useEffect, useRef, useState } from 'preact/hooks';
import type { Group } from '../api/types';
import {
  aggregates,
  aggregatesLoader,
  chartLoader,
  chartRows,
  domain,
  now,
  selection,
  setView,
  view,
} from '../model/store';
import { groupName } from '../model/selection';
import type { StoredRow } from '../model/rows';
import { chartData, type ChartData, lineValue } from '../view/chart';
import { count, interval, measure, origin, percent, quantiles, windowsName, zoneName } from '../view/format';
import type { Show } from '../view/url';
import { Panel, TableSwitch, WidgetError } from './Panel';
import { Plot } from './plot';
import { useWidth } from './size';
import { theme } from './theme';

const SHOWN: Record<Show, string> = { values: 'min, mean, max', count: 'events', devices: 'devices' };

/** Made anew when the data changes, not when the pointer moves. */
const data = computed(() => {
  const { hop_seconds: hop, window_seconds: window } = selection.value?.aggregate ?? { hop_seconds: 10, window_seconds: 10 };
  return chartData(chartRows.value, domain.value, hop * 1000, view.value.show, window * 1000);
});

export function ChartPanel() {
  const selected = selection.value;
  const [hover, setHover] = useState<number | null>(null);
  const { show } = view.value;
  const table = view.value.tables.includes('chart');
  const loading = aggregates.value === null || (!chartLoader.status.value.loaded && selected !== null);
  const error = aggregatesLoader.status.value.error ?? chartLoader.status.value.error;
  const setTable = (on: boolean): void => {
    const rest = view.value.tables.filter((name) => name !== 'chart');
    setView({ tables: on ? [...rest, 'chart'] : rest }, 'replace');
  };
  return (
    <Panel
      id="chart"
      title={selected ? `${groupName(selected.group)}, ${windowsName(selected.aggregate)}` : 'Windows'}
      class="chart"
      tools={
        <>
          <Choice />
          <TableSwitch on={table} onChange={setTable} />
        </>
      }
    >
      {error !== null && <WidgetError what="the chart" error={error} asOf={chartRows.value.length > 0 ? now.value : null} />}
      {loading && error === null && chartRows.value.length === 0 ? (
        <div class="skeleton chart-skeleton" />
      ) : table ? (
        <ChartTable rows={chartRows.value} />
      ) : (
        <>
          <Readout row={hover === null ? newest(data.value) : (data.value.rows[hover] ?? null)} hovered={hover !== null} show={show} />
          <Canvas data={data.value} onHover={setHover} label={selected ? groupName(selected.group) : ''} show={show} />
        </>
      )}
    </Panel>
  );
}

function newest(data: ChartData): StoredRow | null {
  for (let i = data.rows.length - 1; i >= 0; i--) if (data.rows[i]) return data.rows[i]!;
  return null;
}

function Choice() {
  const selected = selection.value;
  const all = aggregates.value ?? [];
  if (!selected) return null;
  const groups = selected.aggregate.groups;
  const current = groupName(selected.group);
  const options: Group[] = groups.some((group) => groupName(group) === current) ? groups : [selected.group, ...groups];
  return (
    <>
      <label>
        <span class="hidden">Aggregate</span>
        <select
          value={selected.aggregate.name}
          onChange={(event) => setView({ aggregate: event.currentTarget.value, group: {} })}
        >
          {all.map((aggregate) => (
            <option key={aggregate.name} value={aggregate.name}>
              {aggregate.name}
            </option>
          ))}
        </select>
      </label>
      {selected.aggregate.group_by.length > 0 && (
        <label>
          <span class="hidden">Group ({selected.aggregate.group_by.join(', ')})</span>
          <select
            value={current}
            onChange={(event) => {
              const group = options.find((candidate) => groupName(candidate) === event.currentTarget.value);
              if (group) setView({ aggregate: selected.aggregate.name, group });
            }}
          >
            {options.map((group) => (
              <option key={groupName(group)} value={groupName(group)}>
                {groupName(group)}
              </option>
            ))}
          </select>
        </label>
      )}
      <label>
        <span class="hidden">What the chart shows</span>
        <select value={view.value.show} onChange={(event) => setView({ show: event.currentTarget.value as Show }, 'replace')}>
          {(Object.keys(SHOWN) as Show[]).map((show) => (
            <option key={show} value={show}>
              {SHOWN[show]}
            </option>
          ))}
        </select>
      </label>
    </>
  );
}

function Readout({ row, hovered, show }: { row: StoredRow | null; hovered: boolean; show: Show }) {
  const { zone } = view.value;
  if (!row) return <p class="readout muted">{hovered ? 'No data in this window' : 'No data in this range'}</p>;
  return (
    <p class="readout" data-testid="readout">
      <span class="muted">
        {hovered ? '' : 'newest: '}
        {interval(row.startMs, row.endMs, zone, now.value)} {zoneName(zone, row.startMs)}
      </span>
      {show === 'values' ? (
        <>
          <span>
            mean <b>{measure(row.mean)}</b>
          </span>
          <span title={origin(row.min_at, zone)}>
            min <b>{measure(row.min)}</b>
          </span>
          <span title={origin(row.max_at, zone)}>
            max <b>{measure(row.max)}</b>
          </span>
          {quantiles(row).map(([name, value]) => (
            <span key={name} title={`estimated, within ${percent(row.quantile_relative_error)}`}>
              {name} <b>{measure(value)}</b>
            </span>
          ))}
        </>
      ) : (
        <span>
          {SHOWN[show]} <b>{count(lineValue(row, show))}</b>
        </span>
      )}
      <span class="muted">
        {count(row.count)} events · {row.completeness === null ? 'no device expected' : `${percent(row.completeness)} complete`} ·{' '}
        {row.state === 'open' ? 'provisional' : row.state}
      </span>
    </p>
  );
}

interface CanvasProps {
  data: ChartData;
  label: string;
  show: Show;
  onHover: (index: number | null) => void;
}

function Canvas({ data, label, show, onHover }: CanvasProps) {
  const [ref, width] = useWidth<HTMLDivElement>();
  const plot = useRef<Plot | null>(null);
  const { zone } = view.value;
  const shades = theme.value;
  const ready = width > 0;

  // The colours and the zone are baked into a plot; a new one costs less than it takes to see.
  useEffect(() => {
    if (!ready || !ref.current) return undefined;
    const made = new Plot(ref.current, width, { data, domain: domain.peek(), zone }, onHover);
    plot.current = made;
    return () => {
      plot.current = null;
      made.destroy();
    };
  }, [ready, shades, zone]);

  useEffect(() => {
    plot.current?.update({ data, domain: domain.peek(), zone });
  }, [data, zone]);

  useEffect(() => {
    if (ready) plot.current?.resize(width);
  }, [width, ready]);

  const what = show === 'values' ? 'mean with a band of minimum and maximum' : SHOWN[show];
  return (
    <div
      ref={ref}
      class="plot"
      data-testid="chart"
      role="img"
      aria-label={`Chart of ${label}: ${what} by event time. “View as table” shows the figures.`}
    />
  );
}

function ChartTable({ rows }: { rows: readonly StoredRow[] }) {
  const { zone } = view.value;
  return (
    <div class="table-scroll chart-table" tabIndex={0} role="region" aria-label="Windows as a table">
      <table>
        <caption class="hidden">Windows of event time, newest first</caption>
        <thead>
          <tr>
            <th scope="col">Window ({zoneName(zone, domain.value.to)})</th>
            <th scope="col">State</th>
            <th scope="col" class="n">Events</th>
            <th scope="col" class="n">Min</th>
            <th scope="col" class="n">Mean</th>
            <th scope="col" class="n">Max</th>
            <th scope="col" class="n">Devices</th>
            <th scope="col" class="n">Complete</th>
          </tr>
        </thead>
        <tbody>
          {[...rows].reverse().map((row) => (
            <tr key={row.startMs}>
              <th scope="row">{interval(row.startMs, row.endMs, zone, now.value)}</th>
              <td>{row.state === 'open' ? 'provisional' : row.state}</td>
              <td class="n">{count(row.count)}</td>
              <td class="n" title={origin(row.min_at, zone)}>
                {measure(row.min)}
              </td>
              <td class="n">{measure(row.mean)}</td>
              <td class="n" title={origin(row.max_at, zone)}>
                {measure(row.max)}
              </td>
              <td class="n">{count(row.distinct_devices)}</td>
              <td class="n">{percent(row.completeness)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
