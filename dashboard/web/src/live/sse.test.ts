import { describe, expect, test } from 'vitest';
import { FRAME_BYTES_MAX, type SseEvent, SseParser } from './sse';

const STREAM =
  '\ufeff: hello\n\nid: 7\nevent: overview\ndata: {"a":1}\n\nid: 8\r\ndata: one\r\ndata: two\r\n\r\n:beat\n\nretry: 1500\ndata\n\nevent: dropped\n\n';

const EVENTS: SseEvent[] = [
  { event: 'overview', data: '{"a":1}', id: '7' },
  { event: 'message', data: 'one\ntwo', id: '8' },
  { event: 'message', data: '', id: '8' },
];

describe('SseParser', () => {
  test('reads a whole stream', () => {
    const parser = new SseParser();
    expect(parser.push(STREAM)).toEqual(EVENTS);
    expect(parser.retryMs).toBe(1500);
  });

  test('gives the same for every way of cutting the stream into two pieces, and character by character', () => {
    for (let cut = 0; cut <= STREAM.length; cut++) {
      const parser = new SseParser();
      expect([...parser.push(STREAM.slice(0, cut)), ...parser.push(STREAM.slice(cut))], `cut at ${cut}`).toEqual(EVENTS);
    }
    const parser = new SseParser();
    expect([...STREAM].flatMap((character) => parser.push(character))).toEqual(EVENTS);
  });

  test('an event without its empty line is not given', () => {
    const parser = new SseParser();
    expect(parser.push('data: half\n')).toEqual([]);
    expect(parser.push('\n')).toEqual([{ event: 'message', data: 'half', id: '' }]);
  });

  test('starts from the id of the connection before, and ignores an id with NUL', () => {
    const parser = new SseParser('41');
    expect(parser.push('id: a\0b\ndata: x\n\n')).toEqual([{ event: 'message', data: 'x', id: '41' }]);
  });

  test('takes one space after the colon, no more', () => {
    expect(new SseParser().push('data:  x \n\n')[0]?.data).toBe(' x ');
    expect(new SseParser().push('data:x:y\n\n')[0]?.data).toBe('x:y');
  });

  test('refuses a frame without end', () => {
    const parser = new SseParser();
    const piece = 'x'.repeat(FRAME_BYTES_MAX / 4);
    expect(() => {
      for (let i = 0; i < 6; i++) parser.push(`data: ${piece}\n`);
    }).toThrow('too long');
  });
});
