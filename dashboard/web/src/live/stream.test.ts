import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { SseEvent } from './sse';
import { type Link, LiveStream, SILENT_MS, STALE_MS } from './stream';

/** One connection that the page opened, from the server's side. */
class Connection {
  private controller!: ReadableStreamDefaultController<Uint8Array>;
  readonly response: Response;
  aborted = false;

  constructor(
    readonly headers: Record<string, string>,
    signal: AbortSignal,
  ) {
    const body = new ReadableStream<Uint8Array>({ start: (controller) => void (this.controller = controller) });
    this.response = new Response(body, { headers: { 'content-type': 'text/event-stream' } });
    signal.addEventListener('abort', () => {
      this.aborted = true;
      try {
        this.controller.error(signal.reason);
      } catch {
        // closed by the server before
      }
    });
  }

  send(text: string): void {
    this.controller.enqueue(new TextEncoder().encode(text));
  }

  close(): void {
    this.controller.close();
  }
}

let connections: Connection[];
let events: SseEvent[];
let links: Link[];
let opened: boolean[];
let refuse: boolean;
let stream: LiveStream;

const last = (): Connection => connections[connections.length - 1]!;
const state = (): string | undefined => links[links.length - 1]?.state;
const pass = (ms: number): Promise<unknown> => vi.advanceTimersByTimeAsync(ms);

beforeEach(() => {
  vi.useFakeTimers();
  connections = [];
  events = [];
  links = [];
  opened = [];
  refuse = false;
  stream = new LiveStream({
    url: '/live',
    onEvent: (event) => events.push(event),
    onLink: (link) => links.push(link),
    onOpen: (resumed) => opened.push(resumed),
    random: () => 0,
    fetch: (async (_url: string, init: RequestInit) => {
      if (refuse) throw new TypeError('Failed to fetch');
      const connection = new Connection(init.headers as Record<string, string>, init.signal!);
      connections.push(connection);
      return connection.response;
    }) as unknown as typeof fetch,
  });
  stream.start();
});

afterEach(() => {
  stream.stop();
  vi.useRealTimers();
});

describe('LiveStream', () => {
  test('is live with the first event', async () => {
    await pass(0);
    expect(state()).toBeUndefined();
    last().send('id: 1\nevent: overview\ndata: {}\n\n');
    await pass(0);
    expect(state()).toBe('live');
    expect(events).toEqual([{ event: 'overview', data: '{}', id: '1' }]);
    expect(opened).toEqual([false]);
  });

  test('a server that only beats becomes stale after 3 s and live again without a reconnect', async () => {
    await pass(0);
    last().send('data: x\n\n');
    await pass(STALE_MS - 500);
    expect(state()).toBe('live');
    await pass(1000);
    expect(state()).toBe('stale');
    for (let i = 0; i < 5; i++) {
      last().send(': beat\n\n');
      await pass(5000);
    }
    expect(state()).toBe('stale');
    expect(connections).toHaveLength(1);
    last().send('data: y\n\n');
    await pass(0);
    expect(state()).toBe('live');
  });

  test('a server without a sign of life is given up, and resumed after the last id', async () => {
    await pass(0);
    last().send('id: 41\ndata: x\n\n');
    await pass(SILENT_MS + 500);
    expect(connections[0]?.aborted).toBe(true);
    expect(links.map((link) => link.state)).toEqual(['live', 'stale', 'disconnected']);
    await pass(300);
    expect(connections).toHaveLength(2);
    expect(last().headers['last-event-id']).toBe('41');
    expect(opened).toEqual([false, true]);
    last().send('id: 42\ndata: y\n\n');
    await pass(0);
    expect(state()).toBe('live');
    expect(events.map((event) => event.id)).toEqual(['41', '42']);
  });

  test('retries with growing pauses while the server is away, and starts over after a success', async () => {
    await pass(0);
    last().send('data: x\n\n');
    await pass(0);
    refuse = true;
    last().close();
    await pass(0);
    const pauses: number[] = [];
    for (let i = 0; i < 4; i++) {
      const link = links[links.length - 1]!;
      expect(link.state).toBe('disconnected');
      pauses.push(link.retryAt! - Date.now());
      await pass(link.retryAt! - Date.now());
    }
    expect(pauses).toEqual([250, 500, 1000, 2000]);
    expect(links[links.length - 1]?.reason).toBe('the server cannot be reached');
    refuse = false;
    await pass(4000);
    last().send('data: y\n\n');
    await pass(0);
    expect(state()).toBe('live');
    last().close();
    await pass(0);
    expect(links[links.length - 1]!.retryAt! - Date.now()).toBe(250);
  });

  test('after stop nothing is opened and nothing is told', async () => {
    await pass(0);
    last().send('data: x\n\n');
    await pass(0);
    stream.stop();
    const told = links.length;
    await pass(60_000);
    expect(connections).toHaveLength(1);
    expect(connections[0]?.aborted).toBe(true);
    expect(links).toHaveLength(told);
  });

  test('an answer that is no event stream is not taken for one', async () => {
    stream.stop();
    stream = new LiveStream({
      url: '/live',
      onEvent: (event) => events.push(event),
      onLink: (link) => links.push(link),
      random: () => 0,
      fetch: (async () => new Response('<html>', { headers: { 'content-type': 'text/html' } })) as unknown as typeof fetch,
    });
    stream.start();
    await pass(0);
    expect(links[links.length - 1]).toMatchObject({ state: 'disconnected', reason: 'the answer is not an event stream' });
  });
});
