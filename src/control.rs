//! Changes at run time: from the API into the event log.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use dashboard::control::{
    Change, Control, ControlError, Place, Resent, RuleTest, Submitted, Testing,
};
use event::operate::OPERATION_BYTES_MAX;
use event::{Operation, Record};
use eventlog::{Error, Log, PartitionId};
use processor::alerting::{Matchers, check_rule};
use processor::outbox::{Outbox, ResendError};
use rules::{Rule, RuleError};
use serde_json::Value;
use tokio::sync::Mutex;
use views::Views;

/// Pause between two tries of an append that the disk did not take.
const RETRY: Duration = Duration::from_secs(1);
/// How long a caller waits for its change.
const PATIENCE: Duration = Duration::from_secs(10);

/// Appends changes to the log, one after the other: all partitions get them in the same order.
pub struct LogControl {
    log: Log,
    /// What is declared by now.
    views: Arc<Views>,
    turn: Arc<Mutex<()>>,
    /// There once the processor runs.
    outbox: OnceLock<Outbox>,
    /// One test of a rule at a time: it may read the whole log.
    tests: Arc<Mutex<()>>,
}

impl LogControl {
    /// Over `log`. There must be one only: the order is kept in it. `views` tell what is declared.
    pub fn new(log: Log, views: Arc<Views>) -> Self {
        Self {
            log,
            views,
            turn: Arc::default(),
            outbox: OnceLock::new(),
            tests: Arc::default(),
        }
    }

    /// From now on messages can be sent again.
    pub fn set_outbox(&self, outbox: Outbox) {
        // There is one processor in a life; a second call would name the same.
        let _ = self.outbox.set(outbox);
    }

    async fn resend_message(&self, id: String) -> Result<String, ControlError> {
        let Some(outbox) = self.outbox.get().cloned() else {
            return Err(unavailable("the server is still starting; try again soon"));
        };
        let resent = tokio::task::spawn_blocking(move || outbox.resend(&id)).await;
        let error = match resent {
            Ok(Ok(id)) => return Ok(id),
            Ok(Err(error)) => error,
            Err(error) => error.into(),
        };
        match error.downcast_ref::<ResendError>() {
            Some(reason @ ResendError::NotFound) => Err(ControlError::NotFound(reason.to_string())),
            Some(reason) => Err(ControlError::Conflict(reason.to_string())),
            None => {
                tracing::error!("failed to send a message again: {error:#}");
                Err(unavailable(
                    "it cannot be saved now (a full disk?); try again later",
                ))
            }
        }
    }

    fn all(&self) -> Vec<u16> {
        (0..self.log.partitions()).collect()
    }

    /// Whether a rule fits what is declared.
    fn check_rule(&self, rule: &Rule) -> Result<(), ControlError> {
        if !rule.kind.is_of_groups() {
            return Ok(());
        }
        let declared = self.views.rules();
        let rules: Vec<Rule> = declared
            .iter()
            .filter_map(|r| Rule::from_value(r).ok())
            .collect();
        check_rule(rule, &rules, &self.views.specs()).map_err(invalid_rule)
    }

    fn record(&self, change: Change) -> Result<(Vec<u16>, Record), ControlError> {
        Ok(match change {
            Change::SetAggregate(spec) => (self.all(), Record::SetAggregate(spec)),
            Change::RemoveAggregate(name) => (self.all(), Record::RemoveAggregate(name)),
            Change::SetRule(rule) => {
                let rule = parse_rule(&rule)?;
                self.check_rule(&rule)?;
                (self.all(), Record::SetRule(rule.to_json()))
            }
            Change::RemoveRule(name) => (self.all(), Record::RemoveRule(name)),
            Change::SetDevice { partitions, change } => (partitions, Record::SetDevice(change)),
            Change::Decommission { partitions, device } => {
                (partitions, Record::Decommission(device))
            }
            Change::Operate(operation) => {
                check_operation(&operation)?;
                (vec![0], Record::Operate(operation.to_json()))
            }
            Change::Release { partition, release } => (vec![partition], Record::Release(release)),
            Change::Command { partition, order } => (vec![partition], Record::Command(order)),
            Change::CommandControl { partition, control } => (
                partition.map_or_else(|| self.all(), |p| vec![p]),
                Record::CommandControl(control),
            ),
        })
    }

