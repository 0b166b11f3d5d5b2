//! A broker elsewhere: ingest is one of its clients, by shared subscription, so that several ingest
//! processes share the work.
//!
//! Messages are acknowledged to the broker only when they are durable (manual acks) and the session
//! is not clean, so a broker with a queue keeps what comes while this process is away. When the log
//! does not take a message the connection is given up and opened again after the grace: the broker
//! then sends everything unacknowledged again. While the queue of the log is full nothing is read;
//! a broker whose patience (keep-alive) ends meanwhile disconnects, which has the same effect.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use event::AgentId;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS, SubscribeFilter};
use tokio_util::sync::CancellationToken;

use crate::auth::Principal;
use crate::broker::{Answer, Deliver, DownlinkError, Intake, Publish, Receipt, offer_until};
use crate::meters::Meters;
use crate::settings::{ExternalBroker, Settings, ms};

/// The topics that come up, and the group that shares them.
const FILTERS: [&str; 3] = [
    "$share/tidewatch/tidewatch/v1/+/batch",
    "$share/tidewatch/tidewatch/v1/+/status",
    "$share/tidewatch/devices/+/telemetry",
];
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const RECONNECT_MIN: Duration = Duration::from_millis(200);
const RECONNECT_MAX: Duration = Duration::from_secs(30);
/// Requests to the client (acknowledgements and deliveries) that may wait.
const REQUESTS_MAX: usize = 1024;

/// The connection to the broker.
pub(crate) struct External {
    client: AsyncClient,
    events: EventLoop,
    intake: Arc<dyn Intake>,
    name: String,
    in_flight_max: usize,
    failure_grace: Duration,
    shutdown_grace: Duration,
}

/// Deliveries through the broker.
pub(crate) struct Sender {
    client: AsyncClient,
    meters: Arc<Meters>,
}

impl Deliver for Sender {
    /// Publishes on the broker. Whether the agent is there is not known here.
    fn deliver(&self, _: &AgentId, topic: &str, payload: Bytes) -> Result<(), DownlinkError> {
        let sent = self
            .client
            .try_publish(topic, QoS::AtLeastOnce, false, payload);
        match sent {
            Ok(()) => {
                self.meters.deliveries.increment(1);
                Ok(())
            }
            Err(_) => {
                self.meters.deliveries_dropped.increment(1);
                Err(DownlinkError::QueueFull)
            }
        }
    }
}

/// Prepares the client; it connects in [`External::run`].
pub(crate) fn prepare(
    settings: &Settings,
    broker: &ExternalBroker,
    intake: Arc<dyn Intake>,
    meters: Arc<Meters>,
) -> (External, Arc<Sender>) {
    let mut options = MqttOptions::new(&settings.client_id, &broker.host, broker.port);
    options.set_clean_session(false);
    options.set_manual_acks(true);
    options.set_keep_alive(KEEP_ALIVE);
    // The default of the client is 10 KB.
    options.set_max_packet_size(
        settings.front.packet_bytes_max,
        settings.front.packet_bytes_max,
    );
    if let Some((user, password)) = &broker.login {
        options.set_credentials(user, password.expose());
    }
    let (client, events) = AsyncClient::new(options, REQUESTS_MAX);
    let sender = Arc::new(Sender {
        client: client.clone(),
        meters,
    });
    let external = External {
        client,
        events,
        intake,
        name: settings.broker.to_string(),
        in_flight_max: usize::from(settings.front.in_flight_max),
        failure_grace: ms(settings.front.log_failure_grace_ms),
        shutdown_grace: ms(settings.shutdown_grace_ms),
    };
    (external, sender)
}

/// A message under way to the log.
struct Pending {
    receipt: Receipt,
    message: rumqttc::Publish,
}

/// Why the reading stopped.
enum Pause {
    Stop,
    Lost(rumqttc::ConnectionError),
    LogFailed(String),
}

impl External {
    /// Takes messages until `stop`, over as many connections as that needs.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut wait = RECONNECT_MIN;
        let mut down = false;
        loop {
            let mut connected = false;
            match self.connection(&stop, &mut connected).await {
                Pause::Stop => break,
                Pause::Lost(error) => {
                    if connected {
                        wait = RECONNECT_MIN;
                        down = false;
                    }
                    // Once per outage, not once per try.
                    if !down {
                        tracing::warn!(broker = self.name, %error, "lost the broker; trying again");
                        down = true;
                    }
                }
                Pause::LogFailed(message) => {
                    tracing::error!(broker = self.name, error = message, "message not stored");
                    self.events.clean();
                    wait = self.failure_grace.max(RECONNECT_MIN);
                }
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(wait) => {}
            }
            wait = (wait * 2).min(RECONNECT_MAX);
        }
    }

    /// One connection, from CONNACK to its end.
    async fn connection(&mut self, stop: &CancellationToken, connected: &mut bool) -> Pause {
        let mut pending: VecDeque<Pending> = VecDeque::new();
        loop {
            let room = pending.len() < self.in_flight_max;
            tokio::select! {
                biased;
                () = stop.cancelled() => return self.finish(pending).await,
                answer = next_answer(&mut pending), if !pending.is_empty() => {
                    let Some(Pending { message, .. }) = pending.pop_front() else { continue };
                    match answer {
                        // The queue of requests has room for all that can be in flight; if it is
                        // full of deliveries the message comes again and is recognised.
                        Answer::Stored | Answer::Refused { .. } => {
                            let _ = self.client.try_ack(&message);
                        }
                        Answer::Failed { message, .. } => return Pause::LogFailed(message),
                    }
                }
                event = self.events.poll(), if room => match event {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => {
                        *connected = true;
                        tracing::info!(broker = self.name, "connected to the broker");
                        let filters = FILTERS.map(|f| SubscribeFilter::new(f.into(), QoS::AtLeastOnce));
                        let _ = self.client.try_subscribe_many(filters);
                    }
                    Ok(Event::Incoming(Packet::Publish(message))) => {
                        let publish = Publish {
                            principal: Principal::trusted(),
                            source: message.topic.as_str().into(),
                            topic: message.topic.clone(),
                            payload: message.payload.clone(),
                            retain: true,
                        };
                        match offer_until(&*self.intake, publish, stop).await {
                            Some(receipt) => pending.push_back(Pending { receipt, message }),
                            None => return self.finish(pending).await,
                        }
                    }
                    Ok(_) => {}
                    Err(error) => return Pause::Lost(error),
                }
            }
        }
    }

    /// Waits for what is under way, acknowledges it and says goodbye.
    async fn finish(&mut self, pending: VecDeque<Pending>) -> Pause {
        let goodbye = async {
            for Pending { receipt, message } in pending {
                match receipt.await {
                    Answer::Stored | Answer::Refused { .. } => {
                        let _ = self.client.try_ack(&message);
                    }
                    Answer::Failed { .. } => break,
                }
            }
            let _ = self.client.try_disconnect();
            // The requests are written by polling; new messages are left to the broker.
            loop {
                match self.events.poll().await {
                    Ok(Event::Outgoing(rumqttc::Outgoing::Disconnect)) | Err(_) => break,
                    Ok(_) => {}
                }
            }
        };
        if tokio::time::timeout(self.shutdown_grace, goodbye)
            .await
            .is_err()
        {
            tracing::warn!("stopped before the broker had every acknowledgement");
        }
        Pause::Stop
    }
}

async fn next_answer(pending: &mut VecDeque<Pending>) -> Answer {
    poll_fn(|cx| match pending.front_mut() {
        Some(p) => p.receipt.as_mut().poll(cx),
        None => Poll::Pending,
    })
    .await
}
