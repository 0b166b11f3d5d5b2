import { effect } from '@preact/signals';
import { render } from 'preact';
import './style.css';
import 'uplot/dist/uPlot.min.css';
import { start, view } from './model/store';
import { App } from './ui/App';

effect(() => {
  const { theme } = view.value;
  if (theme === null) delete document.documentElement.dataset['theme'];
  else document.documentElement.dataset['theme'] = theme;
});

render(<App />, document.getElementById('app')!);
start();