    async fn append(&self, change: Change) -> Result<Vec<Place>, ControlError> {
        let (partitions, record) = self.record(change)?;
        let record = Bytes::from(record.encode());
        let turn = self.turn.clone();
        let log = self.log.clone();
        // A task of its own: a caller that goes away must not leave a change in some partitions only.
        let task = tokio::spawn(async move {
            let _turn = turn.lock_owned().await;
            let mut places = Vec::with_capacity(partitions.len());
            for partition in partitions {
                places.push(append_to(&log, partition, &record).await?);
            }
            Ok(places)
        });
        match tokio::time::timeout(PATIENCE, task).await {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => {
                tracing::error!(%error, "failed to append a change");
                Err(unavailable("the change may have entered the log in part"))
            }
            Err(_) => Err(unavailable(
                "the log takes nothing now (a full disk?); the change goes in when it does",
            )),
        }
    }
}

impl Control for LogControl {
    fn submit(&self, change: Change) -> Submitted<'_> {
        Box::pin(self.append(change))
    }

    fn resend(&self, id: String) -> Resent<'_> {
        Box::pin(self.resend_message(id))
    }

    fn test_rule(&self, test: RuleTest) -> Testing<'_> {
        let (log, tests) = (self.log.clone(), self.tests.clone());
        Box::pin(async move {
            let Ok(turn) = tests.try_lock_owned() else {
                return Err(unavailable("another rule is being tested; try again"));
            };
            let work = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                crate::backtest::answer(&log, &test)
            });
            work.await
                .unwrap_or_else(|_| Err(unavailable("the test did not end")))
        })
    }
}

/// What alerting would skip is refused here, where somebody hears of it.
fn check_operation(operation: &Operation) -> Result<(), ControlError> {
    let invalid = |field: &str, message: String| ControlError::Invalid {
        field: field.to_owned(),
        message,
    };
    operation
        .check()
        .map_err(|error| invalid(error.field, error.message))?;
    if let Operation::Silence { spec, .. } = operation {
        Matchers::new(&spec.matchers).map_err(|message| invalid("matchers", message))?;
    }
    let size = operation.to_json().len();
    if size > OPERATION_BYTES_MAX {
        let message = format!("has {size} bytes in the log; at most {OPERATION_BYTES_MAX} fit");
        return Err(invalid("body", message));
    }
    Ok(())
}

fn unavailable(message: &str) -> ControlError {
    ControlError::Unavailable(message.to_owned())
}

/// Appends until it is durable. After a failed write nobody knows whether the record is there; twice is the
/// same as once, but a partition without it would differ from the others for ever.
async fn append_to(log: &Log, partition: u16, record: &Bytes) -> Result<Place, ControlError> {
    loop {
        let appended = log.append(PartitionId(partition), vec![record.clone()]);
        match appended.await {
            Ok(appended) => {
                return Ok(Place {
                    partition,
                    offset: appended.first.0,
                });
            }
            Err(error @ (Error::Full { .. } | Error::Io { .. })) => {
                tracing::error!(
                    partition,
                    "failed to append a change: {error}; trying again in {RETRY:?}"
                );
                tokio::time::sleep(RETRY).await;
            }
            Err(error @ (Error::RecordTooLarge { .. } | Error::AppendTooLarge { .. })) => {
                return Err(ControlError::Invalid {
                    field: "body".to_owned(),
                    message: error.to_string(),
                });
            }
            Err(error) => return Err(unavailable(&error.to_string())),
        }
    }
}

/// Reads a rule; the error names the field.
fn parse_rule(rule: &Value) -> Result<Rule, ControlError> {
    Rule::from_value(rule).map_err(invalid_rule)
}

fn invalid_rule(error: RuleError) -> ControlError {
    ControlError::Invalid {
        field: error.field,
        message: error.message,
    }
}

#[cfg(test)]
mod tests {
    use event::{AggregateSpec, RecordRef};
    use serde_json::json;

    use super::*;

    fn open(dir: &std::path::Path) -> Log {
        let settings = eventlog::Settings {
            partitions: 3,
            ..eventlog::Settings::default()
        };
        Log::open(dir, settings, Arc::new(|| 1_700_000_000_000_000)).unwrap()
    }

    fn views() -> Arc<Views> {
        Views::new(3, "test", 0)
    }

