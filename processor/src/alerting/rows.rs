//! What is saved: one row per alert, page, silence and flapping subject. A value is a version byte and postcard.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::commands::Asked;
use super::flap::Flap;
use super::groups::{Place, ShownRow, WatchedRow};
use super::life::Episode;
use super::page::Page;
use super::silence::Stored;
use super::{Alerting, STORM_TIME, Settings};
use crate::rollout::Rollout;

/// Rows of alerting begin with it; others of the same table do not.
pub const PREFIX: &[u8] = b"alerting/";
const VERSION: u8 = 1;

const EPISODE: u8 = b'e';
const PAGE: u8 = b'p';
const FLAP: u8 = b'f';
const SILENCE: u8 = b's';
const COMMAND: u8 = b'c';
const RULE: u8 = b'r';
const WATCHED: u8 = b'w';
const SHOWN: u8 = b'g';
const BASE: u8 = b'b';

/// A key and what is there now.
type Change = (Vec<u8>, Option<Vec<u8>>);

fn key(kind: u8, id: &[u8]) -> Vec<u8> {
    [PREFIX, &[kind, b'/'], id].concat()
}

fn row<T: Serialize>(kind: u8, id: &[u8], value: Option<&T>) -> Change {
    // Fails only for values of unknown length, which these have not.
    let value = value.map(|v| postcard::to_extend(v, vec![VERSION]).unwrap_or_default());
    (key(kind, id), value)
}

pub(crate) fn episode(id: &str, episode: Option<&Episode>) -> Change {
    row(EPISODE, id.as_bytes(), episode)
}

pub(crate) fn page(id: u64, page: Option<&Page>) -> Change {
    row(PAGE, &id.to_be_bytes(), page)
}

pub(crate) fn flap(subject: u64, flap: Option<&Flap>) -> Change {
    row(FLAP, &subject.to_be_bytes(), flap)
}

pub(crate) fn silence(id: &str, silence: Option<&Stored>) -> Change {
    row(SILENCE, id.as_bytes(), silence)
}

/// What stands alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Base {
    applied: Option<u64>,
    steered: Option<u64>,
    next_page: u64,
    /// The stop switch of commands.
    stopped: bool,
}

pub(crate) fn asked(id: &str, asked: Option<&Asked>) -> Change {
    row(COMMAND, id.as_bytes(), asked)
}

pub(crate) fn rule(name: &str, rollout: Option<&Rollout>) -> Change {
    row(RULE, name.as_bytes(), rollout)
}

pub(crate) fn watched((rule, group): &Place, watched: Option<&WatchedRow>) -> Change {
    let mut id = rule.as_bytes().to_vec();
    for text in group.iter().flat_map(|(name, text)| [name, text]) {
        // With its length, so that any text can stand in it.
        id.extend_from_slice(&(text.len() as u32).to_be_bytes());
        id.extend_from_slice(text.as_bytes());
    }
    row(WATCHED, &id, watched)
}

pub(crate) fn shown(id: &str, shown: Option<&ShownRow>) -> Change {
    row(SHOWN, id.as_bytes(), shown)
}

pub(crate) fn base(alerting: &Alerting) -> Change {
    let base = Base {
        applied: alerting.applied,
        steered: alerting.steered,
        next_page: alerting.next_page,
        stopped: alerting.commands.is_stopped(),
    };
    row(BASE, &[], Some(&base))
}

fn read<'a, T: Deserialize<'a>>(value: &'a [u8], what: &str) -> Result<T, String> {
    match value.split_first() {
        Some((&VERSION, body)) => postcard::from_bytes(body).map_err(|e| {
            format!("a saved {what} does not decode ({e}); restore the data folder from a backup")
        }),
        Some((version, _)) => Err(format!(
            "a saved {what} has format {version}, this server knows {VERSION}; start the newer server that wrote it"
        )),
        None => Err(format!(
            "a saved {what} is empty; restore the data folder from a backup"
        )),
    }
}

