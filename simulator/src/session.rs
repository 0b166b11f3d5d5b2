//! One MQTT connection of a virtual agent.
//!
//! A new rumqttc client is made for every connection: what the old one had in flight is gone with it,
//! because the agent's buffer owns retransmission. Dropping a [`Session`] closes the socket without a
//! goodbye, which is what a cut connection looks like to the server.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use event::{Ack, AgentId, Incarnation, Status, batch, topic};
use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, LastWill, MqttOptions,
    Packet, QoS, SubscribeReasonCode,
};
use tokio::sync::mpsc;

use crate::settings::Server;

/// Requests that wait in the client at most; what does not fit is lost and sent again on timeout.
const REQUESTS_MAX: usize = 64;
/// Messages that wait for the agent at most; then the socket is not read.
const HEARD_MAX: usize = 64;
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// What arrives.
#[derive(Debug)]
pub(crate) enum Heard {
    /// The server took the connection and the subscription: batches may go.
    Ready,
    /// An answer. A copy that does not decode is dropped: the agent sends again.
    Ack(Ack),
}

type Pump = Pin<Box<dyn Future<Output = String> + Send>>;

/// A connection that is being made or stands.
pub(crate) struct Session {
    client: AsyncClient,
    pump: Pump,
    heard: mpsc::Receiver<Heard>,
    batch_topic: String,
    status_topic: String,
}

impl Session {
    /// Begins to connect. `offline` is the last will.
    pub(crate) fn open(
        server: &Server,
        agent: &AgentId,
        incarnation: Incarnation,
        password: Option<&str>,
        offline: &Status,
    ) -> Self {
        let client_id = format!("{agent}-{:016x}", incarnation.rand);
        let mut options = MqttOptions::new(client_id, server.host.clone(), server.port);
        options
            .set_clean_session(true)
            .set_keep_alive(KEEP_ALIVE)
            .set_credentials(agent.as_str(), password.unwrap_or_default())
            .set_max_packet_size(batch::BYTES_MAX + 4096, batch::BYTES_MAX + 4096)
            .set_last_will(LastWill::new(
                topic::status(agent),
                offline.to_json(),
                QoS::AtLeastOnce,
                true,
            ));
        let (client, eventloop) = AsyncClient::new(options, REQUESTS_MAX);
        let (tx, heard) = mpsc::channel(HEARD_MAX);
        let pump = pump(
            eventloop,
            client.clone(),
            topic::ack(agent),
            topic::command(agent),
            tx,
        );
        Self {
            client,
            pump: Box::pin(pump),
            heard,
            batch_topic: topic::batch(agent),
            status_topic: topic::status(agent),
        }
    }

    /// Waits for what arrives next.
    ///
    /// **Errors**: the connection is lost; the reason. Safe to drop half-way.
    pub(crate) async fn hear(&mut self) -> Result<Heard, String> {
        tokio::select! {
            biased;
            Some(heard) = self.heard.recv() => Ok(heard),
            reason = &mut self.pump => Err(reason),
        }
    }

    /// Hands a batch to the connection. It may be lost, like anything on a network.
    pub(crate) fn send_batch(&self, bytes: Bytes) {
        let _ = self
            .client
            .try_publish(&self.batch_topic, QoS::AtLeastOnce, false, bytes);
    }

    /// Publishes the retained status.
    pub(crate) fn send_status(&self, status: &Status) {
        let _ =
            self.client
                .try_publish(&self.status_topic, QoS::AtLeastOnce, true, status.to_json());
    }

    /// Says goodbye, so that no last will is sent; waits for it a second at most.
    pub(crate) async fn close(mut self, status: &Status) {
        self.send_status(status);
        // Let the status be taken before the goodbye is.
        let goodbye = async {
            if self.client.disconnect().await.is_ok() {
                while self.hear().await.is_ok() {}
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), goodbye).await;
    }
}

/// Polls the client until the connection is lost, and says why. Polled as one future that is never
/// dropped half-way while the connection is wanted.
async fn pump(
    mut eventloop: EventLoop,
    client: AsyncClient,
    ack_topic: String,
    command_topic: String,
    tx: mpsc::Sender<Heard>,
) -> String {
    loop {
        let heard = match eventloop.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(connack))) => {
                if connack.code != ConnectReturnCode::Success {
                    return format!("the server refused the connection: {:?}", connack.code);
                }
                // Commands are taken too, as an agent would: a later issue acts on them.
                for topic in [&ack_topic, &command_topic] {
                    if client.try_subscribe(topic, QoS::AtLeastOnce).is_err() {
                        return "the client takes no subscription".to_owned();
                    }
                }
                continue;
            }
            Ok(Event::Incoming(Packet::SubAck(suback))) => {
                if suback.return_codes.contains(&SubscribeReasonCode::Failure) {
                    return "the server refused a subscription to the agent's own topics"
                        .to_owned();
                }
                Heard::Ready
            }
            Ok(Event::Incoming(Packet::Publish(publish))) if publish.topic == ack_topic => {
                match Ack::decode(&publish.payload) {
                    Ok(ack) => Heard::Ack(ack),
                    Err(error) => {
                        tracing::warn!(topic = ack_topic, %error, "ack does not decode");
                        continue;
                    }
                }
            }
            Ok(Event::Incoming(Packet::Disconnect)) => return "the server disconnected".to_owned(),
            Ok(_) => continue,
            Err(ConnectionError::ConnectionRefused(code)) => {
                return format!("the server refused the connection: {code:?}");
            }
            Err(error) => return error.to_string(),
        };
        if tx.send(heard).await.is_err() {
            return "nobody listens".to_owned();
        }
    }
}
