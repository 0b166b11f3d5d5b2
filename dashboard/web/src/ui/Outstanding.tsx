import { useEffect, useRef, useState } from 'preact/hooks';
import { getJson } from '../api/client';
import type { OutstandingDevice, Page } from '../api/types';
import { now, setView, stripRows, view } from '../model/store';
import { bytes, count, duration, interval, moment, NONE, parseTime, plural, zoneName } from '../view/format';
import { WidgetError } from './Panel';

interface OutstandingProps {
  aggregate: string;
  start: number;
  windowMs: number;
}

interface Listing {
  items: readonly OutstandingDevice[];
  total: number;
  next: string | null;
}

const LIMIT = 50;
const REFRESH_MS = 5_000;

/** Who is still awaited for one window, by name. */
export function Outstanding({ aggregate, start, windowMs }: OutstandingProps) {
  const { zone } = view.value;
  const [listing, setListing] = useState<Listing | null>(null);
  const [error, setError] = useState<string | null>(null);
  const [pages, setPages] = useState(1);
  const heading = useRef<HTMLHeadingElement>(null);
  const row = stripRows.value.find((candidate) => candidate.startMs === start);

  useEffect(() => {
    setPages(1);
    setListing(null);
    heading.current?.focus({ preventScroll: true });
    heading.current?.scrollIntoView({ block: 'nearest' });
  }, [start, aggregate]);

  useEffect(() => {
    const abort = new AbortController();
    const load = async (): Promise<void> => {
      try {
        let after: string | null = null;
        const items: OutstandingDevice[] = [];
        let page: Page<OutstandingDevice>;
        let turn = 0;
        do {
          page = await getJson<Page<OutstandingDevice>>(
            '/windows/outstanding',
            { aggregate, start: new Date(start).toISOString(), limit: LIMIT, after },
            abort.signal,
          );
          items.push(...page.items);
          after = page.next;
          turn += 1;
        } while (after !== null && turn < pages);
        setListing({ items, total: page.total ?? items.length, next: after });
        setError(null);
      } catch (failure) {
        if (!abort.signal.aborted) setError(failure instanceof Error ? failure.message : String(failure));
      }
    };
    void load();
    // The list shrinks as backlogs arrive.
    const timer = setInterval(() => void load(), REFRESH_MS);
    return () => {
      clearInterval(timer);
      abort.abort();
    };
  }, [aggregate, start, pages]);

  return (
    <section class="outstanding" aria-labelledby="outstanding-title" data-testid="outstanding">
      <div class="panel-head">
        <h3 id="outstanding-title" tabIndex={-1} ref={heading}>
          Outstanding in {interval(start, row?.endMs ?? start + windowMs, zone, now.value)} {zoneName(zone, start)}
          {listing && ` · ${count(listing.total)}${row ? ` of ${plural(row.expected, 'device')}` : ''}`}
        </h3>
        <button type="button" class="button small" onClick={() => setView({ window: null })}>
          Close
        </button>
      </div>
      {error !== null && <WidgetError what="the outstanding devices" error={error} asOf={null} />}
      {!listing && error === null && <div class="skeleton list-skeleton" />}
      {listing && listing.items.length === 0 && <p class="muted">Every expected device has reported this window.</p>}
      {listing && listing.items.length > 0 && (
        <div class="table-scroll" tabIndex={0} role="region" aria-label="Outstanding devices">
          <table>
            <thead>
              <tr>
                <th scope="col">Device</th>
                <th scope="col">Agent</th>
                <th scope="col">Agent is</th>
                <th scope="col">Last contact</th>
                <th scope="col">Complete to</th>
                <th scope="col" class="n">Backlog, events</th>
                <th scope="col" class="n">Backlog, size</th>
                <th scope="col">Oldest held</th>
              </tr>
            </thead>
            <tbody>
              {listing.items.map((item) => (
                <tr key={item.device}>
                  <th scope="row">{item.device}</th>
                  <td>{item.agent ?? 'none (plain device)'}</td>
                  <td>{item.online === null ? 'unknown' : item.online ? 'online' : 'offline'}</td>
                  <td>
                    <Ago time={item.last_contact} />
                  </td>
                  <td>{moment(parseTime(item.progress), zone, now.value)}</td>
                  <td class="n">{item.backlog ? count(item.backlog.events) : NONE}</td>
                  <td class="n">{item.backlog ? bytes(item.backlog.bytes) : NONE}</td>
                  <td>{moment(parseTime(item.backlog?.oldest), zone, now.value)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {listing?.next && (
        <button type="button" class="button small" onClick={() => setPages(pages + 1)}>
          Show {count(Math.min(LIMIT, listing.total - listing.items.length))} more
        </button>
      )}
    </section>
  );
}

function Ago({ time }: { time: string | null }) {
  const at = parseTime(time);
  if (at === null) return <>{NONE}</>;
  const age = now.value === null ? null : Math.max(0, now.value - at);
  return (
    <>
      {moment(at, view.value.zone, now.value)}
      {age !== null && <span class="muted"> ({duration(Math.round(age / 1000) * 1000)} ago)</span>}
    </>
  );
}
