//! What the log holds about commands: who gave them and why, and what steers them.
//!
//! [`crate::Command`] is what a device gets; an [`Order`] is the cloud's record of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::command::{Command, State};
use crate::{DecodeError, DeviceId, MetricName, SpecError};

/// Most arguments of a command.
pub const ARGS_MAX: usize = 16;
/// Most bytes of all names and values of a command's arguments together.
pub const ARGS_BYTES_MAX: usize = 1024;
/// Shortest and longest life of a command, microseconds: 1 s to 30 days (agents take no longer one).
pub const TTL: std::ops::RangeInclusive<i64> = 1_000_000..=30 * 86_400_000_000;
/// Longest author, bytes.
pub const BY_BYTES_MAX: usize = 128;
/// Longest reason, bytes.
pub const WHY_BYTES_MAX: usize = 512;
/// Most devices of a rollout.
pub const TARGETS_MAX: usize = 10_000;
/// Longest id of a rollout, bytes: ids of its commands are made from it.
pub const ROLLOUT_ID_BYTES_MAX: usize = 128;

/// Where an order comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// Somebody gave it for this device.
    ByHand,
    /// The rule of that name.
    Rule(String),
    /// The rollout with that id.
    Rollout(String),
}

/// A command to a device, with what an audit needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Stable id. A second order with the same id changes nothing.
    pub id: String,
    /// The device.
    pub device: DeviceId,
    /// Name on the device's allow-list.
    pub name: String,
    /// Values for the allow-list's argument template.
    pub args: BTreeMap<String, String>,
    /// How long after it entered the log it may start, microseconds; within [`TTL`].
    pub ttl: i64,
    /// Who gave it, for people.
    pub by: String,
    /// Why, for people.
    pub why: String,
    /// Where it comes from.
    pub origin: Origin,
    /// The alert that it answers.
    pub alert: Option<String>,
    /// It is only recorded, never sent.
    pub dry_run: bool,
    /// It is sent although the stop switch is on.
    pub force: bool,
}

fn wrong<T>(field: &'static str, message: impl Into<String>) -> Result<T, SpecError> {
    let message = message.into();
    Err(SpecError { field, message })
}

fn check_text(field: &'static str, text: &str, max: usize) -> Result<(), SpecError> {
    if text.len() > max {
        return wrong(
            field,
            format!("has {} bytes; at most {max} are taken", text.len()),
        );
    }
    Ok(())
}

/// Checks the name of a command as the allow-lists of agents have them.
fn check_name(name: &str) -> Result<(), SpecError> {
    match MetricName::check(name) {
        Ok(()) if !name.starts_with('@') => Ok(()),
        _ => wrong(
            "name",
            "must be the name of an entry of the device's allow-list: 1 to 64 of A-Z a-z 0-9 _ . -",
        ),
    }
}

fn check_args(args: &BTreeMap<String, String>) -> Result<(), SpecError> {
    if args.len() > ARGS_MAX {
        return wrong(
            "args",
            format!("has {} entries; at most {ARGS_MAX} are taken", args.len()),
        );
    }
    let bytes: usize = args.iter().map(|(k, v)| k.len() + v.len()).sum();
    if bytes > ARGS_BYTES_MAX {
        return wrong(
            "args",
            format!("has {bytes} bytes; at most {ARGS_BYTES_MAX} are taken"),
        );
    }
    Ok(())
}

fn check_ttl(ttl: i64) -> Result<(), SpecError> {
    match TTL.contains(&ttl) {
        true => Ok(()),
        false => wrong("ttl", "must be between \"1s\" and \"30d\""),
    }
}

impl Order {
    /// Checks everything but whether the device is known.
    ///
    /// **Errors**: the field, what is wrong with it and what would be right. Such a record does not decode
    /// either.
    pub fn check(&self) -> Result<(), SpecError> {
        if let Err(message) = Command::check_id(&self.id) {
            return wrong("id", message);
        }
        check_name(&self.name)?;
        check_args(&self.args)?;
        check_ttl(self.ttl)?;
        check_text("by", &self.by, BY_BYTES_MAX)?;
        check_text("why", &self.why, WHY_BYTES_MAX)?;
        check_text("alert", self.alert.as_deref().unwrap_or_default(), 256)?;
        match &self.origin {
            Origin::ByHand => Ok(()),
            Origin::Rule(of) | Origin::Rollout(of) => {
                check_text("origin", of, ROLLOUT_ID_BYTES_MAX)
            }
        }
    }
}

