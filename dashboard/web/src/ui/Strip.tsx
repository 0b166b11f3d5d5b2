import { view } from '../model/store';
import type { Domain } from '../view/domain';
import { clock, clockMinutes, count, interval, offsetMinutes, percent, plural, zoneName } from '../view/format';
import { type Bar, barAt, stripPaths, xOf } from '../view/strip';
import { timeTicks } from '../view/ticks';

interface StripProps {
  bars: readonly Bar[];
  domain: Domain;
  width: number;
  completeTo: number | null;
  now: number | null;
  /** Start of the bar that is pointed at. */
  active: number | null;
  onActive: (start: number | null) => void;
  onOpen: (bar: Bar) => void;
}

const TOP = 18;
const HEIGHT = 112;
const AXIS = 20;

export function Strip({ bars, domain, width, completeTo, now, active, onActive, onOpen }: StripProps) {
  const { zone } = view.value;
  const paths = stripPaths(bars, domain, width, HEIGHT);
  const ticks = timeTicks(domain.from, domain.to, Math.max(2, Math.floor(width / 90)), offsetMinutes(domain.to, zone));
  const seconds = ticks.some((tick) => tick % 60_000 !== 0);
  const at = active === null ? -1 : bars.findIndex((bar) => bar.start === active);
  const bar = bars[at];
  const box = paths.boxes[at];

  const point = (event: PointerEvent): void => {
    const left = (event.currentTarget as Element).getBoundingClientRect().left;
    const i = barAt(paths.boxes, event.clientX - left);
    onActive(i < 0 ? null : bars[i]!.start);
  };
  const key = (event: KeyboardEvent): void => {
    const last = bars.length - 1;
    const from = at < 0 ? last + 1 : at;
    const to: Record<string, number> = {
      ArrowLeft: Math.max(0, from - 1),
      ArrowRight: Math.min(last, at < 0 ? last : at + 1),
      PageDown: Math.max(0, from - 10),
      PageUp: Math.min(last, from + 10),
      Home: 0,
      End: last,
    };
    if (event.key in to && last >= 0) onActive(bars[to[event.key]!]!.start);
    else if ((event.key === 'Enter' || event.key === ' ') && bar) onOpen(bar);
    else if (event.key === 'Escape') onActive(null);
    else return;
    event.preventDefault();
  };

  return (
    <div
      class="strip"
      data-testid="strip"
      data-bars={bars.length}
      role="slider"
      tabIndex={0}
      aria-label="Windows of event time; arrow keys move, Enter lists the outstanding devices"
      aria-valuemin={0}
      aria-valuemax={Math.max(0, bars.length - 1)}
      aria-valuenow={Math.max(0, at < 0 ? bars.length - 1 : at)}
      aria-valuetext={bar ? barText(bar, zone, now) : `${plural(bars.length, 'window')}, none selected`}
      onPointerMove={point}
      onPointerDown={point}
      onPointerLeave={() => onActive(null)}
      onBlur={() => onActive(null)}
      onFocus={(event) => {
        const target = event.currentTarget as Element;
        if (at < 0 && bars.length > 0 && target.matches(':focus-visible')) onActive(bars[bars.length - 1]!.start);
      }}
      onClick={() => bar && onOpen(bar)}
      onKeyDown={key}
    >
      <svg width={width} height={TOP + HEIGHT + AXIS} aria-hidden="true" focusable="false">
        <defs>
          <pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
            <rect class="hatch-ground" width="6" height="6" />
            <line class="hatch-line" x1="0" y1="0" x2="0" y2="6" />
          </pattern>
          <pattern id="dots" width="4" height="4" patternUnits="userSpaceOnUse">
            <rect class="dots-ground" width="4" height="4" />
            <circle class="dots-dot" cx="2" cy="2" r="1" />
          </pattern>
        </defs>
        <g transform={`translate(0 ${TOP})`}>
          <line class="grid" x1="0" x2={width} y1="0.5" y2="0.5" />
          {box && <rect class="strip-active" x={box.x - 2} y={-2} width={box.width + 4} height={HEIGHT + 4} />}
          <path class="bar-on-time" d={paths.onTime} />
          <path class="bar-late" d={paths.late} />
          <path class="bar-lossy" d={paths.lossy} fill="url(#dots)" />
          <path class="bar-missing" d={paths.missing} fill="url(#hatch)" />
          <path class="bar-open" d={paths.open} />
          {paths.lateMarks.map((x) => (
            <text class="late-mark" key={x} x={x} y="-5">
              ↻
            </text>
          ))}
          <line class="axis" x1="0" x2={width} y1={HEIGHT + 0.5} y2={HEIGHT + 0.5} />
          {ticks.map((tick) => {
            const x = xOf(tick, domain, width);
            // A label that would leave the picture is left out.
            const fits = x > 18 && x < width - 18;
            return (
              <g key={tick}>
                <line class="axis" x1={x} x2={x} y1={HEIGHT} y2={HEIGHT + 4} />
                {fits && (
                  <text class="tick" x={x} y={HEIGHT + 16}>
                    {seconds ? clock(tick, zone) : clockMinutes(tick, zone)}
                  </text>
                )}
              </g>
            );
          })}
          <Mark at={completeTo} name="progress" domain={domain} width={width} other={now} />
          <Mark at={now} name="now" domain={domain} width={width} other={completeTo} />
        </g>
      </svg>
      {bars.length === 0 && (
        <p class="strip-none">
          No window in this range ({clockMinutes(domain.from, zone)}–{clockMinutes(domain.to, zone)} {zoneName(zone, domain.to)}).
        </p>
      )}
      {bar && box && <Tip bar={bar} x={box.x + box.width / 2} width={width} now={now} />}
    </div>
  );
}

