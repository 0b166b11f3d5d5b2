import { batch, computed, effect, signal } from '@preact/signals';
import { getJson } from '../api/client';
import type { Aggregate, Alert, Overview, Page, Quarantine, WindowRow, WindowsFrame } from '../api/types';
import { type Link, LiveStream } from '../live/stream';
import type { SseEvent } from '../live/sse';
import { type Domain, fixedDomain, followDomain } from '../view/domain';
import { parseTime } from '../view/format';
import { formatView, parseView, type ViewState } from '../view/url';
import { mergeAlerts } from './alerts';
import { appended, type Sample } from './history';
import { Loader } from './loader';
import { RowStore, seriesKey, type StoredRow } from './rows';
import { type Selection, select, withGroup } from './selection';

const QUARANTINE_MS = 5_000;
const RELOAD_MS = 5_000;
/** REST starts at the latest this long after the page, though the stream has not answered. */
const FIRST_LOAD_MS = 700;
/** After a longer cut the page trusts REST rather than the resumed stream alone. */
const TRUST_RESUME_MS = 5_000;
/** A tab nobody sees gives its connection back: a browser has six per server. */
const HIDDEN_MS = 60_000;
const WINDOWS_LIMIT = 1000;
const WINDOWS_PAGES = 4;

// ---- what the address says ----

export const view = signal<ViewState>(parseView(location.search));

export function setView(change: Partial<ViewState>, how: 'push' | 'replace' = 'push'): void {
  view.value = { ...view.value, ...change };
  const url = location.pathname + formatView(view.value) + location.hash;
  if (how === 'push') history.pushState(null, '', url);
  else history.replaceState(null, '', url);
}

// ---- what the server says ----

export const overview = signal<Overview | null>(null);
export const aggregates = signal<readonly Aggregate[] | null>(null);
export const alerts = signal<readonly Alert[]>([]);
export const quarantine = signal<Quarantine | null>(null);
export const link = signal<Link>({ state: 'connecting', retryAt: null, reason: null });
/** Changed rows that the server could not send; they are fetched instead. */
export const skipped = signal(0);

export const rateHistory = signal<readonly Sample[]>([]);
export const lagHistory = signal<readonly Sample[]>([]);
export const offlineHistory = signal<readonly Sample[]>([]);
export const firingHistory = signal<readonly Sample[]>([]);

const rows = new RowStore();
/** Counts up whenever rows have changed in a way that should be seen. */
const rowsVersion = signal(0);

export const now = computed(() => parseTime(overview.value?.now));
export const completeTo = computed(() => parseTime(overview.value?.complete_to));
export const lagMs = computed(() =>
  now.value === null || completeTo.value === null ? null : Math.max(0, now.value - completeTo.value),
);
export const firing = computed(() => {
  const counts = overview.value?.alerts.firing;
  return counts ? counts.critical + counts.error + counts.warning + counts.info : null;
});
export const offline = computed(() => {
  const devices = overview.value?.devices;
  return devices ? devices.buffering + devices.silent : null;
});

// ---- what is shown of it ----

export const selection = computed<Selection | null>(() =>
  aggregates.value === null
    ? null
    : select(aggregates.value, view.value.aggregate, view.value.group, overview.value?.default_aggregate ?? null),
);
/** The aggregate of the completeness strip and the tiles: the whole fleet. */
export const fleet = computed<Aggregate | null>(() => {
  const all = aggregates.value;
  if (!all) return null;
  return all.find((a) => a.name === overview.value?.default_aggregate) ?? all.find((a) => a.group_by.length === 0) ?? null;
});
/** From the start of a fleet window to the start of the next: the grid of everything drawn. */
export const fleetHopMs = computed(() => (fleet.value?.hop_seconds ?? 10) * 1000);
const fleetKey = computed(() => (fleet.value ? seriesKey(fleet.value.name, {}) : null));
const chartKey = computed(() => (selection.value ? seriesKey(selection.value.aggregate.name, selection.value.group) : null));

const fleetAll = computed<StoredRow[]>(() => {
  rowsVersion.value;
  return fleetKey.value === null ? [] : rows.select(fleetKey.value);
});
export const domain = computed<Domain>(() => {
  const { rangeMinutes, end } = view.value;
  const rangeMs = rangeMinutes * 60_000;
  if (end !== null) return fixedDomain(end, rangeMs, fleetHopMs.value);
  const newest = fleetAll.value[fleetAll.value.length - 1];
  return followDomain(newest?.endMs ?? null, now.value, rangeMs, fleetHopMs.value);
});
/** Newest fleet windows whatever range is shown: what the tiles speak of. */
export const fleetRecent = computed(() => fleetAll.value.slice(-60));
export const stripRows = computed(() => within(fleetAll.value, domain.value));
export const chartRows = computed<StoredRow[]>(() => {
  rowsVersion.value;
  return chartKey.value === null ? [] : rows.select(chartKey.value, domain.value.from, domain.value.to);
});
/** Nothing has ever reported. */
export const empty = computed(
  () =>
    overview.value !== null &&
    overview.value.totals.accepted === 0 &&
    overview.value.devices.expected === 0 &&
    fleetAll.value.length === 0,
);

