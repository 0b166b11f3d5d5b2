//! The allow-list: which programs may be started, with which arguments.
//!
//! Pure. A template entry becomes exactly one argument of the program, whatever the values hold: there
//! is no shell, and values are never read as templates.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use event::DeviceId;

/// The placeholder for the device that a command is for.
pub(crate) const DEVICE: &str = "device";

/// One `[[command]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    /// What commands call it.
    pub name: String,
    /// The program, an absolute path.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<Template>,
    /// What the values of each placeholder may be. [`DEVICE`] needs no entry.
    pub limits: BTreeMap<String, Limit>,
    /// Devices behind the agent that it may be for, beside the agent itself.
    pub devices: Vec<DeviceId>,
    /// How long it may run.
    pub timeout: Duration,
    /// How long it may go on when the agent stops.
    pub stop_grace: Duration,
    /// Whom to run it as; none = as the agent.
    pub user: Option<String>,
    /// Working directory.
    pub dir: PathBuf,
    /// Its environment beside `PATH`.
    pub env: BTreeMap<String, String>,
    /// The end of its output that is kept, bytes.
    pub output_bytes_max: usize,
    /// Most starts in an hour.
    pub max_per_hour: u32,
    /// Decide and report, but start nothing.
    pub dry_run: bool,
}

impl Allowed {
    /// Whether it takes these arguments, and whether they are all that it needs beside [`DEVICE`].
    ///
    /// **Errors**: the argument and what is wrong with it, for people.
    pub(crate) fn check_args(&self, args: &BTreeMap<String, String>) -> Result<(), String> {
        let names: BTreeSet<&str> = self.args.iter().flat_map(Template::names).collect();
        for (key, value) in args {
            let limit = self.limits.get(key);
            let Some(limit) = limit.filter(|_| names.contains(key.as_str())) else {
                return Err(format!(
                    "{:?} takes no argument {:?}",
                    self.name,
                    shown(key)
                ));
            };
            limit
                .check(value)
                .map_err(|reason| format!("argument {key:?}: {reason}"))?;
        }
        match names
            .iter()
            .find(|n| **n != DEVICE && !args.contains_key(**n))
        {
            Some(name) => Err(format!("the argument {name:?} is missing")),
            None => Ok(()),
        }
    }
}

/// What the values of an argument may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Limit {
    /// One of these.
    OneOf(Vec<String>),
    /// 1 to `max_length` characters of a set, not beginning with `-`.
    Text {
        /// Most characters.
        max_length: usize,
        /// Which ones.
        characters: Characters,
    },
}

impl Limit {
    /// **Errors**: why the value is not allowed.
    fn check(&self, value: &str) -> Result<(), String> {
        match self {
            Self::OneOf(values) if values.iter().any(|v| v == value) => Ok(()),
            Self::OneOf(_) => Err(format!("{:?} is not an allowed value", shown(value))),
            Self::Text { .. } if value.is_empty() => Err("it is empty".to_owned()),
            Self::Text { .. } if value.starts_with('-') => Err(format!(
                "{:?} begins with \"-\", which a program may take for an option",
                shown(value)
            )),
            Self::Text {
                max_length,
                characters,
            } => {
                let length = value.chars().count();
                if length > *max_length {
                    return Err(format!("{length} characters, more than {max_length}"));
                }
                match value
                    .chars()
                    .enumerate()
                    .find(|(_, c)| !characters.contains(*c))
                {
                    Some((at, c)) => Err(format!("{c:?} at character {at} is not allowed")),
                    None => Ok(()),
                }
            }
        }
    }
}

/// As much of a stranger's text as belongs into a message.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

/// A set of characters, written as in `A-Za-z0-9_.-`: ranges, and single ones; a `-` at the begin or
/// the end stands for itself. Control characters are in no set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Characters(Vec<(char, char)>);

impl Characters {
    /// What values may hold where nothing else is said.
    pub const DEFAULT: &str = "A-Za-z0-9_.:@/-";

