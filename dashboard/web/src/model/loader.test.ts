import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Loader } from './loader';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

test('a failure keeps what was loaded, says why, and is tried again until it works', async () => {
  let fail = false;
  let runs = 0;
  const loader = new Loader(async () => {
    runs += 1;
    if (fail) throw new Error('no answer');
  });
  await loader.run();
  expect(loader.status.value).toEqual({ loaded: true, error: null });
  fail = true;
  await loader.run();
  expect(loader.status.value).toEqual({ loaded: true, error: 'no answer' });
  await vi.advanceTimersByTimeAsync(10_000);
  expect(runs).toBeGreaterThan(3);
  fail = false;
  await vi.advanceTimersByTimeAsync(20_000);
  expect(loader.status.value).toEqual({ loaded: true, error: null });
  const settled = runs;
  await vi.advanceTimersByTimeAsync(60_000);
  expect(runs).toBe(settled);
});

test('a newer run cancels the older one, whose failure then counts for nothing', async () => {
  const signals: AbortSignal[] = [];
  const loader = new Loader(
    (signal) =>
      new Promise((resolve, reject) => {
        signals.push(signal);
        if (signals.length > 1) resolve();
        else signal.addEventListener('abort', () => reject(new Error('aborted')));
      }),
  );
  const first = loader.run();
  await loader.run();
  await first;
  expect(signals[0]?.aborted).toBe(true);
  expect(loader.status.value).toEqual({ loaded: true, error: null });
});
