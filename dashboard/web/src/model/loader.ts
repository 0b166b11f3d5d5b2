import { type ReadonlySignal, signal } from '@preact/signals';
import { backoffMs } from '../live/backoff';

export interface LoadStatus {
  /** Whether a load has ever succeeded: before that a widget shows its skeleton. */
  loaded: boolean;
  /** What the last load failed with; null after a success. */
  error: string | null;
}

const RETRY_MS = 2_000;

/**
 * One REST call that a widget depends on. A newer run cancels an older one; a failed one is repeated
 * with growing pauses, while the widget keeps what it last had.
 */
export class Loader {
  private readonly state = signal<LoadStatus>({ loaded: false, error: null });
  private abort: AbortController | null = null;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private attempt = 0;

  constructor(private readonly job: (signal: AbortSignal) => Promise<void>) {}

  get status(): ReadonlySignal<LoadStatus> {
    return this.state;
  }

  /** Shows the skeleton again: what is loaded belongs to something else. */
  forget(): void {
    this.state.value = { loaded: false, error: null };
  }

  async run(): Promise<void> {
    clearTimeout(this.timer);
    this.abort?.abort();
    const abort = new AbortController();
    this.abort = abort;
    try {
      await this.job(abort.signal);
      if (this.abort !== abort) return;
      this.attempt = 0;
      this.state.value = { loaded: true, error: null };
    } catch (error) {
      if (this.abort !== abort || abort.signal.aborted) return;
      const message = error instanceof Error ? error.message : String(error);
      this.state.value = { loaded: this.state.value.loaded, error: message };
      this.timer = setTimeout(() => void this.run(), backoffMs(this.attempt++, Math.random(), RETRY_MS));
    }
  }

  cancel(): void {
    clearTimeout(this.timer);
    this.abort?.abort();
    this.abort = null;
  }
}
