//! What must hold in every state (S1 to S3, S5), and that the healed system comes to rest (S4).

use std::fmt;
use std::rc::Rc;

use crate::agent::Range;
use crate::rules::Rules;
use crate::world::{Event, Set, World};

/// What was found broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Broken {
    /// S1: an event was counted twice.
    CountedTwice,
    /// S2: an event is on no disk, not in the log and not declared lost; or its record was processed and
    /// it was neither counted nor set aside; or, at rest, a loss is covered by nothing.
    SilentLoss,
    /// S3: the agent is called complete up to a time, and an earlier event that is not declared lost
    /// does not count.
    FalselyComplete,
    /// S3: the agent is called complete up to a time that has not come.
    CompleteInTheFuture,
    /// S4: the healed system does not come to rest with progress = present.
    Stuck,
    /// S4: a late copy of what is long known takes the progress back.
    SetBack,
    /// S5: an incident or a loss without a cause.
    FalseAlarm,
}

/// A broken property and the event or state that shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Which one.
    pub broken: Broken,
    /// What shows it.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.broken, self.what)
    }
}

fn named(e: &Event) -> String {
    let i = e.incarnation;
    format!(
        "event of time {} (seq {} of life {}/{})",
        e.time, e.seq, i.no, i.rand
    )
}

/// Rounds of sending after which a healed system must be at rest.
const HEALING_ROUNDS: usize = 6;

impl World {
    /// Events that are on a disk or in a running agent, in the log, or declared lost.
    pub(crate) fn kept(&self) -> Set {
        let machines = self.machines.iter();
        let held = machines.fold(0, |s, m| s | m.disk.accounted() | m.memory.accounted());
        held | self.cloud.logged | self.cloud.declared
    }

    fn settled(&self, event: &Event) -> bool {
        (self.cloud.counted | self.cloud.quarantined) & event.bit() != 0
    }

    /// A physical loss that left no trace at the cloud: none of the lives that the disk forgot was ever
    /// heard, and of the image's own life nothing that came after the image. No protocol can see it.
    fn traceless(&self, event: &Event) -> bool {
        let lost_heard = self
            .truth
            .lost_lives
            .iter()
            .any(|l| self.cloud.heard.contains(l));
        let came = self.cloud.logged | self.cloud.declared;
        let later = self.truth.accepted.iter().any(|e| {
            e.incarnation == self.image.incarnation
                && e.seq > self.image.last
                && e.bit() & came != 0
        });
        self.truth.gone & event.bit() != 0
            && !lost_heard
            && !(later && event.incarnation == self.image.incarnation)
    }

    /// What the cloud cannot know yet: that a second life of the same disk exists, lives on although it
    /// was given up, or goes on beyond its told end.
    fn beyond_knowledge(&self, event: &Event) -> bool {
        let inc = event.incarnation;
        let unheard = self.truth.forked && !self.cloud.heard.contains(&inc);
        let beyond = |t: &(_, u8)| t.0 == inc && event.seq > t.1;
        let abandoned = self
            .cloud
            .lives
            .iter()
            .any(|l| l.incarnation == inc && l.abandoned.is_some());
        unheard || abandoned || self.cloud.tombstones.iter().any(beyond) || self.traceless(event)
    }

