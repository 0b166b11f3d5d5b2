import { signal } from '@preact/signals';
import { useEffect } from 'preact/hooks';
import { paused, setPaused } from '../model/store';

const STORED = 'tidewatch.shortcuts';

/** Single-key shortcuts can be in the way (speech input, some readers), so they can be switched off. */
export const shortcutsOn = signal(stored());
export const helpOpen = signal(false);

export function setShortcuts(on: boolean): void {
  shortcutsOn.value = on;
  try {
    localStorage.setItem(STORED, on ? 'on' : 'off');
  } catch {
    // Storage may be forbidden; then the choice lasts as long as the page.
  }
}

function stored(): boolean {
  try {
    return localStorage.getItem(STORED) !== 'off';
  } catch {
    return true;
  }
}

export function useShortcuts(): void {
  useEffect(() => {
    const onKey = (event: KeyboardEvent): void => {
      if (!shortcutsOn.value || event.ctrlKey || event.metaKey || event.altKey) return;
      const target = event.target as HTMLElement | null;
      if (target?.closest('input, select, textarea, dialog, [contenteditable]')) return;
      if (event.key === 'p') setPaused(!paused.value);
      else if (event.key === '?') helpOpen.value = true;
      else return;
      event.preventDefault();
    };
    addEventListener('keydown', onKey);
    return () => removeEventListener('keydown', onKey);
  }, []);
}
