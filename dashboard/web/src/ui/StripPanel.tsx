import { useState } from 'preact/hooks';
import { completeTo, domain, fleet, fleetHopMs, now, setView, stripLoader, stripRows, view } from '../model/store';
import { count, interval, percent, zoneName } from '../view/format';
import { type Bar, barsOf, windowsPerBar } from '../view/strip';
import { Outstanding } from './Outstanding';
import { Panel, TableSwitch, WidgetError } from './Panel';
import { RangeTools } from './RangeTools';
import { Strip } from './Strip';
import { useWidth } from './size';

/** The signature of the page: how much of what was expected is there, window by window. */
export function StripPanel() {
  const [ref, width] = useWidth<HTMLDivElement>();
  const [active, setActive] = useState<number | null>(null);
  const { loaded, error } = stripLoader.status.value;
  const table = view.value.tables.includes('strip');
  const hopMs = fleetHopMs.value;
  const perBar = windowsPerBar(domain.value, hopMs, width || 1000);
  const bars = barsOf(stripRows.value, hopMs, perBar);
  const setTable = (on: boolean): void => {
    const rest = view.value.tables.filter((name) => name !== 'strip');
    setView({ tables: on ? ['strip', ...rest] : rest }, 'replace');
  };
  return (
    <Panel
      id="completeness"
      title="Completeness by event time"
      tools={
        <>
          <RangeTools />
          <TableSwitch on={table} onChange={setTable} />
        </>
      }
    >
      {error !== null && <WidgetError what="the windows" error={error} asOf={stripRows.value.length > 0 ? now.value : null} />}
      <Legend perBar={perBar} />
      <div ref={ref} class={table ? 'strip-area as-table' : 'strip-area'}>
        {!loaded && error === null && stripRows.value.length === 0 ? (
          <div class="skeleton strip-skeleton" />
        ) : table ? (
          <StripTable bars={bars} />
        ) : (
          <Strip
            bars={bars}
            domain={domain.value}
            width={width}
            completeTo={completeTo.value}
            now={now.value}
            active={active}
            onActive={setActive}
            onOpen={(bar) => setView({ window: bar.worst })}
          />
        )}
      </div>
      {fleet.value && view.value.window !== null && (
        <Outstanding aggregate={fleet.value.name} start={view.value.window} windowMs={fleet.value.window_seconds * 1000} />
      )}
    </Panel>
  );
}

function Legend({ perBar }: { perBar: number }) {
  return (
    <ul class="legend" aria-label="Legend">
      <li>
        <i class="swatch on-time" /> on time
      </li>
      <li>
        <i class="swatch late" /> ↻ arrived late
      </li>
      <li>
        <i class="swatch lossy" /> declared lost
      </li>
      <li>
        <i class="swatch missing" /> still missing
      </li>
      <li>
        <i class="swatch open" /> provisional
      </li>
      {perBar > 1 && <li>one bar = {perBar} windows</li>}
    </ul>
  );
}

function StripTable({ bars }: { bars: readonly Bar[] }) {
  const { zone } = view.value;
  return (
    <div class="table-scroll" tabIndex={0} role="region" aria-label="Completeness as a table">
      <table>
        <caption class="hidden">Completeness by window of event time, newest first</caption>
        <thead>
          <tr>
            <th scope="col">Window ({zoneName(zone, domain.value.to)})</th>
            <th scope="col">State</th>
            <th scope="col" class="n">Complete</th>
            <th scope="col" class="n">Expected</th>
            <th scope="col" class="n">Devices complete</th>
            <th scope="col" class="n">Lossy</th>
            <th scope="col" class="n">Outstanding</th>
            <th scope="col" class="n">Late events</th>
          </tr>
        </thead>
        <tbody>
          {[...bars].reverse().map((bar) => (
            <tr key={bar.start}>
              <th scope="row">{interval(bar.start, bar.end, zone, now.value)}</th>
              <td>{bar.open ? 'provisional' : bar.late > 0 ? '↻ revised' : 'settled'}</td>
              <td class="n">{percent(bar.completeness)}</td>
              <td class="n">{count(bar.expected)}</td>
              <td class="n">{count(bar.complete)}</td>
              <td class="n">{count(bar.lossy)}</td>
              <td class="n">
                {bar.outstanding > 0 ? (
                  <button type="button" class="link-button" onClick={() => setView({ window: bar.worst })}>
                    {count(bar.outstanding)}
                    <span class="hidden"> outstanding, list them</span>
                  </button>
                ) : (
                  '0'
                )}
              </td>
              <td class="n">{count(bar.lateEvents)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
