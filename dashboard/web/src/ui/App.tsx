import { empty, link, paused } from '../model/store';
import { Alerts } from './Alerts';
import { Announcer } from './Announcer';
import { ChartPanel } from './ChartPanel';
import { Empty } from './Empty';
import { Help } from './Help';
import { Ledger } from './Ledger';
import { StatusBar } from './StatusBar';
import { StripPanel } from './StripPanel';
import { Tiles } from './Tiles';
import { useShortcuts } from './shortcuts';

export function App() {
  useShortcuts();
  const state = paused.value ? 'paused' : link.value.state;
  return (
    <div class="page" data-link={state}>
      <a class="skip" href="#overview">
        Skip to the overview
      </a>
      <StatusBar />
      <main id="overview" tabIndex={-1}>
        <h1 class="hidden">Fleet overview</h1>
        {empty.value && <Empty />}
        <Tiles />
        <StripPanel />
        <div class="columns">
          <div class="column">
            <ChartPanel />
            <Ledger />
          </div>
          <Alerts />
        </div>
      </main>
      <Help />
      <Announcer />
    </div>
  );
}
