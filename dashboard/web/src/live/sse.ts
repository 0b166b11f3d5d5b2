/** Server-sent events, as the WHATWG standard parses them, from text in pieces of any size. */

export interface SseEvent {
  event: string;
  data: string;
  /** The last id seen, which is what `Last-Event-ID` has to say after this event. */
  id: string;
}

/** A frame beyond this is a fault of the other side, not something to keep in memory. */
export const FRAME_BYTES_MAX = 8 * 1024 * 1024;

export class SseParser {
  /** What the server asked for as the pause before a reconnect, in ms. */
  retryMs: number | null = null;
  private rest = '';
  private first = true;
  private data: string[] = [];
  private dataLength = 0;
  private event = '';

  constructor(private id = '') {}

  /** Takes the next piece and gives the events that it completes. */
  push(piece: string): SseEvent[] {
    if (this.first && piece.length > 0) {
      this.first = false;
      if (piece.charCodeAt(0) === 0xfeff) piece = piece.slice(1);
    }
    const text = this.rest + piece;
    const events: SseEvent[] = [];
    let from = 0;
    for (;;) {
      const end = lineEnd(text, from);
      if (end === null) break;
      const event = this.line(text.slice(from, end.at));
      if (event) events.push(event);
      from = end.next;
    }
    this.rest = text.slice(from);
    if (this.rest.length + this.dataLength > FRAME_BYTES_MAX) throw new Error('a frame of the live stream is too long');
    return events;
  }

  private line(line: string): SseEvent | null {
    if (line === '') return this.dispatch();
    const colon = line.indexOf(':');
    if (colon === 0) return null; // a comment: the heartbeat
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? '' : line.slice(colon + 1);
    if (value.startsWith(' ')) value = value.slice(1);
    switch (field) {
      case 'data':
        this.data.push(value);
        this.dataLength += value.length;
        break;
      case 'event':
        this.event = value;
        break;
      case 'id':
        if (!value.includes('\0')) this.id = value;
        break;
      case 'retry':
        if (/^\d+$/.test(value)) this.retryMs = Number(value);
        break;
    }
    return null;
  }

  private dispatch(): SseEvent | null {
    const complete = this.data.length > 0;
    const event = { event: this.event || 'message', data: this.data.join('\n'), id: this.id };
    this.data = [];
    this.dataLength = 0;
    this.event = '';
    return complete ? event : null;
  }
}

/** A line ends with CR LF, LF or CR; a CR at the very end may still be half of a CR LF. */
function lineEnd(text: string, from: number): { at: number; next: number } | null {
  for (let i = from; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code === 10) return { at: i, next: i + 1 };
    if (code === 13) {
      if (i + 1 === text.length) return null;
      return { at: i, next: text.charCodeAt(i + 1) === 10 ? i + 2 : i + 1 };
    }
  }
  return null;
}