function within(all: readonly StoredRow[], span: Domain): StoredRow[] {
  return all.filter((row) => row.startMs >= span.from && row.startMs < span.to);
}

// ---- pause ----

/** While paused the stream is still read and merged; the page only does not show it. */
export const paused = signal(false);
export const heldBack = signal(0);
let pending: { overview: Overview | null; alerts: Alert[] } = { overview: null, alerts: [] };

export function setPaused(on: boolean): void {
  batch(() => {
    paused.value = on;
    if (on) return;
    if (pending.overview) showOverview(pending.overview);
    alerts.value = mergeAlerts(alerts.value, pending.alerts);
    pending = { overview: null, alerts: [] };
    heldBack.value = 0;
    rowsVersion.value += 1;
  });
}

// ---- taking in ----

function showOverview(next: Overview): void {
  batch(() => {
    overview.value = next;
    const at = now.value;
    if (at === null) return;
    rateHistory.value = appended(rateHistory.value, at, next.events_per_second);
    lagHistory.value = appended(lagHistory.value, at, lagMs.value);
    offlineHistory.value = appended(offlineHistory.value, at, offline.value);
    firingHistory.value = appended(firingHistory.value, at, firing.value);
  });
}

function takeOverview(next: Overview): void {
  if (paused.value) pending.overview = next;
  else showOverview(next);
}

/** Live frames stay unseen between a reset and the REST answer that replaces what was held. */
let resetting = false;

function takeRows(items: readonly WindowRow[]): void {
  if (rows.merge(items) > 0 && !paused.value && !resetting) rowsVersion.value += 1;
}

function takeGroups(items: readonly WindowRow[]): void {
  const known = aggregates.value;
  if (!known) return;
  let next = known;
  for (const row of items) {
    const i = next.findIndex((aggregate) => aggregate.name === row.aggregate);
    if (i < 0) {
      reloadSoon('aggregates');
      continue;
    }
    const grown = withGroup(next[i]!, row.group);
    if (grown !== next[i]) next = next.with(i, grown);
  }
  if (next !== known) aggregates.value = next;
}

function takeAlerts(items: readonly Alert[]): void {
  if (paused.value) pending.alerts = mergeAlerts(pending.alerts, items);
  else alerts.value = mergeAlerts(alerts.value, items);
}

function onEvent(event: SseEvent): void {
  if (event.event === 'reset') {
    reset();
    return;
  }
  const data: unknown = JSON.parse(event.data);
  batch(() => {
    if (paused.value) heldBack.value += 1;
    switch (event.event) {
      case 'overview':
        takeOverview(data as Overview);
        break;
      case 'windows': {
        const frame = data as WindowsFrame;
        takeGroups(frame.items);
        takeRows(frame.items);
        if (frame.dropped > 0) {
          skipped.value += frame.dropped;
          reloadSoon('rows');
        }
        break;
      }
      case 'alerts':
        takeAlerts((data as { items: Alert[] }).items);
        break;
    }
  });
}

/** The server cannot say what was missed: everything is fetched anew, revisions start over. */
function reset(): void {
  resetting = true;
  rows.clear();
  alerts.value = [];
  pending = { overview: null, alerts: [] };
  loadAll();
}

// ---- REST ----

export const overviewLoader = new Loader(async (signal) => {
  takeOverview(await getJson<Overview>('/overview', {}, signal));
});

export const aggregatesLoader = new Loader(async (signal) => {
  aggregates.value = (await getJson<Page<Aggregate>>('/aggregates', {}, signal)).items;
});

export const stripLoader = new Loader(async (signal) => {
  const aggregate = fleet.peek();
  if (!aggregate) return;
  const items = await fetchRows({ aggregate, group: {} }, signal);
  resetting = false;
  takeRows(items);
  rowsVersion.value += 1;
});

export const chartLoader = new Loader(async (signal) => {
  const selected = selection.peek();
  if (!selected) return;
  takeRows(await fetchRows(selected, signal));
  rowsVersion.value += 1;
});

export const alertsLoader = new Loader(async (signal) => {
  // Each state by itself: a thousand resolved ones must not push a firing one off the list.
  const limits = { firing: 100, pending: 50, resolved: 20 };
  const pages = await Promise.all(
    Object.entries(limits).map(([state, limit]) => getJson<Page<Alert>>('/alerts', { state, limit }, signal)),
  );
  takeAlerts(pages.flatMap((page) => page.items));
});

