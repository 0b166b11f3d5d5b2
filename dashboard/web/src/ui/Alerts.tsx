import type { Alert } from '../api/types';
import { alerts, alertsLoader, firing, now, view } from '../model/store';
import { measure, moment, parseTime, plural, zoneName } from '../view/format';
import { groupName } from '../model/selection';
import { SeverityIcon } from './icons';
import { Panel, WidgetError } from './Panel';

export function Alerts() {
  const { loaded, error } = alertsLoader.status.value;
  const list = alerts.value;
  const active = list.filter((alert) => alert.state !== 'resolved');
  return (
    <Panel
      id="alerts"
      title="Alerts"
      class="alerts"
      tools={loaded && <span class="muted">{plural(firing.value ?? active.length, 'firing', 'firing')}</span>}
    >
      {error !== null && <WidgetError what="the alerts" error={error} asOf={loaded ? now.value : null} />}
      {!loaded && error === null ? (
        <div class="skeleton list-skeleton" />
      ) : list.length === 0 ? (
        <p class="calm">No alert is firing, pending or recently resolved.</p>
      ) : (
        <div class="alert-scroll" tabIndex={0} role="region" aria-label="Alert list">
          <ul class="alert-list">
            {list.map((alert) => (
              <AlertItem alert={alert} key={alert.id} />
            ))}
          </ul>
        </div>
      )}
    </Panel>
  );
}

function AlertItem({ alert }: { alert: Alert }) {
  const { zone } = view.value;
  const at = (time: string | null): string => moment(parseTime(time), zone, now.value);
  const where = alert.device || groupName(alert.group);
  return (
    <li class={`alert is-${alert.severity} state-${alert.state}`} data-testid="alert">
      <div class="alert-line">
        <SeverityIcon severity={alert.severity} />
        <strong class="severity-word">{alert.severity}</strong>
        <span class="alert-device">{where}</span>
        <span class={`chip chip-${alert.state}`}>{alert.state}</span>
      </div>
      <p class="alert-what">
        {alert.rule}
        {alert.metric && (
          <>
            {' · '}
            {alert.metric} {measure(alert.value)}
            {alert.threshold !== null && <span class="muted"> (limit {measure(alert.threshold)})</span>}
          </>
        )}
      </p>
      <p class="alert-when" title={zoneName(zone, parseTime(alert.began) ?? 0)}>
        began {at(alert.began)}, reported {at(alert.reported)}
        {alert.resolved !== null && `, over ${at(alert.resolved)}`}
      </p>
    </li>
  );
}
