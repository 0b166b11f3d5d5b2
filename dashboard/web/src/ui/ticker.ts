import { signal } from '@preact/signals';
import { useEffect } from 'preact/hooks';

/** The page's own clock, once a second, only while something on the page counts seconds. */
const tick = signal(Date.now());
let users = 0;
let timer: ReturnType<typeof setInterval> | undefined;

export function useTicker(active: boolean): number {
  useEffect(() => {
    if (!active) return undefined;
    users += 1;
    tick.value = Date.now();
    timer ??= setInterval(() => (tick.value = Date.now()), 1000);
    return () => {
      users -= 1;
      if (users > 0) return;
      clearInterval(timer);
      timer = undefined;
    };
  }, [active]);
  return active ? tick.value : Date.now();
}
