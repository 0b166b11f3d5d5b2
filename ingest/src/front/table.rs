//! Who is connected, who hears what, and the last status of every agent.
//!
//! One lock, held for look-ups only; nothing is awaited or written under it. Deliveries go into the
//! bounded queue of a connection or are dropped and counted, so a slow reader never blocks another.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use event::{AgentId, Status};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::broker::{Deliver, DownlinkError};
use crate::meters::Meters;
use crate::settings::FrontSettings;

use super::filter::{Leaf, Leaves, Wanted};

/// A message on its way to one connection.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Topic name.
    pub topic: Arc<str>,
    /// Payload.
    pub payload: Bytes,
    /// The publisher's retain flag (or `true` for a kept status sent at subscription).
    pub retain: bool,
    /// This one comes from the kept statuses.
    pub kept: bool,
}

/// A connection as the table knows it.
#[derive(Debug)]
pub struct Link {
    number: u64,
    key: Key,
    outbox: mpsc::Sender<Delivery>,
    /// The agents of which it hears something.
    agents: Mutex<Vec<AgentId>>,
    /// Cancelled when another connection took the client id.
    pub taken_over: CancellationToken,
    /// Cancelled when this connection is over and its last will is under way.
    pub done: CancellationToken,
}

impl Link {
    fn with_agents<T>(&self, f: impl FnOnce(&mut Vec<AgentId>) -> T) -> T {
        f(&mut self.agents.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn agents(&self) -> Vec<AgentId> {
        self.with_agents(|agents| agents.clone())
    }
}

/// A client id belongs to a user: nobody takes over a session of another.
type Key = (Option<Arc<str>>, Arc<str>);

struct Kept {
    topic: Arc<str>,
    payload: Bytes,
}

#[derive(Default)]
struct Inner {
    sessions: HashMap<Key, Arc<Link>>,
    by_agent: HashMap<AgentId, Vec<(Arc<Link>, Leaves)>>,
    all_status: Vec<Arc<Link>>,
    kept: HashMap<AgentId, Kept>,
}

/// The table of connections, subscriptions and kept statuses.
pub struct Table {
    inner: Mutex<Inner>,
    numbers: AtomicU64,
    deliveries_max: usize,
    kept_max: usize,
    kept_bytes_max: usize,
    meters: Arc<Meters>,
}

impl Table {
    /// An empty table.
    pub fn new(settings: &FrontSettings, meters: Arc<Meters>) -> Self {
        Self {
            inner: Mutex::default(),
            numbers: AtomicU64::new(1),
            deliveries_max: settings.deliveries_max,
            kept_max: settings.retained_max,
            kept_bytes_max: settings.retained_bytes_max,
            meters,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The maps stay usable whatever a panicking holder did; losing one entry is better than
        // losing the door.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An id for a client that has none, unique in this process.
    pub fn assign_id(&self) -> String {
        format!("auto-{:x}", self.numbers.fetch_add(1, Ordering::Relaxed))
    }

    /// Enters a connection. If the client id was connected already, that connection is told to end;
    /// wait for its `done` before answering, so that its last will comes before anything of the new.
    pub fn enter(
        &self,
        user: Option<Arc<str>>,
        client_id: Arc<str>,
    ) -> (Arc<Link>, mpsc::Receiver<Delivery>, Option<Arc<Link>>) {
        let (outbox, deliveries) = mpsc::channel(self.deliveries_max);
        let link = Arc::new(Link {
            number: self.numbers.fetch_add(1, Ordering::Relaxed),
            key: (user, client_id),
            outbox,
            agents: Mutex::default(),
            taken_over: CancellationToken::new(),
            done: CancellationToken::new(),
        });
        let old = self
            .lock()
            .sessions
            .insert(link.key.clone(), Arc::clone(&link));
        if let Some(old) = &old {
            old.taken_over.cancel();
        }
        (link, deliveries, old)
    }

    /// Removes a connection and its subscriptions.
    pub fn leave(&self, link: &Link) {
        let mut inner = self.lock();
        if let Entry::Occupied(entry) = inner.sessions.entry(link.key.clone())
            && entry.get().number == link.number
        {
            entry.remove();
        }
        inner.unsubscribe_all(link);
    }

    /// Takes back all subscriptions of a connection that is over but whose last will is still under
    /// way: nothing is delivered to it any more, and a newcomer with its id still waits for it.
    pub fn silence(&self, link: &Link) {
        self.lock().unsubscribe_all(link);
    }

    /// Adds a subscription. Returns the kept statuses that it matches.
    pub fn subscribe(&self, link: &Arc<Link>, wanted: &Wanted) -> Vec<Delivery> {
        let mut inner = self.lock();
        match wanted {
            Wanted::AllStatus => {
                if !inner.all_status.iter().any(|l| l.number == link.number) {
                    inner.all_status.push(Arc::clone(link));
                }
                inner.kept.values().map(Kept::delivery).collect()
            }
            Wanted::Agent(agent, leaves) => {
                let listeners = inner.by_agent.entry(agent.clone()).or_default();
                match listeners.iter_mut().find(|(l, _)| l.number == link.number) {
                    Some((_, have)) => *have = have.with(*leaves),
                    None => {
                        listeners.push((Arc::clone(link), *leaves));
                        link.with_agents(|agents| agents.push(agent.clone()));
                    }
                }
                let kept = inner.kept.get(agent).filter(|_| leaves.has(Leaf::Status));
                kept.map(Kept::delivery).into_iter().collect()
            }
        }
    }

    /// Takes a subscription back; `gone` are the leaves that no other subscription of this
    /// connection still wants.
    pub fn unsubscribe(&self, link: &Link, wanted: &Wanted, gone: Leaves) {
        let mut inner = self.lock();
        match wanted {
            Wanted::AllStatus => inner.all_status.retain(|l| l.number != link.number),
            Wanted::Agent(agent, _) => inner.unsubscribe(link, agent, gone),
        }
    }

    /// Passes a status on to those who hear it and keeps it if `retain` is set.
    ///
    /// An "offline" of an older life does not replace the "online" of a newer one: the last will of
    /// a dead connection may come long after its agent is back.
    pub fn publish_status(&self, agent: &AgentId, payload: &Bytes, retain: bool) {
        let topic: Arc<str> = event::topic::status(agent).into();
        let mut inner = self.lock();
        if retain {
            inner.keep(agent, &topic, payload, self.kept_max, self.kept_bytes_max);
        }
        let delivery = Delivery {
            topic,
            payload: payload.clone(),
            retain,
            kept: false,
        };
        let mut links: Vec<Arc<Link>> = inner.all_status.clone();
        if let Some(listeners) = inner.by_agent.get(agent) {
            for (link, leaves) in listeners {
                if leaves.has(Leaf::Status) && !links.iter().any(|l| l.number == link.number) {
                    links.push(Arc::clone(link));
                }
            }
        }
        drop(inner);
        for link in links {
            self.hand_over(&link, delivery.clone());
        }
    }

    fn hand_over(&self, link: &Link, delivery: Delivery) -> bool {
        let sent = link.outbox.try_send(delivery).is_ok();
        if sent {
            self.meters.deliveries.increment(1);
        } else {
            self.meters.deliveries_dropped.increment(1);
        }
        sent
    }
}

impl Deliver for Table {
    fn deliver(&self, agent: &AgentId, topic: &str, payload: Bytes) -> Result<(), DownlinkError> {
        let Some(leaf) = Leaf::of(topic) else {
            return Err(DownlinkError::NotConnected);
        };
        let links: Vec<Arc<Link>> = match self.lock().by_agent.get(agent) {
            Some(listeners) => listeners
                .iter()
                .filter(|(_, leaves)| leaves.has(leaf))
                .map(|(link, _)| Arc::clone(link))
                .collect(),
            None => Vec::new(),
        };
        if links.is_empty() {
            return Err(DownlinkError::NotConnected);
        }
        let delivery = Delivery {
            topic: topic.into(),
            payload,
            retain: false,
            kept: false,
        };
        // Two connections of one agent are two lives (a clone); both hear, each knows what is its own.
        let mut sent = false;
        for link in links {
            sent |= self.hand_over(&link, delivery.clone());
        }
        if sent {
            Ok(())
        } else {
            Err(DownlinkError::QueueFull)
        }
    }
}

impl Inner {
    fn unsubscribe_all(&mut self, link: &Link) {
        self.all_status.retain(|l| l.number != link.number);
        for agent in link.agents() {
            self.unsubscribe(link, &agent, Leaves::ALL);
        }
    }

    fn unsubscribe(&mut self, link: &Link, agent: &AgentId, gone: Leaves) {
        let Some(listeners) = self.by_agent.get_mut(agent) else {
            return;
        };
        for (l, leaves) in listeners.iter_mut() {
            if l.number == link.number {
                *leaves = leaves.without(gone);
            }
        }
        listeners.retain(|(_, leaves)| !leaves.is_empty());
        if !listeners.iter().any(|(l, _)| l.number == link.number) {
            link.with_agents(|agents| agents.retain(|a| a != agent));
        }
        if listeners.is_empty() {
            self.by_agent.remove(agent);
        }
    }

    fn keep(
        &mut self,
        agent: &AgentId,
        topic: &Arc<str>,
        payload: &Bytes,
        kept_max: usize,
        bytes_max: usize,
    ) {
        if payload.is_empty() {
            // The rule of MQTT for clearing what is kept.
            self.kept.remove(agent);
            return;
        }
        if payload.len() > bytes_max {
            return;
        }
        let full = self.kept.len() >= kept_max;
        match self.kept.entry(agent.clone()) {
            Entry::Occupied(mut entry) => {
                if !is_stale(&entry.get().payload, payload) {
                    // A copy, so that a kept status does not hold the packet it came in.
                    entry.get_mut().payload = Bytes::copy_from_slice(payload);
                }
            }
            Entry::Vacant(entry) if !full => {
                entry.insert(Kept {
                    topic: Arc::clone(topic),
                    payload: Bytes::copy_from_slice(payload),
                });
            }
            Entry::Vacant(_) => tracing::debug!(%agent, "status not kept: limit reached"),
        }
    }
}

impl Kept {
    fn delivery(&self) -> Delivery {
        Delivery {
            topic: Arc::clone(&self.topic),
            payload: self.payload.clone(),
            retain: true,
            kept: true,
        }
    }
}

/// Whether `new` says offline for another life than the one that `kept` calls online.
fn is_stale(kept: &[u8], new: &[u8]) -> bool {
    match (Status::parse(kept), Status::parse(new)) {
        (Ok(kept), Ok(new)) => kept.online && !new.online && kept.incarnation != new.incarnation,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(name: &str) -> AgentId {
        AgentId::new(name).unwrap()
    }

    fn status(online: bool, incarnation: &str) -> Bytes {
        let status = Status {
            online,
            incarnation: incarnation.into(),
            version: String::new(),
            backlog: 0,
        };
        status.to_json().into()
    }

    fn table(retained_max: usize) -> Table {
        let settings = FrontSettings {
            retained_max,
            ..FrontSettings::default()
        };
        Table::new(&settings, Arc::new(Meters::new()))
    }

    fn kept(table: &Table) -> Vec<Bytes> {
        let (link, _deliveries, _) = table.enter(None, "reader".into());
        let kept = table.subscribe(&link, &Wanted::AllStatus);
        table.leave(&link);
        kept.into_iter().map(|d| d.payload).collect()
    }

    #[test]
    fn a_late_will_of_an_older_life_does_not_hide_the_new_one() {
        let table = table(10);
        table.publish_status(&agent("a"), &status(true, "1-x"), true);
        table.publish_status(&agent("a"), &status(true, "2-y"), true);
        table.publish_status(&agent("a"), &status(false, "1-x"), true);
        assert_eq!(kept(&table), [status(true, "2-y")]);
        table.publish_status(&agent("a"), &status(false, "2-y"), true);
        assert_eq!(kept(&table), [status(false, "2-y")]);
    }

    #[test]
    fn kept_statuses_are_bounded_and_unretained_ones_not_kept() {
        let table = table(2);
        table.publish_status(&agent("x"), &status(true, "1-x"), false);
        for name in ["a", "b", "c"] {
            table.publish_status(&agent(name), &status(true, name), true);
        }
        assert_eq!(kept(&table).len(), 2);
        table.publish_status(&agent("a"), &Bytes::from(vec![b'x'; 5000]), true);
        assert!(kept(&table).iter().all(|p| p.len() < 5000));
    }

    #[test]
    fn nothing_is_left_of_a_connection_that_is_gone() {
        let table = table(2);
        let (link, _deliveries, old) = table.enter(None, "c".into());
        assert!(old.is_none());
        table.subscribe(&link, &Wanted::Agent(agent("a"), Leaves::ALL));
        table.subscribe(&link, &Wanted::Agent(agent("b"), Leaves::one(Leaf::Ack)));
        table.subscribe(&link, &Wanted::AllStatus);
        table.unsubscribe(
            &link,
            &Wanted::Agent(agent("b"), Leaves::one(Leaf::Ack)),
            Leaves::ALL,
        );
        assert_eq!(link.agents(), [agent("a")]);
        // The newcomer with the same id stays when the old one leaves.
        let (_new, _deliveries, old) = table.enter(None, "c".into());
        assert!(old.is_some_and(|old| old.taken_over.is_cancelled()));
        table.leave(&link);
        let inner = table.lock();
        assert!(inner.by_agent.is_empty() && inner.all_status.is_empty());
        assert_eq!(inner.sessions.len(), 1);
    }
}
