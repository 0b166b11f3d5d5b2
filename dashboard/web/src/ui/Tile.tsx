import type { ComponentChildren } from 'preact';
import { sparkPath } from '../view/spark';
import type { Trend } from '../view/format';

export interface Change {
  trend: Trend;
  /** `3 since a minute ago`; the arrow is drawn in front of it. */
  text: string;
  /** Whether the change is one that somebody should look at. */
  bad?: boolean;
}

interface TileProps {
  name: string;
  title: string;
  /** null: there is none, and `why` says why. */
  value: string | null;
  unit?: string;
  why: string;
  change?: Change | null | undefined;
  note?: ComponentChildren;
  spark: readonly (number | null)[];
  tone?: 'ok' | 'warning' | 'critical' | undefined;
  href: string;
}

const ARROW: Record<Trend, string> = { up: '▲', down: '▼', same: '=' };
const WORD: Record<Trend, string> = { up: 'up', down: 'down', same: 'unchanged' };

export function Tile(props: TileProps) {
  const { name, title, value, unit, why, change, note, spark, tone, href } = props;
  return (
    <li class={`tile ${tone ? `tone-${tone}` : ''}`} data-testid={`tile-${name}`}>
      <a class="tile-title" href={href}>
        {title}
      </a>
      <p class="tile-value">
        <span class="value" data-testid={`value-${name}`}>
          {value ?? '—'}
        </span>
        {value !== null && unit && <span class="unit">{unit}</span>}
      </p>
      <p class="tile-change">
        {value === null ? (
          why
        ) : change ? (
          <span class={change.bad ? 'bad' : ''}>
            <span aria-hidden="true">{ARROW[change.trend]} </span>
            <span class="hidden">{WORD[change.trend]} </span>
            {change.text}
          </span>
        ) : (
          '\u00a0'
        )}
      </p>
      <p class="tile-note" title={typeof note === 'string' ? note : undefined}>{value === null ? '\u00a0' : (note ?? '\u00a0')}</p>
      <Spark values={value === null ? [] : spark} />
    </li>
  );
}

const WIDTH = 96;
const HEIGHT = 28;

function Spark({ values }: { values: readonly (number | null)[] }) {
  const path = sparkPath(values, WIDTH, HEIGHT);
  return (
    <svg class="spark" viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" aria-hidden="true">
      {path && <path d={path} />}
    </svg>
  );
}

export function TileSkeleton({ title }: { title: string }) {
  return (
    <li class="tile" aria-busy="true">
      <span class="tile-title">{title}</span>
      <p class="tile-value">
        <span class="skeleton" />
      </p>
      <p class="tile-change">{'\u00a0'}</p>
      <p class="tile-note">{'\u00a0'}</p>
    </li>
  );
}