    /// S1, S2, S3, S5.
    pub fn check(&self) -> Result<(), Failure> {
        let fail = |broken, what| Err(Failure { broken, what });
        let (cloud, kept) = (&self.cloud, self.kept());
        for event in self.truth.accepted.iter() {
            let bit = event.bit();
            if cloud.twice & bit != 0 {
                return fail(Broken::CountedTwice, named(event));
            }
            if cloud.logged & bit & !cloud.declared != 0 && !self.settled(event) {
                let what = format!("{} is in the log and does not count", named(event));
                return fail(Broken::SilentLoss, what);
            }
            if (kept | self.truth.gone) & bit == 0 {
                let what = format!("{} is nowhere any more", named(event));
                return fail(Broken::SilentLoss, what);
            }
            let passed = cloud.progress.is_some_and(|p| event.time < p);
            if passed
                && !self.settled(event)
                && cloud.losses & bit == 0
                && !self.beyond_knowledge(event)
                && !self.truth.wrong_clock
            {
                let what = format!(
                    "complete up to {:?} without {}",
                    cloud.progress,
                    named(event)
                );
                return fail(Broken::FalselyComplete, what);
            }
        }
        if cloud.ahead {
            let what = format!("at {}", self.clock);
            return fail(Broken::CompleteInTheFuture, what);
        }
        if !self.truth.forked && (cloud.incident || cloud.losses != cloud.declared) {
            let what = format!(
                "incident {}, losses {:b}, declared {:b}",
                cloud.incident, cloud.losses, cloud.declared
            );
            return fail(Broken::FalseAlarm, what);
        }
        Ok(())
    }

    /// S4: from here on nothing is lost, all machines run, and each sends what it holds. The system must
    /// come to rest, every event accounted for, and late copies of all messages change nothing of that.
    pub fn check_healing(&self, rules: Rules) -> Result<(), Failure> {
        let mut world = self.clone();
        world.fast = false;
        for _ in 0..HEALING_ROUNDS {
            world.healing_round(rules)?;
            if world.at_rest().is_ok() {
                break;
            }
        }
        world.at_rest()?;
        for i in 0..world.messages.len() {
            world.append(i, rules);
            world.check()?;
            if world.cloud.progress != Some(world.clock) {
                return Err(Failure {
                    broken: Broken::SetBack,
                    what: format!("to {:?} by message {i}", world.cloud.progress),
                });
            }
        }
        world.at_rest()
    }

    fn healing_round(&mut self, rules: Rules) -> Result<(), Failure> {
        for m in 0..self.machines.len() {
            // What it holds, oldest first in the longest runs, then a heartbeat.
            let runs = self.machines[m].memory.held.len();
            for _ in 0..=runs {
                let first = self.machines[m].memory.held.first().copied();
                let starts = |r: &Range| {
                    first.is_some_and(|f| (r.incarnation, r.first) == (f.incarnation, f.seq))
                };
                let longest = self.machines[m].ranges().into_iter().rfind(starts);
                let message = self.machines[m].send(longest, self.clock, false, rules);
                self.messages.push(Rc::new(message));
                let sent = self.messages.len() - 1;
                self.append(sent, rules);
                for to in 0..self.machines.len() {
                    self.ack(to, sent, rules);
                    self.machines[to].commit_keeping_tx(rules);
                }
                self.check()?;
                if longest.is_none() {
                    break;
                }
            }
        }
        Ok(())
    }

    fn at_rest(&self) -> Result<(), Failure> {
        let stuck = |what: String| {
            Err(Failure {
                broken: Broken::Stuck,
                what,
            })
        };
        for machine in &self.machines {
            let memory = &machine.memory;
            if !memory.held.is_empty() || !memory.gaps.is_empty() {
                return stuck(format!("still held: {:?}", memory.held));
            }
            if let Some(ancestor) = memory.lineage.first() {
                return stuck(format!("still to be told: {ancestor:?}"));
            }
        }
        if self.cloud.progress != Some(self.clock) {
            return stuck(format!(
                "at {} progress is {:?} for ever: {:?}",
                self.clock, self.cloud.progress, self.cloud.lives
            ));
        }
        for event in self.truth.accepted.iter() {
            let bit = event.bit();
            let covered = self.truth.gone & self.cloud.losses & bit != 0 && self.cloud.incident;
            let declared = self.cloud.declared & bit != 0;
            if !self.settled(event) && !declared && !covered && !self.traceless(event) {
                return Err(Failure {
                    broken: Broken::SilentLoss,
                    what: format!("at rest {} is covered by nothing", named(event)),
                });
            }
        }
        Ok(())
    }
}
