import { computed, signal } from '@preact/signals';
import { view } from '../model/store';
import type { Theme } from '../view/url';

const query = matchMedia('(prefers-color-scheme: light)');
const preferred = signal<Theme>(query.matches ? 'light' : 'dark');
query.addEventListener('change', () => (preferred.value = query.matches ? 'light' : 'dark'));

/** The theme on the screen: the chosen one, else the system's. */
export const theme = computed<Theme>(() => view.value.theme ?? preferred.value);

/** The value of a colour of the style sheet, for what is drawn on a canvas. */
export function colour(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}