/// A command to many devices: the first ones, and when they have succeeded the rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutOrder {
    /// Stable id. A second rollout with the same id changes nothing.
    pub id: String,
    /// Name on the devices' allow-lists.
    pub name: String,
    /// Values for the argument template.
    pub args: BTreeMap<String, String>,
    /// How long each command may start, counted from when it is released, microseconds.
    pub ttl: i64,
    /// Who, for people.
    pub by: String,
    /// Why, for people.
    pub why: String,
    /// The devices and the partitions that know them, in the order in which they get it.
    pub targets: Vec<(u16, DeviceId)>,
    /// So many must succeed before the rest; 0 = none.
    pub canary: u32,
    /// So many may be under way at a time; 0 = no limit.
    pub at_once: u32,
    /// So many of the rest may fail without stopping it.
    pub failures_max: u32,
    /// The commands are only recorded, never sent.
    pub dry_run: bool,
}

impl RolloutOrder {
    /// Checks everything but whether the devices are known.
    ///
    /// **Errors**: as [`Order::check`].
    pub fn check(&self) -> Result<(), SpecError> {
        if let Err(message) = Command::check_id(&self.id) {
            return wrong("id", message);
        }
        check_text("id", &self.id, ROLLOUT_ID_BYTES_MAX)?;
        check_name(&self.name)?;
        check_args(&self.args)?;
        check_ttl(self.ttl)?;
        check_text("by", &self.by, BY_BYTES_MAX)?;
        check_text("why", &self.why, WHY_BYTES_MAX)?;
        match self.targets.len() {
            0 => wrong("devices", "there is none; name at least one device"),
            n if n > TARGETS_MAX => wrong(
                "devices",
                format!("there are {n}; at most {TARGETS_MAX} are taken"),
            ),
            _ => Ok(()),
        }
    }

    /// The id of the command to the target at `index`.
    pub fn command_id(&self, index: usize) -> String {
        format!("{}:{}", self.id, index + 1)
    }
}

/// What steers commands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CommandControl {
    /// Take a command back, if it was not sent yet.
    Cancel {
        /// Its id.
        id: String,
        /// Who.
        by: String,
    },
    /// The stop switch: while it is on, no command is sent but a forced one. In every partition.
    Stop {
        /// On, or off again.
        on: bool,
        /// Who.
        by: String,
        /// Why.
        why: String,
    },
    /// Begin a rollout. In partition 0.
    Rollout(RolloutOrder),
    /// Stop a rollout, or go on with one that stopped; the same for the commands of a rule, whose key is the
    /// rule's name. In partition 0.
    Steer {
        /// The rollout's id, or none if a rule is meant.
        rollout: Option<String>,
        /// The rule's name, if a rule is meant.
        rule: Option<String>,
        /// Go on (with a canary again), or stop.
        go_on: bool,
        /// Who.
        by: String,
        /// Why.
        why: String,
    },
    /// What became of a command of a rollout, told to partition 0 by the partition of its device. The same
    /// twice counts once.
    Outcome {
        /// The rollout.
        rollout: String,
        /// The command.
        id: String,
        /// How it ended; none if it was taken back.
        state: Option<State>,
    },
}

impl CommandControl {
    /// Checks it.
    ///
    /// **Errors**: as [`Order::check`].
    pub fn check(&self) -> Result<(), SpecError> {
        match self {
            Self::Cancel { id, by } => {
                check_text("id", id, crate::command::ID_BYTES_MAX)?;
                check_text("by", by, BY_BYTES_MAX)
            }
            Self::Stop { by, why, .. } => {
                check_text("by", by, BY_BYTES_MAX)?;
                check_text("why", why, WHY_BYTES_MAX)
            }
            Self::Rollout(order) => order.check(),
            Self::Steer {
                rollout,
                rule,
                by,
                why,
                ..
            } => {
                for key in [rollout, rule].into_iter().flatten() {
                    check_text("id", key, ROLLOUT_ID_BYTES_MAX)?;
                }
                check_text("by", by, BY_BYTES_MAX)?;
                check_text("why", why, WHY_BYTES_MAX)
            }
            Self::Outcome { rollout, id, .. } => {
                check_text("id", rollout, ROLLOUT_ID_BYTES_MAX)?;
                check_text("id", id, crate::command::ID_BYTES_MAX)
            }
        }
    }
}

