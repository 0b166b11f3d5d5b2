import type { Severity } from '../api/types';

/** Severity by shape: octagon, triangle, diamond, circle. The word stands beside it, always. */
export function SeverityIcon({ severity }: { severity: Severity }) {
  const shapes: Record<Severity, string> = {
    critical: 'M5.2 1h5.6L15 5.2v5.6L10.8 15H5.2L1 10.8V5.2z',
    error: 'M8 1.2 15.4 14.5H.6z',
    warning: 'M8 .8 15.2 8 8 15.2.8 8z',
    info: 'M8 1.5a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13z',
  };
  return (
    <svg class={`severity-icon is-${severity}`} viewBox="0 0 16 16" width="14" height="14" aria-hidden="true">
      <path d={shapes[severity]} />
    </svg>
  );
}

export type LinkShape = 'live' | 'stale' | 'disconnected' | 'paused' | 'connecting';

export function LinkIcon({ shape }: { shape: LinkShape }) {
  return (
    <svg class="link-icon" viewBox="0 0 16 16" width="14" height="14" aria-hidden="true">
      {shape === 'live' && <circle cx="8" cy="8" r="5" />}
      {shape === 'stale' && <path d="M8 1.5 15 14H1z" />}
      {shape === 'disconnected' && (
        <path class="stroke" d="M8 2.5a5.5 5.5 0 1 0 0 11 5.5 5.5 0 0 0 0-11zM3.5 12.5l9-9" />
      )}
      {shape === 'paused' && <path d="M3.5 2.5h3v11h-3zM9.5 2.5h3v11h-3z" />}
      {shape === 'connecting' && <path class="stroke" d="M13.5 8A5.5 5.5 0 1 1 8 2.5" />}
    </svg>
  );
}

export function Logo() {
  return (
    <svg class="logo" viewBox="0 0 26 22" width="26" height="22" aria-hidden="true">
      <path class="logo-bar" d="M3 16V9M9 16V5M15 16v-4M21 16V7" />
      <path class="logo-late" d="M15 9V6.5" />
      <path class="logo-wave" d="M1 20.5c2 0 2-1.3 4-1.3s2 1.3 4 1.3 2-1.3 4-1.3 2 1.3 4 1.3 2-1.3 4-1.3 2 1.3 4 1.3" />
    </svg>
  );
}
