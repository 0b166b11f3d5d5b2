//! From a message to a durable record: permission, admission, partition, append, ack.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use event::topic::TopicError;
use event::{Ack, AgentId, EventTime, Record, RefusalReason, Topic, slot};
use eventlog::{Clock, Error};
use metrics::Counter;

use crate::acks;
use crate::admission::{self, Refusal, batch::Admitted};
use crate::append::{Append, describe};
use crate::auth::{Action, Auth};
use crate::broker::{Answer, Downlink, EarlyRefusal, Intake, Offer, Publish};
use crate::meters::Meters;
use crate::refusals::Refusals;
use crate::settings::AdmissionSettings;
use crate::ticker::Activity;

/// The one place through which everything enters the log.
pub struct Gate {
    pub(crate) log: Arc<dyn Append>,
    pub(crate) auth: Arc<dyn Auth>,
    pub(crate) limits: AdmissionSettings,
    pub(crate) refusals: Arc<Refusals>,
    pub(crate) activity: Arc<Activity>,
    pub(crate) meters: Arc<Meters>,
    pub(crate) clock: Clock,
    /// Set once, after the broker form is made.
    pub(crate) downlink: OnceLock<Downlink>,
}

/// What is to be appended, and what follows when it is durable.
struct Entry {
    /// Whose slot it goes to.
    home: Home,
    record: Vec<u8>,
    kind: Counter,
    events: u64,
    ack: Option<(AgentId, Admitted)>,
    /// Fields that were left out.
    refused: Vec<(Refusal, u32)>,
}

enum Home {
    Agent(AgentId),
    Device(event::DeviceId),
}

impl Home {
    fn as_str(&self) -> &str {
        match self {
            Self::Agent(agent) => agent.as_str(),
            Self::Device(device) => device.as_str(),
        }
    }
}

/// A refusal, and what can be answered to the agent.
struct Rejected {
    refusal: Refusal,
    agent: Option<AgentId>,
    answer: Option<Option<Admitted>>,
}

impl Gate {
    fn now(&self) -> EventTime {
        EventTime::from_micros((self.clock)())
    }

    fn admit(&self, publish: &Publish) -> Result<Entry, Rejected> {
        let plain = |refusal, agent| Rejected {
            refusal,
            agent,
            answer: None,
        };
        let topic = event::topic::parse(&publish.topic).map_err(|error| {
            let reason = match &error {
                TopicError::Unknown(_) => RefusalReason::UnknownTopic,
                TopicError::Id(_) => RefusalReason::InvalidId,
            };
            plain(Refusal::new(reason, error.to_string()), None)
        })?;
        if !self
            .auth
            .permit(&publish.principal, Action::Publish, &topic)
        {
            let text = format!(
                "publishing on {} is not allowed for this user",
                publish.topic
            );
            // The agent is who connected, not whom the topic names.
            let agent = publish.principal.agent().cloned();
            return Err(plain(
                Refusal::new(RefusalReason::Unauthorized, text),
                agent,
            ));
        }
        let (payload, limits) = (&publish.payload, &self.limits);
        match topic {
            Topic::Batch(agent) => {
                let admitted = admission::batch::admit(&agent, payload, limits.batch_bytes_max)
                    .map_err(|(refusal, header)| Rejected {
                        refusal,
                        agent: Some(agent.clone()),
                        answer: Some(header),
                    })?;
                Ok(Entry {
                    record: Record::encode_batch(payload),
                    kind: self.meters.batches.clone(),
                    events: u64::from(admitted.count),
                    ack: Some((agent.clone(), admitted)),
                    home: Home::Agent(agent),
                    refused: Vec::new(),
                })
            }
            Topic::Status(agent) => {
                let record = admission::status::admit(&agent, payload, limits.status_bytes_max)
                    .map_err(|refusal| plain(refusal, Some(agent.clone())))?;
                Ok(Entry {
                    record: record.encode(),
                    kind: self.meters.status.clone(),
                    events: 0,
                    ack: None,
                    home: Home::Agent(agent),
                    refused: Vec::new(),
                })
            }
            Topic::Telemetry(device) => {
                let message = admission::plain::admit(&device, payload, limits)
                    .map_err(|refusal| plain(refusal, None))?;
                let events = message.plain.samples.len() as u64;
                Ok(Entry {
                    record: Record::Plain(message.plain).encode(),
                    kind: self.meters.plain.clone(),
                    events,
                    ack: None,
                    home: Home::Device(device),
                    refused: message
                        .refused
                        .into_iter()
                        .map(|f| (f.refusal, f.count))
                        .collect(),
                })
            }
            Topic::Ack(_) | Topic::Command(_) => {
                let text = format!("nobody publishes on {} but the cloud", publish.topic);
                Err(plain(Refusal::new(RefusalReason::Unauthorized, text), None))
            }
        }
    }