/// A record that decodes but breaks the rules above is one of a newer version, or of other hands.
pub(crate) fn checked<T>(
    value: T,
    check: impl FnOnce(&T) -> Result<(), SpecError>,
    what: &'static str,
) -> Result<T, DecodeError> {
    match check(&value) {
        Ok(()) => Ok(value),
        Err(_) => Err(DecodeError::Invalid { what, at: 1 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Record, RecordRef};

    fn order() -> Order {
        Order {
            id: "c1".to_owned(),
            device: DeviceId::new("d1").unwrap(),
            name: "fan".to_owned(),
            args: [("on".to_owned(), "1".to_owned())].into(),
            ttl: 1_000_000,
            by: "ann".to_owned(),
            why: "hot".to_owned(),
            origin: Origin::Rule("r".to_owned()),
            alert: Some("a".to_owned()),
            dry_run: false,
            force: true,
        }
    }

    fn rollout() -> RolloutOrder {
        let Order {
            id,
            device,
            name,
            args,
            ttl,
            by,
            why,
            ..
        } = order();
        RolloutOrder {
            id,
            name,
            args,
            ttl,
            by,
            why,
            targets: vec![(3, device)],
            canary: 1,
            at_once: 50,
            failures_max: 0,
            dry_run: false,
        }
    }

    fn hex(text: &str) -> Vec<u8> {
        let byte = |t: &str| u8::from_str_radix(t, 16).unwrap();
        text.split_whitespace().map(byte).collect()
    }

    #[track_caller]
    fn written(record: Record, expected: &str) {
        let bytes = record.encode();
        assert_eq!(bytes, hex(expected), "{bytes:02x?}");
        assert_eq!(RecordRef::decode(&bytes), Ok(RecordRef::Other(record)));
    }

    #[test]
    fn bytes_are_those_of_the_format_page() {
        written(
            Record::Command(order()),
            "12 02 63 31 02 64 31 03 66 61 6e 01 02 6f 6e 01 31 80 89 7a 03 61 6e 6e 03 68 6f 74 \
             01 01 72 01 01 61 00 01",
        );
        let control = |control, expected| written(Record::CommandControl(control), expected);
        let (id, by) = ("c1".to_owned(), "ann".to_owned());
        control(
            CommandControl::Cancel {
                id: id.clone(),
                by: by.clone(),
            },
            "13 00 02 63 31 03 61 6e 6e",
        );
        control(
            CommandControl::Stop {
                on: true,
                by: by.clone(),
                why: String::new(),
            },
            "13 01 01 03 61 6e 6e 00",
        );
        control(
            CommandControl::Rollout(rollout()),
            "13 02 02 63 31 03 66 61 6e 01 02 6f 6e 01 31 80 89 7a 03 61 6e 6e 03 68 6f 74 \
             01 03 02 64 31 01 32 00 00",
        );
        control(
            CommandControl::Steer {
                rollout: None,
                rule: Some("r".to_owned()),
                go_on: true,
                by,
                why: String::new(),
            },
            "13 03 00 01 01 72 01 03 61 6e 6e 00",
        );
        control(
            CommandControl::Outcome {
                rollout: "r".to_owned(),
                id,
                state: Some(State::Failed),
            },
            "13 04 01 72 02 63 31 01 02",
        );
    }

    #[test]
    fn what_cannot_be_right_names_its_field_and_does_not_decode() {
        let refused = |change: &dyn Fn(&mut Order), field: &str| {
            let mut order = order();
            change(&mut order);
            assert_eq!(order.check().unwrap_err().field, field);
            let read = RecordRef::decode(&Record::Command(order).encode()).map(|_| ());
            assert!(matches!(read, Err(DecodeError::Invalid { .. })), "{read:?}");
        };
        refused(&|o| o.id = "a b".to_owned(), "id");
        refused(&|o| o.id = "x".repeat(257), "id");
        refused(&|o| o.name = "rm -rf".to_owned(), "name");
        refused(&|o| o.name = "@site".to_owned(), "name");
        refused(&|o| o.ttl = 999_999, "ttl");
        refused(&|o| o.ttl = 31 * 86_400_000_000, "ttl");
        refused(&|o| o.by = "x".repeat(129), "by");
        refused(&|o| o.why = "x".repeat(513), "why");
        refused(&|o| o.alert = Some("x".repeat(257)), "alert");
        refused(&|o| o.origin = Origin::Rule("x".repeat(129)), "origin");
        let many = |n: usize| (0..n).map(|i| (i.to_string(), String::new())).collect();
        refused(&|o| o.args = many(17), "args");
        refused(
            &|o| {
                o.args.insert("k".to_owned(), "x".repeat(1024));
            },
            "args",
        );
        let mut none = rollout();
        none.targets.clear();
        assert_eq!(none.check().unwrap_err().field, "devices");
        let mut many = rollout();
        many.targets = vec![(0, DeviceId::new("d").unwrap()); TARGETS_MAX + 1];
        assert_eq!(many.check().unwrap_err().field, "devices");
        assert_eq!(rollout().command_id(0), "c1:1");
    }
}
