import {
  completeTo,
  heldBack,
  lagMs,
  link,
  now,
  overview,
  paused,
  reconnectNow,
  setPaused,
  setView,
  skipped,
  view,
} from '../model/store';
import { count, duration, moment, plural, zoneName } from '../view/format';
import { helpOpen } from './shortcuts';
import { LinkIcon, Logo } from './icons';
import { theme } from './theme';
import { useTicker } from './ticker';

export function StatusBar() {
  return (
    <header class="bar">
      <div class="brand">
        <Logo />
        <span>Tidewatch</span>
      </div>
      <LinkChip />
      <Completeness />
      <div class="bar-controls">
        <button type="button" class="button" aria-pressed={paused.value} aria-keyshortcuts="p" onClick={() => setPaused(!paused.value)}>
          {paused.value ? 'Resume' : 'Pause'}
        </button>
        <ZoneSwitch />
        <button
          type="button"
          class="button"
          aria-label={`Switch to the ${theme.value === 'dark' ? 'light' : 'dark'} theme`}
          title="Theme"
          onClick={() => setView({ theme: theme.value === 'dark' ? 'light' : 'dark' }, 'replace')}
        >
          {theme.value === 'dark' ? 'Light' : 'Dark'}
        </button>
        <button type="button" class="button" aria-label="Help and keyboard" aria-keyshortcuts="?" onClick={() => (helpOpen.value = true)}>
          ?
        </button>
      </div>
    </header>
  );
}

function LinkChip() {
  const { state, retryAt, reason } = link.value;
  const clock = useTicker(state === 'disconnected');
  if (state === 'disconnected') {
    const seconds = retryAt === null ? 0 : Math.ceil((retryAt - clock) / 1000);
    return (
      <div class="link is-disconnected" data-testid="link">
        <LinkIcon shape="disconnected" />
        <strong>Disconnected</strong>
        <span class="link-note" title={reason ?? undefined}>
          {seconds > 0 ? `retrying in ${seconds} s` : 'retrying'}
        </span>
        {seconds > 1 && (
          <button type="button" class="button small" onClick={reconnectNow}>
            Retry now
          </button>
        )}
      </div>
    );
  }
  if (paused.value) {
    return (
      <div class="link is-paused" data-testid="link">
        <LinkIcon shape="paused" />
        <strong>Paused</strong>
        <span class="link-note">{heldBack.value > 0 ? `${plural(heldBack.value, 'update')} waiting` : ''}</span>
      </div>
    );
  }
  const words = { connecting: 'Connecting', live: 'Live', stale: 'Stale' } as const;
  return (
    <div class={`link is-${state}`} data-testid="link">
      <LinkIcon shape={state} />
      <strong>{words[state]}</strong>
      {state === 'stale' && <span class="link-note">no update for over 3 s</span>}
      {state === 'live' && skipped.value > 0 && (
        <span class="link-note" title="The server sent fewer updates than there were; the page has fetched the windows instead.">
          skipped {count(skipped.value)}
        </span>
      )}
    </div>
  );
}

function Completeness() {
  const { zone } = view.value;
  const to = completeTo.value;
  const lag = lagMs.value;
  const held = overview.value?.held_back_by ?? null;
  if (overview.value === null) return <p class="bar-text muted">Waiting for the first figures</p>;
  if (to === null || lag === null) {
    const none = (overview.value.devices.expected === 0 ? 'no' : 'not every expected') + ' device has reported yet';
    return <p class="bar-text muted">Data complete to — · {none}</p>;
  }
  return (
    <p class="bar-text" data-testid="complete-to">
      <span>
        Data complete to{' '}
        <strong>
          {moment(to, zone, now.value)} {zoneName(zone, to)}
        </strong>
      </span>
      <span> · {duration(Math.round(lag / 1000) * 1000)} behind</span>
      {held && (
        <span>
          {' '}
          · <strong class={lag > HOLDING_MS ? 'holding' : ''}>{held.agent}</strong>{' '}
          {lag > HOLDING_MS ? 'holds it back' : 'is slowest'}
          {held.devices > 1 && ` (${plural(held.devices, 'device')})`}
        </span>
      )}
      {now.value !== null && (paused.value || link.value.state === 'disconnected' || link.value.state === 'stale') && (
        <span class="muted"> · as of {moment(now.value, zone, null)}</span>
      )}
    </p>
  );
}

/** Somebody is always last; behind by more than this, he is a cause. */
const HOLDING_MS = 15_000;

function ZoneSwitch() {
  const { zone } = view.value;
  const at = now.value ?? Date.now();
  return (
    <fieldset class="segmented">
      <legend class="hidden">Time zone of every time shown</legend>
      <button type="button" aria-pressed={zone === 'utc'} onClick={() => setView({ zone: 'utc' }, 'replace')}>
        UTC
      </button>
      <button
        type="button"
        aria-pressed={zone === 'local'}
        title={`Local time, ${zoneName('local', at)}`}
        onClick={() => setView({ zone: 'local' }, 'replace')}
      >
        Local
      </button>
    </fieldset>
  );
}
