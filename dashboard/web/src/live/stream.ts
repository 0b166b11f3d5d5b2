import { backoffMs } from './backoff';
import { type SseEvent, SseParser } from './sse';

/** `stale`: connected, yet no update came for `STALE_MS`. */
export type LinkState = 'connecting' | 'live' | 'stale' | 'disconnected';

export interface Link {
  state: LinkState;
  /** When the next try starts (ms of the page's clock), while disconnected and waiting. */
  retryAt: number | null;
  reason: string | null;
}

/** No update for this long is shown as "Stale". */
export const STALE_MS = 3_000;
/** The server sends a heartbeat every 5 s; two missed and the connection is given up. */
export const SILENT_MS = 12_000;
const CONNECT_MS = 10_000;
const TICK_MS = 250;

export interface StreamOptions {
  url: string;
  onEvent: (event: SseEvent) => void;
  onLink: (link: Link) => void;
  /** The server answered. `resumed`: it was asked to go on after an event that the page has seen. */
  onOpen?: (resumed: boolean) => void;
  fetch?: typeof fetch;
  random?: () => number;
  now?: () => number;
}

/**
 * The live stream, read by `fetch` rather than `EventSource`: only so does the page see heartbeats
 * (a frozen server is noticed although the socket stays open), choose its own pauses, and say
 * `Last-Event-ID` after a connection that it gave up itself.
 */
export class LiveStream {
  private readonly fetch: typeof fetch;
  private readonly random: () => number;
  private readonly now: () => number;
  private link: Link = { state: 'connecting', retryAt: null, reason: null };
  private lastId = '';
  private attempt = 0;
  private retryBase: number | undefined;
  private openedAt = 0;
  private connected = false;
  private lastByteAt = 0;
  private lastUpdateAt = 0;
  private abort: AbortController | null = null;
  private watchdog: ReturnType<typeof setInterval> | undefined;
  private retry: ReturnType<typeof setTimeout> | undefined;

  constructor(private readonly options: StreamOptions) {
    this.fetch = options.fetch ?? ((input, init) => globalThis.fetch(input, init));
    this.random = options.random ?? Math.random;
    this.now = options.now ?? Date.now;
  }

  start(): void {
    if (this.watchdog !== undefined) return;
    this.lastUpdateAt = this.now();
    this.watchdog = setInterval(() => this.watch(), TICK_MS);
    void this.connect();
  }

  stop(): void {
    clearInterval(this.watchdog);
    clearTimeout(this.retry);
    this.watchdog = undefined;
    this.abort?.abort();
    this.abort = null;
    this.connected = false;
  }

  /** Tries at once instead of at `retryAt`. */
  reconnectNow(): void {
    if (this.watchdog === undefined || this.link.state !== 'disconnected' || this.abort) return;
    clearTimeout(this.retry);
    void this.connect();
  }

  private async connect(): Promise<void> {
    const abort = new AbortController();
    this.abort = abort;
    this.connected = false;
    this.openedAt = this.now();
    const headers: Record<string, string> = { accept: 'text/event-stream' };
    if (this.lastId !== '') headers['last-event-id'] = this.lastId;
    let reason = 'the server closed the stream';
    try {
      const response = await this.fetch(this.options.url, { headers, cache: 'no-store', signal: abort.signal });
      if (!response.ok || !response.body) throw new Error(`the server answered ${response.status}`);
      if (!response.headers.get('content-type')?.startsWith('text/event-stream')) {
        throw new Error('the answer is not an event stream');
      }
      this.connected = true;
      this.lastByteAt = this.now();
      this.options.onOpen?.(this.lastId !== '');
      await this.read(response.body, abort);
    } catch (error) {
      reason = reasonOf(abort.signal.reason ?? error);
    }
    if (this.abort !== abort) return; // stopped, or replaced by a newer try
    this.abort = null;
    this.connected = false;
    // Whatever the cause (a bad frame as well): free the socket before the next try.
    abort.abort();
    this.disconnected(reason);
  }

  private async read(body: ReadableStream<Uint8Array>, abort: AbortController): Promise<void> {
    const parser = new SseParser(this.lastId);
    const decoder = new TextDecoder();
    const reader = body.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done || this.abort !== abort) return;
      this.lastByteAt = this.now();
      for (const event of parser.push(decoder.decode(value, { stream: true }))) {
        this.lastId = event.id;
        this.attempt = 0;
        this.lastUpdateAt = this.now();
        this.options.onEvent(event);
        this.setLink({ state: 'live', retryAt: null, reason: null });
      }
      if (parser.retryMs !== null) this.retryBase = parser.retryMs;
    }
  }

  private watch(): void {
    const now = this.now();
    if (!this.abort) return;
    if (!this.connected) {
      if (now - this.openedAt > CONNECT_MS) this.abort.abort(new Error('no answer from the server'));
    } else if (now - this.lastByteAt > SILENT_MS) {
      this.abort.abort(new Error('no sign of life from the server'));
    }
    if (now - this.lastUpdateAt > STALE_MS && this.link.state === 'live') {
      this.setLink({ state: 'stale', retryAt: null, reason: null });
    }
  }

  private disconnected(reason: string): void {
    if (this.watchdog === undefined) return;
    const wait = backoffMs(this.attempt++, this.random(), this.retryBase);
    this.setLink({ state: 'disconnected', retryAt: this.now() + wait, reason });
    this.retry = setTimeout(() => void this.connect(), wait);
  }

  private setLink(link: Link): void {
    const old = this.link;
    if (old.state === link.state && old.retryAt === link.retryAt && old.reason === link.reason) return;
    this.link = link;
    this.options.onLink(link);
  }
}

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return 'the connection broke';
  // Browsers word this one differently ("Failed to fetch", "NetworkError …"); none helps anybody.
  return error instanceof TypeError ? 'the server cannot be reached' : error.message;
}
