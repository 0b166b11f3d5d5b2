import { useEffect, useRef, useState } from 'preact/hooks';
import { firing, link, paused } from '../model/store';
import { plural } from '../view/format';

/** A live region that speaks at most this often. */
const PAUSE_MS = 10_000;

/** Tells a screen reader what changed: the connection and the alerts, not every figure. */
export function Announcer() {
  const text = sentence();
  const [said, setSaid] = useState('');
  const lastAt = useRef(0);
  useEffect(() => {
    if (text === said) return undefined;
    const wait = Math.max(0, lastAt.current + PAUSE_MS - Date.now());
    const timer = setTimeout(() => {
      lastAt.current = Date.now();
      setSaid(text);
    }, wait);
    return () => clearTimeout(timer);
  }, [text, said]);
  return (
    <p class="hidden" role="status" aria-live="polite">
      {said}
    </p>
  );
}

function sentence(): string {
  const states = {
    connecting: 'Connecting',
    live: 'Live',
    stale: 'Stale: no update for over 3 seconds',
    disconnected: 'Disconnected, retrying',
  } as const;
  const state = paused.value && link.value.state !== 'disconnected' ? 'Paused' : states[link.value.state];
  return firing.value === null ? `${state}.` : `${state}. ${plural(firing.value, 'alert')} firing.`;
}
