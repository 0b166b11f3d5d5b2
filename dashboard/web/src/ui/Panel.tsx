import type { ComponentChildren } from 'preact';
import { now, view } from '../model/store';
import { moment, zoneName } from '../view/format';

interface PanelProps {
  id: string;
  title: string;
  tools?: ComponentChildren;
  children: ComponentChildren;
  class?: string;
}

export function Panel({ id, title, tools, children, class: extra }: PanelProps) {
  return (
    <section class={`panel ${extra ?? ''}`} id={id} aria-labelledby={`${id}-title`}>
      <div class="panel-head">
        <h2 id={`${id}-title`}>{title}</h2>
        {tools && <div class="panel-tools">{tools}</div>}
      </div>
      {children}
    </section>
  );
}

interface WidgetErrorProps {
  what: string;
  error: string;
  /** Of when the values are that are still shown; null if none are. */
  asOf: number | null;
}

/** One widget has no news; the others go on. */
export function WidgetError({ what, error, asOf }: WidgetErrorProps) {
  const { zone } = view.value;
  return (
    <p class="widget-error" role="note">
      <strong>Cannot load {what}:</strong> {error}. Trying again.
      {asOf !== null && ` Shown: as of ${moment(asOf, zone, now.value)} ${zoneName(zone, asOf)}.`}
    </p>
  );
}

export function TableSwitch({ on, onChange }: { on: boolean; onChange: (on: boolean) => void }) {
  return (
    <button type="button" class="button small" aria-pressed={on} onClick={() => onChange(!on)}>
      View as table
    </button>
  );
}