export const quarantineLoader = new Loader(async (signal) => {
  quarantine.value = await getJson<Quarantine>('/quarantine', { limit: 50 }, signal);
});

async function fetchRows({ aggregate, group }: Selection, signal: AbortSignal): Promise<WindowRow[]> {
  const { rangeMinutes, end } = view.peek();
  const hopMs = aggregate.hop_seconds * 1000;
  const wanted = Math.ceil((rangeMinutes * 60_000) / hopMs) + 2;
  const query: Record<string, string | number> = { aggregate: aggregate.name, limit: Math.min(WINDOWS_LIMIT, wanted) };
  for (const [key, value] of Object.entries(group)) query[`group.${key}`] = value;
  if (end !== null) {
    const span = fixedDomain(end, rangeMinutes * 60_000, hopMs);
    query['from'] = new Date(span.from).toISOString();
    query['to'] = new Date(span.to).toISOString();
  }
  const items: WindowRow[] = [];
  for (let page = 0; page < WINDOWS_PAGES; page++) {
    const answer = await getJson<Page<WindowRow>>('/windows', query, signal);
    items.push(...answer.items);
    // Without `from` the answer is the newest windows already.
    if (!answer.next || end === null) break;
    query['after'] = answer.next;
  }
  return items;
}

function loadAll(): void {
  // What the windows are of is known only after these two; the effect below then loads them.
  void overviewLoader.run();
  void aggregatesLoader.run();
  void alertsLoader.run();
  void quarantineLoader.run();
  if (fleet.peek()) void stripLoader.run();
  if (selection.peek()) void chartLoader.run();
}

let rowsTimer: ReturnType<typeof setTimeout> | undefined;
let aggregatesTimer: ReturnType<typeof setTimeout> | undefined;

function reloadSoon(what: 'rows' | 'aggregates'): void {
  if (what === 'rows') {
    rowsTimer ??= setTimeout(() => {
      rowsTimer = undefined;
      void stripLoader.run();
      void chartLoader.run();
    }, RELOAD_MS);
  } else {
    aggregatesTimer ??= setTimeout(() => {
      aggregatesTimer = undefined;
      void aggregatesLoader.run();
    }, RELOAD_MS);
  }
}

// ---- life ----

/** Starts the page's data; once per page. */
export function start(): void {
  let loadedAt = 0;
  let cutAt: number | null = null;
  const load = (): void => {
    loadedAt = Date.now();
    loadAll();
  };
  const first = setTimeout(load, FIRST_LOAD_MS);

  const stream = new LiveStream({
    url: '/api/v1/live',
    onEvent,
    onLink: (next) => {
      if (next.state === 'disconnected') cutAt ??= Date.now();
      else cutAt = null;
      link.value = next;
    },
    onOpen: (resumed) => {
      clearTimeout(first);
      // Loaded after the stream began, so that no change falls between the two.
      const trusted = resumed && loadedAt > 0 && (cutAt === null || Date.now() - cutAt < TRUST_RESUME_MS);
      if (!trusted) load();
    },
  });
  stream.start();
  reconnect = () => stream.reconnectNow();

  let hidden: ReturnType<typeof setTimeout> | undefined;
  let away = false;
  document.addEventListener('visibilitychange', () => {
    clearTimeout(hidden);
    if (document.visibilityState === 'hidden') {
      hidden = setTimeout(() => {
        away = true;
        stream.stop();
      }, HIDDEN_MS);
    } else if (away) {
      away = false;
      stream.start();
      load();
    }
  });
  addEventListener('online', () => stream.reconnectNow());
  addEventListener('popstate', () => (view.value = parseView(location.search)));

  const range = computed(() => JSON.stringify([view.value.rangeMinutes, view.value.end]));
  effect(() => {
    const keys = [fleetKey.value, chartKey.value].filter((key) => key !== null);
    rows.keepOnly(keys);
  });
  effect(() => {
    range.value;
    if (fleetKey.value !== null) void stripLoader.run();
  });
  effect(() => {
    range.value;
    if (chartKey.value !== null) void chartLoader.run();
  });

  // The reasons follow the totals, which the stream brings.
  let seen = -1;
  let timer: ReturnType<typeof setTimeout> | undefined;
  effect(() => {
    const totals = overview.value?.totals;
    if (!totals) return;
    const sum = totals.refused + totals.quarantined + totals.too_old;
    if (sum === seen) return;
    const wait = seen < 0 ? 0 : QUARANTINE_MS;
    timer ??= setTimeout(() => {
      timer = undefined;
      const at = overview.peek()?.totals;
      seen = at ? at.refused + at.quarantined + at.too_old : seen;
      void quarantineLoader.run();
    }, wait);
  });
}

let reconnect = (): void => {};
export function reconnectNow(): void {
  reconnect();
}
