/** The path of a sparkline that fills `width` × `height`; '' for fewer than two points. */
export function sparkPath(values: readonly (number | null)[], width: number, height: number): string {
  const known = values.filter((value): value is number => value !== null && Number.isFinite(value));
  if (known.length < 2) return '';
  const low = Math.min(...known);
  const high = Math.max(...known);
  const inset = 2;
  // A steady value is a line in the middle, not noise blown up to full height.
  const y = (value: number): number =>
    high === low ? height / 2 : height - inset - ((value - low) / (high - low)) * (height - 2 * inset);
  let path = '';
  let pen = 'M';
  values.forEach((value, i) => {
    if (value === null || !Number.isFinite(value)) {
      pen = 'M'; // a gap stays a gap
      return;
    }
    path += `${pen}${round((i / (values.length - 1)) * width)} ${round(y(value))}`;
    pen = 'L';
  });
  return path;
}

const round = (n: number): number => Math.round(n * 10) / 10;
