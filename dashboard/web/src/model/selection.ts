import type { Aggregate, Group } from '../api/types';

export interface Selection {
  aggregate: Aggregate;
  group: Group;
}

/** The metric that a first look shows, if the fleet has it. */
const PREFERRED_METRIC = 'temperature';

/** What the chart shows: what the address asks for if it exists, else the most telling there is. */
export function select(
  aggregates: readonly Aggregate[],
  wanted: string | null,
  group: Group,
  defaultAggregate: string | null,
): Selection | null {
  const asked = wanted === null ? undefined : aggregates.find((aggregate) => aggregate.name === wanted);
  // min, max and mean over all metrics together say little; one metric of them says more.
  const aggregate =
    asked ??
    aggregates.find((candidate) => candidate.group_by.length === 1 && candidate.group_by[0] === 'metric' && candidate.groups.length > 0) ??
    aggregates.find((candidate) => candidate.name === defaultAggregate) ??
    aggregates[0];
  if (!aggregate) return null;
  if (aggregate.group_by.length === 0) return { aggregate, group: {} };
  // A group that is not (yet) among the known ones may still be asked for by a link.
  if (asked && aggregate.group_by.every((key) => group[key] !== undefined)) {
    return { aggregate, group: Object.fromEntries(aggregate.group_by.map((key) => [key, group[key]!])) };
  }
  const first = aggregate.groups.find((known) => known['metric'] === PREFERRED_METRIC) ?? aggregate.groups[0];
  return { aggregate, group: first ?? {} };
}

/** `temperature`, or `site=plant-1 · metric=temperature` where the values alone would not say it. */
export function groupName(group: Group): string {
  const keys = Object.keys(group).sort();
  if (keys.length === 0) return 'whole fleet';
  if (keys.length === 1) return group[keys[0]!]!;
  return keys.map((key) => `${key}=${group[key]}`).join(' · ');
}

/** The groups an aggregate is known to have, plus one that a live row has shown. */
export const GROUPS_MAX = 100;

export function withGroup(aggregate: Aggregate, group: Group): Aggregate {
  if (aggregate.groups.length >= GROUPS_MAX) return aggregate;
  const name = groupName(group);
  if (aggregate.groups.some((known) => groupName(known) === name)) return aggregate;
  const groups = [...aggregate.groups, group].sort((a, b) => (groupName(a) < groupName(b) ? -1 : 1));
  return { ...aggregate, groups };
}
