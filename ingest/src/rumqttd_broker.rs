//! rumqttd in this process: general publish and subscribe on a trusted network.
//!
//! Its limits, from its source and from trials: malformed packets can kill it (then no listener
//! answers until a restart); PUBACK goes out before this subscriber has seen the message; a slow
//! subscriber loses old segments without an error; no permissions; the publisher is not told. So it
//! is not the default, and an agent's events are safe behind it only because nothing but our ack
//! deletes them. Its threads cannot be stopped: they end with the process.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use event::AgentId;
use rumqttd::local::{LinkRx, LinkTx};
use rumqttd::{Config, ConnectionSettings, Notification, RouterConfig, ServerSettings};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::auth::Principal;
use crate::broker::{Answer, Deliver, DownlinkError, Intake, Publish, Receipt, offer_until};
use crate::meters::Meters;
use crate::settings::{Settings, ms};

const FILTERS: [&str; 3] = [
    "tidewatch/v1/+/batch",
    "tidewatch/v1/+/status",
    "devices/+/telemetry",
];
/// Deliveries that rumqttd's router has not taken; beyond it they are dropped.
const DELIVERIES_MAX: usize = 10_000;
/// Messages admitted but not yet durable.
const IN_FLIGHT_MAX: usize = 1024;

/// The broker with this process's own subscription.
pub(crate) struct Rumqttd {
    link: LinkRx,
    intake: Arc<dyn Intake>,
    shutdown_grace: Duration,
}

/// Deliveries through the broker.
pub(crate) struct Sender {
    link: Mutex<LinkTx>,
    meters: Arc<Meters>,
}

impl Deliver for Sender {
    /// Publishes on the broker. Whether the agent is there is not known here.
    fn deliver(&self, _: &AgentId, topic: &str, payload: Bytes) -> Result<(), DownlinkError> {
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        // The buffer between the link and the router has no bound of its own. A failed `try_publish`
        // leaves the message in it, so it is sent all the same with the next one.
        if link.buffer().len() < DELIVERIES_MAX
            && link.try_publish(topic.to_owned(), payload).is_ok()
        {
            self.meters.deliveries.increment(1);
            Ok(())
        } else {
            self.meters.deliveries_dropped.increment(1);
            Err(DownlinkError::QueueFull)
        }
    }
}

/// Starts the broker on the configured address. Port 0 takes a free one.
///
/// **Errors**: the address is taken, or the broker does not come up.
pub(crate) async fn start(
    settings: &Settings,
    intake: Arc<dyn Intake>,
    meters: Arc<Meters>,
) -> anyhow::Result<(Rumqttd, Arc<Sender>, SocketAddr)> {
    let front = &settings.front;
    // rumqttd binds by itself and only logs a failure; so the address is tried (and a free port
    // chosen) here first.
    let local_addr = TcpListener::bind(settings.listen)
        .and_then(|listener| listener.local_addr())
        .with_context(|| format!("listen for MQTT on {}", settings.listen))?;
    let server = |name: &str, listen| ServerSettings {
        name: name.to_owned(),
        listen,
        tls: None,
        next_connection_delay_ms: 1,
        connections: ConnectionSettings {
            connection_timeout_ms: u16::try_from(front.connect_timeout_ms).unwrap_or(u16::MAX),
            max_payload_size: front.packet_bytes_max,
            max_inflight_count: usize::from(front.in_flight_max),
            auth: None,
            external_auth: None,
            // Subscriptions to topics that nobody has published on yet.
            dynamic_filters: true,
        },
    };
    let config = Config {
        router: RouterConfig {
            max_connections: front.connections_max,
            max_outgoing_packet_count: 200,
            max_segment_size: 16 << 20,
            max_segment_count: 8,
            ..RouterConfig::default()
        },
        v4: Some(HashMap::from([(
            "v4".to_owned(),
            server("mqtt-v4", local_addr),
        )])),
        ..Config::default()
    };
    let (sender, link) = tokio::task::spawn_blocking(move || -> anyhow::Result<_> {
        let mut broker = rumqttd::Broker::new(config);
        let (mut tx, rx) = broker.link("tidewatch-ingest").context("link to rumqttd")?;
        for filter in FILTERS {
            tx.subscribe(filter).context("subscribe at rumqttd")?;
        }
        std::thread::Builder::new()
            .name("rumqttd".to_owned())
            .spawn(move || {
                if let Err(error) = broker.start() {
                    tracing::error!(%error, "rumqttd ended");
                }
            })
            .context("start rumqttd")?;
        Ok((
            Sender {
                link: Mutex::new(tx),
                meters,
            },
            rx,
        ))
    })
    .await
    .context("start rumqttd")??;
    wait_until_listening(local_addr).await?;
    let rumqttd = Rumqttd {
        link,
        intake,
        shutdown_grace: ms(settings.shutdown_grace_ms),
    };
    Ok((rumqttd, Arc::new(sender), local_addr))
}

async fn wait_until_listening(addr: SocketAddr) -> anyhow::Result<()> {
    for _ in 0..200 {
        if tokio::net::TcpStream::connect(addr).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    anyhow::bail!("rumqttd does not listen on {addr}; is the address taken?")
}

impl Rumqttd {
    /// Takes messages until `stop`.
    ///
    /// **Errors**: the router is gone; only a restart of the process helps.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        // Nothing can be told to a publisher here, so receipts are awaited only for their acks.
        let (queue, mut receipts) = mpsc::channel::<Receipt>(IN_FLIGHT_MAX);
        let settle = tokio::spawn(async move {
            let mut failing = false;
            while let Some(receipt) = receipts.recv().await {
                match receipt.await {
                    Answer::Failed { message, .. } if !failing => {
                        tracing::error!(error = message, "message not stored");
                        failing = true;
                    }
                    Answer::Stored => failing = false,
                    Answer::Failed { .. } | Answer::Refused { .. } => {}
                }
            }
        });
        let result = loop {
            let notification = tokio::select! {
                () = stop.cancelled() => break Ok(()),
                notification = self.link.next() => notification,
            };
            match notification {
                Ok(Some(Notification::Forward(forward))) => {
                    let topic = String::from_utf8_lossy(&forward.publish.topic).into_owned();
                    let publish = Publish {
                        principal: Principal::trusted(),
                        source: topic.as_str().into(),
                        topic,
                        payload: forward.publish.payload,
                        retain: true,
                    };
                    let receipt = offer_until(&*self.intake, publish, &stop).await;
                    let Some(receipt) = receipt else {
                        break Ok(());
                    };
                    if queue.send(receipt).await.is_err() {
                        break Ok(());
                    }
                }
                // The router stopped pushing until it is told that there is room.
                Ok(Some(Notification::Unschedule)) => {
                    if let Err(error) = self.link.wake().await {
                        break Err(error).context("talk to rumqttd");
                    }
                }
                Ok(_) => {}
                Err(error) => break Err(error).context("read from rumqttd; restart the process"),
            }
        };
        drop(queue);
        let _ = tokio::time::timeout(self.shutdown_grace, settle).await;
        result
    }
}