    /// Which topic, or which client, a refusal is counted under: a device's topic says more than the
    /// client id of a bridge that carries a thousand of them.
    fn source_of(publish: &Publish) -> Arc<str> {
        if publish.topic.starts_with("devices/") {
            publish.topic.chars().take(128).collect::<String>().into()
        } else {
            Arc::clone(&publish.source)
        }
    }

    fn reject(&self, publish: &Publish, rejected: Rejected) -> Answer {
        let Rejected {
            refusal,
            agent,
            answer,
        } = rejected;
        let Refusal { reason, message } = refusal.clone();
        self.meters.refused.increment(1);
        self.refusals.note(
            EarlyRefusal {
                source: Self::source_of(publish),
                claim: None,
                agent: agent.clone(),
                reason,
                message: message.clone(),
                bytes: publish.payload.len() as u64,
            },
            1,
        );
        if let (Some(agent), Some(header)) = (&agent, answer) {
            self.send(agent, &acks::refused(header, &refusal, self.now()));
        }
        Answer::Refused { reason, message }
    }

    /// Hands an ack down. An agent that is not there asks again by resending.
    fn send(&self, agent: &AgentId, ack: &Ack) {
        if let Some(downlink) = self.downlink.get()
            && downlink
                .send(agent, &event::topic::ack(agent), Bytes::from(ack.encode()))
                .is_ok()
        {
            self.meters.acks.increment(1);
        }
    }

    fn failed(&self, error: &Error) -> Answer {
        let full = matches!(error, Error::Full { .. });
        if full {
            &self.meters.append_full
        } else {
            &self.meters.append_io
        }
        .increment(1);
        self.meters.failed.increment(1);
        self.meters.log_failing.set(1.0);
        Answer::Failed {
            full,
            message: describe(error),
        }
    }
}

/// Whether a message only clears the kept status, which MQTT does with an empty retained message. There
/// is nothing to record: the agent has said nothing about itself.
fn clears_status(publish: &Publish, rejected: &Rejected) -> bool {
    // Permission was checked before the payload, so this is the agent's own topic.
    publish.retain
        && publish.payload.is_empty()
        && rejected.refusal.reason == RefusalReason::Empty
        && publish.topic.ends_with("/status")
}

/// The gate as the broker forms see it.
pub struct Door(pub(crate) Arc<Gate>);

impl Intake for Door {
    fn offer(&self, publish: Publish) -> Offer {
        let gate = &self.0;
        let taken = |answer| Offer::Taken(Box::pin(std::future::ready(answer)));
        let entry = match gate.admit(&publish) {
            Ok(entry) => entry,
            Err(rejected) if clears_status(&publish, &rejected) => return taken(Answer::Stored),
            Err(rejected) => {
                gate.meters.bytes.increment(publish.payload.len() as u64);
                return taken(gate.reject(&publish, rejected));
            }
        };
        let partition = slot::partition(slot::of(entry.home.as_str()), gate.log.partitions());
        let Entry {
            record,
            kind,
            events,
            ack,
            refused,
            ..
        } = entry;
        let appending = match gate.log.try_append(partition, vec![Bytes::from(record)]) {
            Ok(appending) => appending,
            Err(Error::QueueFull { .. }) => return Offer::Busy(publish),
            Err(error @ (Error::RecordTooLarge { .. } | Error::AppendTooLarge { .. })) => {
                let refusal = Refusal::new(RefusalReason::TooLarge, describe(&error));
                let rejected = match ack {
                    Some((agent, admitted)) => Rejected {
                        refusal,
                        agent: Some(agent),
                        answer: Some(Some(admitted)),
                    },
                    None => Rejected {
                        refusal,
                        agent: None,
                        answer: None,
                    },
                };
                return taken(gate.reject(&publish, rejected));
            }
            Err(error) => return taken(gate.failed(&error)),
        };
        gate.activity.note(partition);
        gate.meters.bytes.increment(publish.payload.len() as u64);
        for (Refusal { reason, message }, count) in refused {
            gate.refusals.note(
                EarlyRefusal {
                    source: Gate::source_of(&publish),
                    claim: None,
                    agent: None,
                    reason,
                    message,
                    bytes: 0,
                },
                count,
            );
        }
        let received_at = gate.now();
        let gate = Arc::clone(gate);
        Offer::Taken(Box::pin(async move {
            match appending.await {
                Ok(_) => {
                    kind.increment(1);
                    gate.meters.log_failing.set(0.0);
                    gate.meters.events.increment(events);
                    if let Some((agent, admitted)) = ack {
                        gate.send(&agent, &acks::stored(admitted, received_at, gate.now()));
                    }
                    Answer::Stored
                }
                Err(error) => gate.failed(&error),
            }
        }))
    }

    fn refuse(&self, refusal: EarlyRefusal) {
        self.0.meters.refused.increment(1);
        self.0.refusals.note(refusal, 1);
    }
}
