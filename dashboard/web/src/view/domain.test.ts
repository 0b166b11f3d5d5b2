import { describe, expect, test } from 'vitest';
import { fixedDomain, followDomain } from './domain';

const RANGE = 900_000;
const WINDOW = 10_000;

describe('followDomain', () => {
  test('ends at now, by whole windows, while the data is close', () => {
    expect(followDomain(1_000_000, 1_003_000, RANGE, WINDOW)).toEqual({ from: 110_000, to: 1_010_000 });
    expect(followDomain(1_010_000, 1_009_999, RANGE, WINDOW).to).toBe(1_010_000);
  });

  test('ends at the newest window when that is long ago: a replay shows its own time', () => {
    expect(followDomain(1_000_000, 500_000_000, RANGE, WINDOW).to).toBe(1_000_000);
  });

  test('ends at now when there is no data at all', () => {
    expect(followDomain(null, 1_003_000, RANGE, WINDOW).to).toBe(1_010_000);
  });
});

test('fixedDomain holds the asked end', () => {
  expect(fixedDomain(1_000_000, RANGE, WINDOW)).toEqual({ from: 100_000, to: 1_000_000 });
});