impl Alerting {
    /// Goes on from saved rows, of which those that do not begin with [`PREFIX`] are left alone.
    ///
    /// **Errors**: a row that is damaged or of a newer version.
    pub fn restore<'a>(
        settings: Settings,
        rows: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<Self, String> {
        let mut alerting = Self::new(settings);
        for (key, value) in rows {
            let Some(rest) = key.strip_prefix(PREFIX) else {
                continue;
            };
            let (kind, id) = (rest.first().copied(), rest.get(2..).unwrap_or_default());
            let number = || <[u8; 8]>::try_from(id).map(u64::from_be_bytes);
            let text = || String::from_utf8_lossy(id).into_owned();
            match kind {
                Some(EPISODE) => {
                    let episode: Episode = read(value, "alert")?;
                    alerting.episodes.insert(text().into(), episode);
                }
                Some(PAGE) => {
                    let page: Page = read(value, "page")?;
                    alerting.pages.insert(page.id, page);
                }
                Some(FLAP) => {
                    let subject = number().map_err(|_| "a saved flapping alert has a wrong key")?;
                    alerting
                        .flaps
                        .insert(subject, read(value, "flapping alert")?);
                }
                Some(SILENCE) => alerting.silences.restore(read(value, "silence")?)?,
                Some(COMMAND) => {
                    let asked = read(value, "decision about a command")?;
                    alerting.commands.restore_asked(text().into(), asked);
                }
                Some(RULE) => {
                    let rollout = read(value, "rule's commands")?;
                    alerting.commands.restore_rule(text(), rollout);
                }
                Some(WATCHED) => {
                    let watched = read(value, "rule in a group")?;
                    alerting.groups.restore_watched(watched);
                }
                Some(SHOWN) => {
                    let shown = read(value, "alert on a group")?;
                    alerting.groups.restore_shown(text().into(), shown);
                }
                Some(BASE) => {
                    let base: Base = read(value, "state of alerting")?;
                    alerting.applied = base.applied;
                    alerting.steered = base.steered;
                    alerting.next_page = base.next_page;
                    alerting.commands.restore_base(base.stopped);
                }
                _ => {
                    let key = String::from_utf8_lossy(key);
                    return Err(format!(
                        "a saved row {key:?} is of a kind that this server does not know; start the newer server that wrote it"
                    ));
                }
            }
        }
        alerting.derive();
        Ok(alerting)
    }

    /// Puts together what follows from the rows.
    fn derive(&mut self) {
        let mut raises: Vec<(i64, u64)> = Vec::with_capacity(self.episodes.len());
        for (id, episode) in &self.episodes {
            raises.push((episode.raised, episode.subject));
            self.now = self.now.max(episode.at);
            match &episode.open {
                Some(open) => {
                    self.inhibition.add(&open.facts);
                }
                None => {
                    self.over.insert((episode.at, id.clone()));
                }
            }
        }
        raises.sort_unstable();
        for (at, subject) in raises {
            self.flaps.note(subject, at);
        }
        for page in self.pages.values() {
            self.now = self.now.max(page.closed.unwrap_or(page.opened));
            match page.closed {
                None => {
                    self.open_pages.insert(page.place(), page.id);
                }
                Some(at) => {
                    self.closed.insert((at, page.id));
                }
            }
        }
        let pages: Vec<_> = self
            .pages
            .values()
            .filter(|p| p.opened > self.now.saturating_sub(STORM_TIME))
            .map(|p| (p.place(), p.opened))
            .collect();
        for (place, opened) in pages {
            if let Some(key) = super::life::storm_key(&place) {
                let times: &mut VecDeque<i64> = self.opened.entry(key).or_default();
                times.push_back(opened);
            }
        }
        self.reschedule_commands();
        let open: Vec<u64> = self.open_pages.values().copied().collect();
        open.into_iter().for_each(|id| self.reschedule(id));
        for subject in self.flaps.subjects() {
            self.reschedule_flap(subject);
        }
    }
}