interface MarkProps {
  at: number | null;
  name: 'progress' | 'now';
  domain: Domain;
  width: number;
  /** Where the other mark is: two labels on one spot would be none. */
  other: number | null;
}

function Mark({ at, name, domain, width, other }: MarkProps) {
  if (at === null || at < domain.from || at > domain.to) return null;
  const x = Math.min(width - 1, Math.max(1, xOf(at, domain, width)));
  const near = other !== null && Math.abs(xOf(other, domain, width) - x) < 70;
  // The earlier one is labelled to its left, the later one to its right where there is room.
  const right = name === 'now' ? x < width - 30 : near ? false : x < width - 60;
  const label = name === 'now' && near && !right ? '' : name;
  return (
    <g class={`mark mark-${name}`}>
      <line x1={x} x2={x} y1={-14} y2={HEIGHT + 4} />
      <text x={right ? x + 4 : x - 4} y={-6} text-anchor={right ? 'start' : 'end'}>
        {label}
      </text>
    </g>
  );
}

function barText(bar: Bar, zone: 'utc' | 'local', reference: number | null): string {
  const parts = [
    interval(bar.start, bar.end, zone, reference),
    bar.open ? 'provisional' : 'settled',
    `${percent(bar.completeness)} complete`,
    `${count(bar.complete)} of ${count(bar.expected)} devices`,
  ];
  if (bar.outstanding > 0) parts.push(`${count(bar.outstanding)} outstanding`);
  if (bar.lossy > 0) parts.push(`${count(bar.lossy)} lossy`);
  if (bar.lateEvents > 0) parts.push(`${count(bar.lateEvents)} late events`);
  return parts.join(', ');
}

const TIP_WIDTH = 232;

function Tip({ bar, x, width, now }: { bar: Bar; x: number; width: number; now: number | null }) {
  const { zone } = view.value;
  const left = Math.max(0, Math.min(width - TIP_WIDTH, x + 14 + TIP_WIDTH > width ? x - TIP_WIDTH - 14 : x + 14));
  const rows: [string, string, string?][] = [
    ['Expected devices', count(bar.expected)],
    ['Complete', count(bar.complete), 'on-time'],
    ['Lossy (declared lost)', count(bar.lossy), 'lossy'],
    ['Outstanding', count(bar.outstanding), 'missing'],
    ['Dormant', count(bar.dormant)],
    ['Late events', count(bar.lateEvents), 'late'],
  ];
  return (
    <div class="tip" style={{ left: `${left}px`, width: `${TIP_WIDTH}px` }} aria-hidden="true">
      <p class="tip-title">
        {interval(bar.start, bar.end, zone, now)} {zoneName(zone, bar.start)}
      </p>
      <p class="tip-state">
        <strong>{percent(bar.completeness)}</strong> {bar.open ? 'so far, provisional' : bar.late > 0 ? 'settled, revised ↻' : 'settled'}
        {bar.windows > 1 && ` · ${bar.windows} windows`}
      </p>
      <dl>
        {rows.map(([term, value, swatch]) => (
          <div key={term}>
            <dt>
              <i class={swatch ? `swatch ${swatch}` : 'swatch none'} />
              {term}
            </dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
      {bar.outstanding > 0 && <p class="tip-hint">Click or Enter: which ones</p>}
    </div>
  );
}
