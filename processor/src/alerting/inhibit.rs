//! Which firing alerts explain which others. It follows from the open alerts and is not saved.

use std::collections::{BTreeMap, BTreeSet};

use super::facts::Facts;
use super::settings::Inhibit;
use views::matcher::Labels;

/// (position of the inhibition, texts of its `equal` labels).
type Key = (usize, String);

#[derive(Debug, Default)]
pub(crate) struct Inhibition {
    all: Vec<Inhibit>,
    /// Firing sources; whether each is a target of the same inhibition, too.
    sources: BTreeMap<Key, BTreeMap<Box<str>, bool>>,
    /// Firing targets.
    targets: BTreeMap<Key, BTreeSet<Box<str>>>,
}

impl Inhibition {
    pub(crate) fn new(all: Vec<Inhibit>) -> Self {
        Self {
            all,
            ..Self::default()
        }
    }

    fn key(&self, at: usize, facts: &Facts) -> Key {
        let mut texts = String::new();
        for name in &self.all[at].equal {
            texts.push_str(&facts.label(name));
            texts.push('\0');
        }
        (at, texts)
    }

    /// Takes a firing alert. Those that it is about to explain.
    pub(crate) fn add(&mut self, facts: &Facts) -> Vec<Box<str>> {
        let mut touched = Vec::new();
        for at in 0..self.all.len() {
            let is_source = self.all[at].source.hold(facts);
            let is_target = self.all[at].target.hold(facts);
            if !is_source && !is_target {
                continue;
            }
            let key = self.key(at, facts);
            if is_target {
                let targets = self.targets.entry(key.clone()).or_default();
                targets.insert(facts.id.clone());
            }
            if is_source {
                touched.extend(self.targets.get(&key).into_iter().flatten().cloned());
                let sources = self.sources.entry(key).or_default();
                sources.insert(facts.id.clone(), is_target);
            }
        }
        touched.retain(|id| *id != facts.id);
        touched
    }

    /// The alert is over. Those that it may have explained.
    pub(crate) fn remove(&mut self, facts: &Facts) -> Vec<Box<str>> {
        let mut touched = Vec::new();
        for at in 0..self.all.len() {
            let key = self.key(at, facts);
            if let Some(targets) = self.targets.get_mut(&key) {
                targets.remove(&facts.id);
                if targets.is_empty() {
                    self.targets.remove(&key);
                }
            }
            if let Some(sources) = self.sources.get_mut(&key)
                && sources.remove(&facts.id).is_some()
            {
                if sources.is_empty() {
                    self.sources.remove(&key);
                }
                touched.extend(self.targets.get(&key).into_iter().flatten().cloned());
            }
        }
        touched
    }

    /// An alert that explains this one.
    pub(crate) fn inhibitor(&self, facts: &Facts) -> Option<&str> {
        (0..self.all.len()).find_map(|at| {
            if !self.all[at].target.hold(facts) {
                return None;
            }
            let sources = self.sources.get(&self.key(at, facts))?;
            // Two alerts that are both sources and targets would silence each other.
            let is_source = self.all[at].source.hold(facts);
            let mut others = sources
                .iter()
                .filter(|(id, both)| **id != facts.id && !(is_source && **both));
            others.next().map(|(id, _)| &**id)
        })
    }
}
