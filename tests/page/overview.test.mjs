// Drives the overview page of a running `tidewatch demo` in Chromium.
//   TIDEWATCH_URL=http://127.0.0.1:8080 node --test overview.test.mjs
// CHROMIUM names the browser's binary (default /usr/bin/chromium). Screenshots go to out/.
import assert from 'node:assert/strict';
import { mkdir, readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { after, before, test } from 'node:test';
import { chromium } from 'playwright-core';
import { startProxy } from './proxy.mjs';

const BASE = process.env.TIDEWATCH_URL;
assert.ok(BASE, 'TIDEWATCH_URL must name a running server');
const OUT = new URL('./out/', import.meta.url).pathname;
const AXE = await readFile(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const FLAGS = [
  '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync',
]; // prettier-ignore

let browser;

before(async () => {
  await mkdir(OUT, { recursive: true });
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM || '/usr/bin/chromium', args: FLAGS });
  // The first window settles some 15 s after the first event.
  await until(async () => (await settledRows()).length > 1, 90_000, 'two settled windows from the server');
});

after(() => browser?.close());

/** Polls until `probe` gives something true, and gives that. */
async function until(probe, ms, what) {
  const end = Date.now() + ms;
  let failure = '';
  for (;;) {
    try {
      const value = await probe();
      if (value) return value;
    } catch (error) {
      failure = `: ${error.message}`;
    }
    if (Date.now() > end) throw new Error(`no ${what} within ${ms} ms${failure}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

async function api(path) {
  const response = await fetch(`${BASE}/api/v1${path}`);
  assert.equal(response.status, 200, path);
  return response.json();
}

/** The newest windows of the whole fleet, oldest first. */
async function rows() {
  const { default_aggregate: name } = await api('/overview');
  return (await api(`/windows?aggregate=${name}`)).items;
}

const settledRows = async () => (await rows()).filter((row) => row.state !== 'open');

/** A page in a context of its own, with everything it complains about. */
async function open(t, { base = BASE, path = '/', width = 1440, height = 900, theme = 'dark', prepare } = {}) {
  const context = await browser.newContext({
    viewport: { width, height },
    colorScheme: theme,
    timezoneId: 'Asia/Kolkata', // neither UTC nor a whole hour
    reducedMotion: 'reduce',
  });
  t.after(() => context.close());
  const page = await context.newPage();
  const faults = [];
  page.on('console', (message) => message.type() === 'error' && faults.push(`console: ${message.text()}`));
  page.on('pageerror', (error) => faults.push(`exception: ${error.stack}`));
  page.on('request', (request) => {
    if (!request.url().startsWith(`${base}/`)) faults.push(`external request: ${request.url()}`);
  });
  await prepare?.(page);
  await page.goto(base + path, { waitUntil: 'commit' });
  return { page, faults };
}

const text = (page, id) => page.getByTestId(id).innerText();
const linkState = async (page) => (await text(page, 'link')).split('\n')[0].trim();
const live = (page, ms = 5000) => until(async () => (await linkState(page)) === 'Live', ms, 'live stream');

async function ready(page) {
  await live(page);
  await until(async () => Number(await page.getByTestId('strip').getAttribute('data-bars')) > 0, 5000, 'bars');
  await page.locator('[data-testid=chart] canvas').waitFor({ timeout: 5000 });
}

async function violations(page) {
  await page.evaluate(AXE);
  const result = await page.evaluate(() => globalThis.axe.run());
  return result.violations.map((v) => `${v.id}: ${v.help}: ${v.nodes.map((node) => node.target.join(' ')).join(' | ')}`);
}

test('cold start: live within 5 s, figures move, no error, no external request', async (t) => {
  const started = Date.now();
  const { page, faults } = await open(t);
  await live(page);
  const tiles = ['active', 'rate', 'lag', 'completeness', 'offline', 'firing'];
  for (const tile of tiles) {
    await until(async () => /\d/.test(await text(page, `value-${tile}`)), 5000, `figure in tile ${tile}`);
  }
  assert.ok(Date.now() - started < 5000, `tiles took ${Date.now() - started} ms`);
  // Not rate and progress: a steady fleet has a steady rate, and an outage holds the progress.
  const counted = await text(page, 'sum-counted');
  const newest = await text(page, 'readout');
  await until(async () => (await text(page, 'sum-counted')) !== counted, 5000, 'change of the counted events');
  await until(async () => (await text(page, 'readout')) !== newest, 20_000, 'change of the newest window');
  assert.deepEqual(faults, []);
  await page.screenshot({ path: `${OUT}/overview-dark.png`, fullPage: true });
});

test('the tiles say what the API says', async (t) => {
  const { page } = await open(t);
  await ready(page);
  // The window in the tile and its figure change together; a newer one between two looks is a new look.
  await until(
    async () => {
      const [value, note] = await page.evaluate(() => {
        const tile = document.querySelector('[data-testid=tile-active]');
        return [tile.querySelector('.value').textContent, tile.querySelector('.tile-note').textContent];
      });
      const clock = /\d\d:\d\d:\d\d/.exec(note)[0];
      const row = (await settledRows()).find((candidate) => candidate.start.slice(11, 19) === clock);
      return row && Number(value.replaceAll(',', '')) === row.distinct_devices;
    },
    10_000,
    'agreement of tile and API',
  );
});

test('strip and chart are drawn', async (t) => {
  const { page } = await open(t);
  await ready(page);
  const path = await page.locator('.bar-on-time').getAttribute('d');
  assert.match(path, /^M\d/);
  const colours = await until(
    async () => {
      const n = await page.evaluate(() => {
        const canvas = document.querySelector('[data-testid=chart] canvas');
        const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        let blue = 0;
        // The accent of the dark theme; axes and grid are grey.
        for (let i = 0; i < data.length; i += 4) if (data[i + 3] > 0 && data[i + 2] > data[i] + 60) blue += 1;
        return blue;
      });
      return n > 100 && n;
    },
    10_000,
    'line in the chart',
  );
  assert.ok(colours > 100);
  // Every bar can be read: by pointer and by keyboard.
  const strip = page.getByTestId('strip');
  await strip.focus();
  await page.keyboard.press('Home');
  assert.match(await strip.getAttribute('aria-valuetext'), /complete/);
  assert.match(await page.locator('.tip').innerText(), /Expected devices/);
});

test('a bar lists its outstanding devices, and closes again', async (t) => {
  const { page, faults } = await open(t);
  await ready(page);
  await page.getByTestId('strip').focus();
  await page.keyboard.press('End');
  await page.keyboard.press('Enter');
  const listing = page.getByTestId('outstanding');
  await listing.getByRole('heading', { name: /Outstanding in/ }).waitFor();
  await until(
    async () => /Every expected device|Last contact/.test(await listing.innerText()),
    5000,
    'answer in the list of outstanding devices',
  );
  assert.match(page.url(), /window=/);
  await listing.getByRole('button', { name: 'Close' }).click();
  await listing.waitFor({ state: 'detached' });
  assert.deepEqual(faults, []);
});

for (const theme of ['dark', 'light']) {
  test(`axe finds nothing in the ${theme} theme`, async (t) => {
    const { page, faults } = await open(t, { theme });
    await ready(page);
    assert.deepEqual(await violations(page), []);
    await page.screenshot({ path: `${OUT}/overview-${theme}.png`, fullPage: true });
    for (const button of await page.getByRole('button', { name: 'View as table' }).all()) await button.click();
    await page.getByRole('region', { name: 'Completeness as a table' }).waitFor();
    assert.deepEqual(await violations(page), []);
    await page.keyboard.press('Escape');
    await page.locator('body').press('?');
    await page.getByRole('dialog').waitFor();
    assert.deepEqual(await violations(page), []);
    assert.deepEqual(faults, []);
  });
}

for (const width of [320, 390]) {
  test(`nothing scrolls sideways at ${width} px`, async (t) => {
    const { page } = await open(t, { width, height: 844, path: '/?range=60m' });
    await ready(page);
    const wide = () => page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    assert.equal(await wide(), 0);
    await page.screenshot({ path: `${OUT}/overview-${width}.png`, fullPage: true });
    for (const button of await page.getByRole('button', { name: 'View as table' }).all()) await button.click();
    assert.equal(await wide(), 0);
  });
}

test('the zone switch changes every time shown', async (t) => {
  const { page } = await open(t);
  await ready(page);
  await page.keyboard.press('p'); // or the times would change by themselves
  const times = () =>
    page.evaluate(() => {
      const found = [];
      const walk = document.createTreeWalker(document.querySelector('#app'), NodeFilter.SHOW_TEXT);
      for (let node = walk.nextNode(); node; node = walk.nextNode()) {
        for (const time of node.data.matchAll(/\b\d\d:\d\d(:\d\d)?\b/g)) found.push(time[0]);
      }
      return found.filter((time) => time !== '05:30'); // the name of the zone
    });
  await until(async () => (await linkState(page)) === 'Paused', 2000, 'pause');
  const utc = await times();
  assert.ok(utc.length > 5);
  await page.getByRole('button', { name: 'Local' }).click();
  await until(async () => (await text(page, 'complete-to')).includes('UTC+05:30'), 2000, 'local time');
  assert.match(page.url(), /zone=local/);
  const local = await times();
  const shift = (time) => {
    const [hour, minute, second] = time.split(':').map(Number);
    const at = (hour * 60 + minute + 330) % 1440;
    const pad = (n) => String(n).padStart(2, '0');
    return `${pad(Math.floor(at / 60))}:${pad(at % 60)}${second === undefined ? '' : `:${pad(second)}`}`;
  };
  // Axis ticks may lie elsewhere (they are round in the zone shown); no time may stand as it was.
  const expected = new Set(utc.map(shift));
  const full = local.filter((time) => time.length === 8);
  assert.deepEqual(full.filter((time) => !expected.has(time)), []);
  assert.ok(full.length > 0);
});

test('the address holds the view: a reload shows the same', async (t) => {
  const { page, faults } = await open(t);
  await ready(page);
  await page.getByRole('button', { name: '30 min', exact: true }).click();
  const aggregate = page.getByLabel('Aggregate');
  const options = await aggregate.locator('option').allInnerTexts();
  await aggregate.selectOption(options[0]);
  await page.getByLabel('What the chart shows').selectOption('count');
  await page.getByRole('button', { name: /Switch to the light theme/ }).click();
  assert.match(page.url(), /aggregate=.*show=count.*range=30m.*theme=light/);
  await page.reload({ waitUntil: 'commit' });
  await ready(page);
  assert.equal(await page.getByLabel('Aggregate').inputValue(), options[0]);
  assert.equal(await page.getByLabel('What the chart shows').inputValue(), 'count');
  assert.equal(await page.getByRole('button', { name: '30 min', exact: true }).getAttribute('aria-pressed'), 'true');
  assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), 'light');
  assert.deepEqual(faults, []);
});

test('paused, nothing moves; resumed, it does; the keys can be switched off', async (t) => {
  const { page } = await open(t);
  await ready(page);
  await page.locator('body').press('p');
  await until(async () => (await linkState(page)) === 'Paused', 2000, 'pause');
  const frozen = await page.locator('main').innerText();
  await until(async () => /[3-9] updates waiting|\d\d updates/.test(await text(page, 'link')), 15_000, 'waiting updates');
  assert.equal(await page.locator('main').innerText(), frozen);
  await page.locator('body').press('p');
  await live(page);
  await until(async () => (await page.locator('main').innerText()) !== frozen, 10_000, 'movement after the pause');

  await page.locator('body').press('?');
  await page.getByLabel('Single-key shortcuts').uncheck();
  await page.getByRole('dialog').getByRole('button', { name: 'Close' }).click();
  await page.locator('body').press('p');
  await page.getByRole('button', { name: 'Pause' }).waitFor();
  assert.notEqual(await linkState(page), 'Paused');
});

test('a frozen server is "Stale" within 4 s, and live again without a reload', async (t) => {
  const proxy = await startProxy(BASE);
  t.after(() => proxy.close());
  const { page } = await open(t, { base: proxy.url });
  await ready(page);
  await page.evaluate(() => (globalThis.sameDocument = true));
  // The last update may be up to a second old at this point; the page polls four times a second.
  proxy.freeze();
  await until(async () => (await linkState(page)) === 'Stale', 4000, 'word "Stale"');
  await page.screenshot({ path: `${OUT}/stale.png` });
  proxy.pass();
  await live(page);
  assert.equal(await page.evaluate(() => globalThis.sameDocument), true);
});

test('a cut connection is "Disconnected", keeps its figures, and resumes without gap or double bar', async (t) => {
  const proxy = await startProxy(BASE);
  t.after(() => proxy.close());
  const { page } = await open(t, { base: proxy.url, path: '/?table=strip' });
  await live(page);
  const first = page.getByTestId('tile-active');
  await until(async () => /\d/.test(await text(page, 'value-active')), 5000, 'active devices');
  proxy.cut();
  await until(async () => (await linkState(page)) === 'Disconnected', 3000, 'word "Disconnected"');
  assert.match(await first.innerText(), /\d/);
  await until(async () => /retrying/.test(await text(page, 'link')), 3000, 'word about the next try');
  await page.screenshot({ path: `${OUT}/disconnected.png` });
  // Long enough to miss a window.
  const missed = (await rows()).at(-1).start;
  await until(async () => (await rows()).at(-1).start > missed, 60_000, 'new window during the cut');
  proxy.pass();
  await live(page, 20_000);
  const gapless = async () => {
    const starts = await page.locator('#completeness tbody th').evaluateAll((cells) => cells.map((cell) => cell.textContent));
    assert.equal(new Set(starts).size, starts.length, 'a window stands twice');
    const shown = new Set(starts.map((start) => start.slice(0, 8)));
    const wanted = (await rows()).slice(-60).map((row) => row.start.slice(11, 19));
    const lacking = wanted.filter((start) => !shown.has(start));
    if (lacking.length > 0) throw new Error(`not in the table: ${lacking}`);
    return true;
  };
  await until(gapless, 15_000, 'table with all windows of the API');
});

test('one failing call is one failing widget', async (t) => {
  const { page } = await open(t, {
    prepare: (page) =>
      page.route('**/api/v1/alerts*', (route) =>
        route.fulfill({ status: 500, json: { error: { code: 'internal', message: 'views are not ready' } } }),
      ),
  });
  await ready(page);
  const error = page.locator('#alerts .widget-error');
  await error.waitFor();
  assert.match(await error.innerText(), /Cannot load the alerts: views are not ready \(500\)/);
  assert.equal(await page.locator('.widget-error').count(), 1);
});

test('an empty server says which command brings data, and shows no invented figure', async (t) => {
  const overview = await api('/overview');
  const zeros = (object) => Object.fromEntries(Object.entries(object).map(([key, value]) => [key, typeof value === 'number' ? 0 : zeros(value)]));
  const empty = {
    ...overview,
    devices: zeros(overview.devices),
    agents: zeros(overview.agents),
    totals: zeros(overview.totals),
    alerts: zeros(overview.alerts),
    events_per_second: 0,
    complete_to: null,
    held_back_by: null,
    completeness: [],
  };
  const { page } = await open(t, {
    prepare: async (page) => {
      await page.route('**/api/v1/**', (route) => {
        const path = new URL(route.request().url()).pathname;
        if (path.endsWith('/overview')) return route.fulfill({ json: empty });
        if (path.endsWith('/aggregates')) return route.continue();
        if (path.endsWith('/live')) return route.abort();
        return route.fulfill({ json: { items: [], next: null, totals: {} } });
      });
    },
  });
  await page.getByTestId('empty').waitFor();
  const words = await page.getByTestId('empty').innerText();
  assert.match(words, /tidewatch demo/);
  assert.match(words, /mosquitto_pub -h 127\.0\.0\.1 .*devices\/my-sensor\/telemetry/);
  for (const tile of ['active', 'rate', 'lag', 'completeness', 'offline']) {
    assert.equal(await text(page, `value-${tile}`), '—', tile);
  }
  assert.match(await text(page, 'tile-active'), /no window has settled yet/);
});
