//! What changed: for the live stream.

use std::sync::PoisonError;

use super::{Changes, Views, read};
use crate::model::Row;
use crate::oncall::MarkedAlert;
use crate::part::RowState;

/// Open rows that are watched for settling by themselves.
const SHOWN_OPEN_MAX: usize = 500;
/// Looks into the past for one frame: rows beyond it count as dropped.
const LOOKUPS_MAX: usize = 100;

impl Views {
    /// What changed since the last call. For one consumer: the task that feeds the live stream. May read
    /// from disk.
    pub fn take_changes(&self) -> Changes {
        let pending = std::mem::take(&mut *self.pending());
        let declared = read(&self.declared).clone();
        let mut open = self
            .shown_open
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut windows: Vec<Row> = Vec::new();
        let (mut lookups, mut dropped) = (LOOKUPS_MAX, pending.dropped);
        for (slot, start, group) in &pending.rows {
            let Some(spec) = declared.slot(*slot) else {
                continue;
            };
            let before = lookups;
            let row = match self.row(spec, group, *start, &mut lookups) {
                Ok(Some(row)) => row,
                Ok(None) => continue,
                Err(_) => {
                    dropped += 1;
                    continue;
                }
            };
            let key = (*start, *slot, group.clone());
            // One that needs the past is not watched: it would be asked for every time.
            if row.state == RowState::Open.as_str() && before == lookups {
                open.insert(key);
            } else {
                open.remove(&key);
            }
            windows.push(row);
        }
        open.retain(|(start, slot, group)| {
            if pending.rows.contains(&(*slot, *start, group.clone())) {
                return true;
            }
            let Some(spec) = declared.slot(*slot) else {
                return false;
            };
            let row = self.row(spec, group, *start, &mut lookups);
            let Ok(Some(row)) = row else { return false };
            let stays = row.state == RowState::Open.as_str();
            if !stays {
                windows.push(row);
            }
            stays
        });
        while open.len() > SHOWN_OPEN_MAX {
            open.pop_first();
        }
        drop(open);
        // What is dropped has no marks any more.
        let gone = pending.dropped_alerts.iter().cloned();
        let mut alerts: Vec<MarkedAlert> = gone.map(MarkedAlert::from).collect();
        for part in &self.parts {
            let part = read(part);
            let on_call = read(&self.on_call);
            alerts.extend(
                pending
                    .alerts
                    .iter()
                    .filter_map(|id| Some(on_call.marked(part.alerts.get(id)?))),
            );
        }
        let pages = pending.pages.iter();
        let pages = pages.filter_map(|key| self.alert_page(key)).collect();
        Changes {
            windows,
            dropped,
            alerts,
            pages,
            commands: pending.commands.into_values().collect(),
            commands_dropped: pending.commands_dropped,
            overview: pending.overview,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use event::AggregateSpec;

    use super::*;
    use crate::completeness::IndexBuilder;
    use crate::model::Totals;
    use crate::part::{Group, RowPart, StatusCounts};
    use crate::store::{SECOND, SETTLE_DEADLINE};
    use crate::testing::part;

    #[test]
    fn a_row_that_settles_without_a_new_record_is_shown_again() {
        let views = Views::new(2, "test", 0);
        let mut spec = AggregateSpec::defaults().remove(0);
        spec.window = 10 * SECOND;
        spec.hop = 10 * SECOND;
        for partition in 0..2 {
            views.declare(partition, vec![(0, spec.clone())], Vec::new());
        }
        let group: Group = [].into();
        for partition in 0..2 {
            let mut index = IndexBuilder::default();
            // Partition 0 is done with the first window, partition 1 is not and has no event of it.
            let progress = if partition == 0 { 100 } else { 5 };
            index.add(1, SECOND, progress * SECOND, 100 * SECOND);
            views.put_index(partition, 0, &group, Arc::new(index.build()));
        }
        let row = RowPart {
            state: RowState::Settled,
            ..part(0, &[], 0, 1)
        };
        views.put_rows(0, vec![row]);
        let states = |now: i64| {
            for partition in 0..2 {
                let (totals, status) = (Totals::default(), StatusCounts::default());
                views.put_summary(partition, now, totals, status, None);
            }
            let rows = views.take_changes().windows;
            rows.iter().map(|r| r.state).collect::<Vec<_>>()
        };
        assert_eq!(states(100 * SECOND), ["open"]);
        assert_eq!(states(101 * SECOND), [""; 0]);
        assert_eq!(states(10 * SECOND + SETTLE_DEADLINE), ["settled"]);
        assert_eq!(states(11 * SECOND + SETTLE_DEADLINE), [""; 0]);
    }
}