    /// Reads a set.
    ///
    /// **Errors**: an empty set, a range that goes down, a control character.
    pub fn new(text: &str) -> Result<Self, String> {
        let mut ranges = Vec::new();
        let mut rest = text.chars().peekable();
        while let Some(from) = rest.next() {
            let mut ahead = rest.clone();
            let to = match (ahead.next(), ahead.next()) {
                (Some('-'), Some(to)) => {
                    rest = ahead;
                    to
                }
                _ => from,
            };
            if from > to {
                return Err(format!("the range {from}-{to} goes down"));
            }
            if from.is_control() || to.is_control() {
                return Err("control characters cannot be allowed".to_owned());
            }
            ranges.push((from, to));
        }
        if ranges.is_empty() {
            return Err("is empty; leave it out for A-Za-z0-9_.:@/-".to_owned());
        }
        Ok(Self(ranges))
    }

    fn contains(&self, c: char) -> bool {
        !c.is_control() && self.0.iter().any(|(from, to)| (*from..=*to).contains(&c))
    }
}

/// One argument of a program: text with placeholders, as `--unit={service}.service`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Value(String),
}

/// Why a text is no template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A brace without its partner.
    #[error("{0:?} has a brace without its partner; write {{{{ and }}}} for braces themselves")]
    Brace(String),
    /// No name between braces, or one with other characters than A-Z a-z 0-9 _.
    #[error("{0:?}: a placeholder is {{name}} with a name of A-Z a-z 0-9 _")]
    Name(String),
    /// A program cannot be given a NUL.
    #[error("{0:?} has a NUL character")]
    Nul(String),
}

impl Template {
    /// Reads a template; `{{` and `}}` stand for braces.
    ///
    /// **Errors**: which part is wrong.
    pub fn new(text: &str) -> Result<Self, TemplateError> {
        if text.contains('\0') {
            return Err(TemplateError::Nul(text.to_owned()));
        }
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text.chars().peekable();
        while let Some(c) = rest.next() {
            match c {
                '{' | '}' if rest.peek() == Some(&c) => {
                    rest.next();
                    plain.push(c);
                }
                '}' => return Err(TemplateError::Brace(text.to_owned())),
                '{' => {
                    let mut name = String::new();
                    loop {
                        match rest.next() {
                            Some('}') => break,
                            Some(c) => name.push(c),
                            None => return Err(TemplateError::Brace(text.to_owned())),
                        }
                    }
                    if !is_argument_name(&name) {
                        return Err(TemplateError::Name(text.to_owned()));
                    }
                    if !plain.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut plain)));
                    }
                    parts.push(Part::Value(name));
                }
                c => plain.push(c),
            }
        }
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self(parts))
    }

    /// Its placeholders.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|p| match p {
            Part::Value(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    pub(crate) fn fill(&self, values: &BTreeMap<String, String>) -> Result<String, String> {
        let mut out = String::new();
        for part in &self.0 {
            out.push_str(match part {
                Part::Text(text) => text,
                Part::Value(name) => match values.get(name) {
                    Some(value) => value,
                    None => return Err(format!("the argument {name:?} is missing")),
                },
            });
        }
        Ok(out)
    }
}

fn is_argument_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The entry that a command names, and the arguments that its program gets.
///
/// **Errors**: why the command is refused, for people.
pub(crate) fn argv(
    list: &[Allowed],
    agent: &str,
    device: &DeviceId,
    name: &str,
    args: &BTreeMap<String, String>,
) -> Result<(usize, Vec<String>), String> {
    let Some((index, allowed)) = list.iter().enumerate().find(|(_, a)| a.name == name) else {
        let names: Vec<&str> = list.iter().map(|a| a.name.as_str()).collect();
        let hint = match crate::config::nearest(name, &names) {
            Some(near) => format!("; did you mean {near:?}?"),
            None if names.is_empty() => "; this device allows none".to_owned(),
            None => String::new(),
        };
        return Err(format!(
            "no command {:?} is allowed on this device{hint}",
            shown(name)
        ));
    };
    if device.as_str() != agent && !allowed.devices.contains(device) {
        return Err(format!(
            "{name:?} is not allowed for the device {device}; add it to `devices` of the command"
        ));
    }
    allowed.check_args(args)?;
    let mut values = args.clone();
    values.insert(DEVICE.to_owned(), device.as_str().to_owned());
    let argv = allowed
        .args
        .iter()
        .map(|template| template.fill(&values))
        .collect::<Result<_, _>>()?;
    Ok((index, argv))
}