    fn names(log: &Log, partition: u16) -> Vec<String> {
        let blocks = log
            .read(PartitionId(partition), eventlog::Offset(0), 1 << 20)
            .unwrap();
        let records = blocks.iter().flat_map(|b| b.records.iter());
        let name = |record: &Bytes| match RecordRef::decode(record).unwrap() {
            RecordRef::Other(Record::SetAggregate(spec)) => spec.name,
            RecordRef::Other(Record::SetRule(json)) => json,
            other => format!("{other:?}"),
        };
        records.map(name).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn all_partitions_get_changes_in_one_order() {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path());
        let control = Arc::new(LogControl::new(log.clone(), views()));
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..20 {
            let control = control.clone();
            tasks.spawn(async move {
                let spec = AggregateSpec {
                    name: format!("a{n}"),
                    ..AggregateSpec::defaults().remove(0)
                };
                let submitted = control.submit(Change::SetAggregate(spec));
                if n % 4 == 0 {
                    // A caller that goes away.
                    let _ = tokio::time::timeout(Duration::from_millis(1), submitted).await;
                    return;
                }
                assert_eq!(submitted.await.unwrap().len(), 3);
            });
        }
        tasks.join_all().await;
        let last = Change::SetRule(json!({"name": "r", "metric": "t", "raise": 1}));
        let places = control.submit(last).await.unwrap();
        let order = names(&log, 0);
        assert!(order.len() > 15 && order.last().unwrap().contains("\"r\""));
        assert_eq!(places[0].offset, order.len() as u64 - 1);
        assert_eq!((names(&log, 1), names(&log, 2)), (order.clone(), order));
        log.close();
    }

    #[tokio::test]
    async fn a_rule_on_groups_must_fit_what_is_declared() {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path());
        let views = views();
        let hot = json!({"name": "hot", "metric": "t", "raise": 1});
        views.expect(AggregateSpec::defaults(), vec![hot]);
        let control = LogControl::new(log.clone(), views);
        let window = |aggregate: &str, field: &str| json!({"name": "w", "kind": "window", "aggregate": aggregate, "field": field, "raise": 1});
        let share = |of: &str, by: &[&str]| json!({"name": "s", "kind": "share", "of": of, "raise": 0.5, "group_by": by});
        for (rule, field, remedy) in [
            (window("by_site", "count"), "aggregate", "fleet, by_metric"),
            (window("fleet", "p99"), "field", "functions"),
            (share("cold", &[]), "of", "declare it first"),
            (share("hot", &["site"]), "group_by", "grouped by [site]"),
        ] {
            match control.submit(Change::SetRule(rule.clone())).await {
                Err(ControlError::Invalid { field: f, message }) => {
                    assert_eq!(f, field, "{rule}");
                    assert!(message.contains(remedy), "{message}");
                }
                other => panic!("{rule}: {other:?}"),
            }
        }
        for rule in [window("fleet", "completeness"), share("hot", &[])] {
            let places = control.submit(Change::SetRule(rule)).await.unwrap();
            assert_eq!(places.len(), 3);
        }
        log.close();
    }

    #[track_caller]
    fn refused(rule: Value, field: &str) {
        match parse_rule(&rule) {
            Err(ControlError::Invalid { field: found, .. }) => assert_eq!(found, field, "{rule}"),
            other => panic!("{rule}: {other:?}"),
        }
    }

    #[test]
    fn a_wrong_rule_is_refused_by_field() {
        refused(json!({"name": "r", "metric": "t"}), "raise");
        refused(json!({"name": "r", "metric": "t", "raise": "1"}), "raise");
        refused(json!({"name": "r", "metric": 1, "raise": 1}), "metric");
        let rule = |key: &str, value: Value| {
            let mut rule = json!({"name": "r", "metric": "t", "raise": 1});
            rule[key] = value;
            rule
        };
        refused(rule("clear", json!(2)), "clear");
        refused(rule("direction", json!("up")), "direction");
        refused(rule("for", json!("soon")), "for");
        refused(rule("kind", json!("magic")), "kind");
        refused(rule("labels", json!({"team": 5})), "labels.team");
        for kind in [
            json!({"name": "r", "metric": "t", "kind": "silence", "after": "5m"}),
            json!({"name": "r", "metric": "t", "kind": "rate", "raise": 5, "within": "1m"}),
            json!({"name": "r", "kind": "offline", "after": "5m"}),
        ] {
            assert!(parse_rule(&kind).is_ok(), "{kind}");
        }
        refused(rule("name", json!("a b")), "name");
        refused(rule("rise", json!(2)), "rise");
        assert!(parse_rule(&rule("clear", Value::Null)).is_ok());
    }
}
