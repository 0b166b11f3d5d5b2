import type { Totals } from '../api/types';
import { now, overview, quarantine, quarantineLoader, view } from '../model/store';
import { exact, moment, parseTime } from '../view/format';
import { Panel, WidgetError } from './Panel';

const REASONS_MAX = 6;

/** Where every event went: accepted = counted + duplicate + quarantined + too old. */
export function Ledger() {
  const totals = overview.value?.totals;
  const { error } = quarantineLoader.status.value;
  return (
    <Panel id="ledger" title="Where every event went" class="ledger">
      {!totals ? <div class="skeleton list-skeleton" /> : <Sums totals={totals} />}
      {error !== null && <WidgetError what="the reasons" error={error} asOf={quarantine.value ? now.value : null} />}
      <Reasons />
    </Panel>
  );
}

function Sums({ totals }: { totals: Totals }) {
  const known = totals.counted + totals.duplicate + totals.quarantined + totals.too_old;
  const underWay = totals.accepted - known;
  const parts: [string, number][] = [
    ['counted', totals.counted],
    ['duplicate', totals.duplicate],
    ['quarantined', totals.quarantined],
    ['too old', totals.too_old],
  ];
  if (underWay > 0) parts.push(['under way', underWay]);
  return (
    <dl class="sums">
      <div class="sum-total">
        <dt>accepted</dt>
        <dd>{exact(totals.accepted)}</dd>
      </div>
      {parts.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd data-testid={`sum-${name}`}>{exact(value)}</dd>
        </div>
      ))}
      <div class="sum-refused">
        <dt>refused at the door</dt>
        <dd class={totals.refused > 0 ? 'bad' : ''}>{exact(totals.refused)}</dd>
      </div>
      {totals.broken_promises > 0 && (
        <div class="sum-refused">
          <dt>broken promises</dt>
          <dd class="bad">{exact(totals.broken_promises)}</dd>
        </div>
      )}
    </dl>
  );
}

function Reasons() {
  const held = quarantine.value;
  if (!held) return null;
  const reasons = Object.entries(held.totals)
    .filter(([, n]) => n > 0)
    .sort(([, a], [, b]) => b - a);
  if (reasons.length === 0) return <p class="calm">Nothing has been refused or quarantined.</p>;
  const { zone } = view.value;
  return (
    <ul class="reasons" aria-label="Reasons for refusal and quarantine">
      {reasons.slice(0, REASONS_MAX).map(([reason, n]) => {
        const last = held.items.find((item) => item.reason === reason);
        const from = last ? (last.device ?? last.agent ?? last.source) : null;
        return (
          <li key={reason}>
            <span class="reason">{reason.replaceAll('_', ' ')}</span>
            <span class="n">{exact(n)}</span>
            {last && (
              <p class="muted">
                {moment(parseTime(last.time), zone, now.value)}
                {from && ` · ${from}`} · {last.message}
              </p>
            )}
          </li>
        );
      })}
      {reasons.length > REASONS_MAX && <li class="muted">and {reasons.length - REASONS_MAX} more reasons</li>}
    </ul>
  );
}
