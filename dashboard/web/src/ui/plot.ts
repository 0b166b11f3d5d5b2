import uPlot from 'uplot';
import { bandRuns, type ChartData } from '../view/chart';
import type { Domain } from '../view/domain';
import { clock, clockMinutes, measure, offsetMinutes, type Zone } from '../view/format';
import { timeTicks } from '../view/ticks';
import { colour } from './theme';

export interface PlotInput {
  data: ChartData;
  domain: Domain;
  zone: Zone;
}

export const PLOT_HEIGHT = 250;

/** One uPlot: the line of the mean, the band of min and max below it, and a cursor. */
export class Plot {
  private readonly plot: uPlot;

  constructor(
    target: HTMLElement,
    width: number,
    private input: PlotInput,
    onCursor: (index: number | null) => void,
  ) {
    const text = colour('muted');
    const grid = colour('grid');
    const line = colour('accent');
    const font = `11px ${getComputedStyle(document.body).fontFamily}`;
    const axis = { stroke: text, font, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1, size: 4 } };
    const series = (dash?: number[]): uPlot.Series => ({
      stroke: line,
      width: 2,
      ...(dash ? { dash } : {}),
      spanGaps: false,
      // A lone window between two gaps has no line; without a point it would not be seen.
      points: { show: (u, i, from, to) => lonePoints(u, i, from, to).length > 0, filter: (u, i) => lonePoints(u, i, 0, u.data[0].length - 1), size: 5, fill: line },
    });
    // Drawn by the hook below; here only so that the scale holds them.
    const unseen: uPlot.Series = { paths: () => null, points: { show: false } };
    this.plot = new uPlot(
      {
        width,
        height: PLOT_HEIGHT,
        padding: [8, 8, 0, 0],
        legend: { show: false },
        cursor: { y: false, drag: { x: false, y: false }, points: { size: 7, fill: line } },
        scales: { x: { time: false, range: () => this.xRange() }, y: { range: (_, low, high) => padded(low, high) } },
        axes: [
          { ...axis, size: 26, gap: 6, splits: () => this.ticks(), values: (_, at) => this.labels(at) },
          { ...axis, size: (_, values) => axisSize(values), gap: 6, values: (_, at) => at.map((value) => measure(value)) },
        ],
        series: [{}, unseen, unseen, series(), series([5, 4])],
        hooks: {
          drawAxes: [(u) => this.band(u)],
          setCursor: [(u) => onCursor(u.cursor.idx ?? null)],
        },
      },
      columns(input.data),
      target,
    );
  }

  update(input: PlotInput): void {
    this.input = input;
    this.plot.setData(columns(input.data));
  }

  resize(width: number): void {
    if (width !== this.plot.width) this.plot.setSize({ width, height: PLOT_HEIGHT });
  }

  destroy(): void {
    this.plot.destroy();
  }

  private xRange(): [number, number] {
    return [this.input.domain.from / 1000, this.input.domain.to / 1000];
  }

  private ticks(): number[] {
    const { domain, zone } = this.input;
    const most = Math.max(2, Math.floor(this.plot.width / 90));
    return timeTicks(domain.from, domain.to, most, offsetMinutes(domain.to, zone)).map((ms) => ms / 1000);
  }

  private labels(at: number[]): string[] {
    const seconds = at.some((second) => second % 60 !== 0);
    return at.map((second) => (seconds ? clock(second * 1000, this.input.zone) : clockMinutes(second * 1000, this.input.zone)));
  }

  private band(u: uPlot): void {
    const { data } = this.input;
    const { ctx } = u;
    const { left, top, width, height } = u.bbox;
    const fill = colour('accent');
    const x = (i: number): number => u.valToPos(data.x[i]!, 'x', true);
    const y = (value: number): number => u.valToPos(value, 'y', true);
    ctx.save();
    ctx.beginPath();
    ctx.rect(left, top, width, height);
    ctx.clip();
    ctx.fillStyle = fill;
    for (const run of bandRuns(data)) {
      ctx.globalAlpha = run.weak ? 0.12 : 0.24;
      ctx.beginPath();
      if (run.from === run.to) {
        // A window by itself: a bar of its own width.
        const half = data.x.length > 1 ? Math.abs(x(1) - x(0)) / 4 : 4;
        const topEdge = y(data.max[run.from]!);
        ctx.rect(x(run.from) - half, topEdge, 2 * half, Math.max(1, y(data.min[run.from]!) - topEdge));
      } else {
        for (let i = run.from; i <= run.to; i++) ctx.lineTo(x(i), y(data.max[i]!));
        for (let i = run.to; i >= run.from; i--) ctx.lineTo(x(i), y(data.min[i]!));
        ctx.closePath();
      }
      ctx.fill();
    }
    ctx.restore();
  }
}

function columns(data: ChartData): uPlot.AlignedData {
  return [data.x, data.min, data.max, data.solid, data.dashed];
}

function lonePoints(u: uPlot, series: number, from: number, to: number): number[] {
  const values = u.data[series]!;
  const found: number[] = [];
  for (let i = from; i <= to; i++) {
    if (values[i] != null && values[i - 1] == null && values[i + 1] == null) found.push(i);
  }
  return found;
}

function padded(low: number | null, high: number | null): [number, number] {
  if (low === null || high === null || !Number.isFinite(low) || !Number.isFinite(high)) return [0, 1];
  if (low === high) {
    const room = Math.abs(low) * 0.1 || 1;
    return [low - room, high + room];
  }
  const room = (high - low) * 0.08;
  // Counts start at 0; a scale must not dip below it only for looks.
  return [low >= 0 && low - room < 0 ? 0 : low - room, high + room];
}

function axisSize(values: string[] | null): number {
  const longest = Math.max(3, ...(values ?? []).map((value) => value.length));
  return 14 + longest * 6.5;
}
