//! Ingest: from MQTT to the durable log.
//!
//! What arrives comes through one small interface ([`broker`]) with three forms: the **front** (our
//! own MQTT 3.1.1 and 5 endpoint, the default), **rumqttd** in this process, or an **external**
//! broker by shared subscription. Behind it there is one gate: permission, admission (version,
//! size, checksum, whose it is; plain JSON), one message → one partition → one record, and after the
//! durable append the ack of exactly that range (PROTOCOL.md N1 to N3).
//!
//! **Stateless.** Nothing here must survive a restart: what was not acknowledged is sent again, and
//! the processor recognises repeats. The retained statuses are a convenience and come back with the
//! agents.
//!
//! **Back-pressure.** A full queue of the log means that sockets are not read. A log that cannot take
//! a message (full disk) means no PUBACK and no ack, and after a while the connection is closed with
//! that reason; `tidewatch_ingest_append_errors_total` shows it.
//!
//! **What publishers are told.** With the front, PUBACK means "on disk". rumqttd and external brokers
//! acknowledge by themselves and do not tell who published: there the topic's agent is taken for the
//! publisher, so such a broker belongs on a trusted network. Agents of ours lose nothing either way:
//! only our ack deletes.

pub mod settings;

pub mod broker;

mod front;
mod rumqttd_broker;

mod external;

pub mod auth;

pub mod admission;
mod intake;

mod append;

pub mod acks;
mod refusals;

mod ticker;

mod meters;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use eventlog::{Clock, Log};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use append::{Append, Appending};
pub use broker::{Downlink, DownlinkError, Intake};
pub use settings::{Settings, SettingsError};

use auth::Auth;
use external::External;
use front::Front;
use intake::{Door, Gate};
use meters::Meters;
use refusals::Refusals;
use rumqttd_broker::Rumqttd;
use settings::{Broker, ms};
use ticker::Activity;

/// Ingest, bound to its address; nothing is in the log yet. [`Prepared::begin`] goes on.
pub struct Prepared(Ingest);

impl Prepared {
    /// Where MQTT clients will be served; none with an external broker.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.0.local_addr
    }

    /// Notes in every partition of the log that nothing could enter since its last record, as
    /// [`Ingest::note_gap`] does. None if `stop` came first.
    ///
    /// **Errors**: as [`Ingest::note_gap`].
    pub async fn begin(
        self,
        pause: Duration,
        stop: &CancellationToken,
    ) -> anyhow::Result<Option<Ingest>> {
        let Self(ingest) = self;
        let noted = ingest.note_gap(pause, stop).await?;
        Ok(noted.then_some(ingest))
    }
}

/// Ingest, bound to its address and ready to run.
pub struct Ingest {
    settings: Settings,
    log: Arc<dyn Append>,
    meters: Arc<Meters>,
    refusals: Arc<Refusals>,
    activity: Arc<Activity>,
    downlink: Downlink,
    local_addr: Option<SocketAddr>,
    gate: Arc<Gate>,
    form: Form,
}

enum Form {
    Front(Front),
    Rumqttd(Rumqttd),
    External(Box<External>),
}

impl Ingest {
    /// Checks the settings, binds the address, and notes in every partition of the log that nothing
    /// could enter since its last record. Nothing is served before [`Ingest::run`].
    ///
    /// Install the program's `metrics` recorder before this.
    ///
    /// **Errors**: settings that cannot work, an address that is taken, a log that does not append.
    pub async fn bind(
        settings: Settings,
        log: Log,
        auth: Arc<dyn Auth>,
        clock: Clock,
    ) -> anyhow::Result<Self> {
        Self::bind_to(settings, Arc::new(log), auth, clock).await
    }

    /// As [`Ingest::bind`], over anything that appends.
    ///
    /// **Errors**: as [`Ingest::bind`].
    pub async fn bind_to(
        settings: Settings,
        log: Arc<dyn Append>,
        auth: Arc<dyn Auth>,
        clock: Clock,
    ) -> anyhow::Result<Self> {
        let prepared = Self::prepare_on(settings, log, auth, clock.clone()).await?;
        ticker::note_gap(&*prepared.0.log, &clock)
            .await
            .context("note in the log that the server was away")?;
        Ok(prepared.0)
    }

    /// Checks the settings and binds the address, without a look at whether the log takes records.
    ///
    /// Install the program's `metrics` recorder before this.
    ///
    /// **Errors**: settings that cannot work, an address that is taken.
    pub async fn prepare(
        settings: Settings,
        log: Log,
        auth: Arc<dyn Auth>,
        clock: Clock,
    ) -> anyhow::Result<Prepared> {
        Self::prepare_on(settings, Arc::new(log), auth, clock).await
    }

    /// As [`Ingest::prepare`], over anything that appends.
    ///
    /// **Errors**: as [`Ingest::prepare`].
    pub async fn prepare_on(
        settings: Settings,
        log: Arc<dyn Append>,
        auth: Arc<dyn Auth>,
        clock: Clock,
    ) -> anyhow::Result<Prepared> {
        settings.check()?;
        let meters = Arc::new(Meters::new());
        let interval = ms(settings.refusal_interval_ms);
        let refusals = Arc::new(Refusals::new(
            settings.refusal_keys_max,
            interval,
            Arc::clone(&meters),
        ));
        let activity = Arc::new(Activity::new(log.partitions()));
        let gate = Arc::new(Gate {
            log: Arc::clone(&log),
            auth: Arc::clone(&auth),
            limits: settings.admission.clone(),
            refusals: Arc::clone(&refusals),
            activity: Arc::clone(&activity),
            meters: Arc::clone(&meters),
            clock,
            downlink: OnceLock::new(),
        });
        let (form, downlink, local_addr) = match &settings.broker {
            Broker::Front => {
                let listener = TcpListener::bind(settings.listen)
                    .await
                    .with_context(|| format!("listen for MQTT on {}", settings.listen))?;
                let local_addr = listener.local_addr().context("read the bound address")?;
                let table = front::table(&settings.front, Arc::clone(&meters));
                let downlink = Downlink::new(table.clone());
                let front = Front::new(
                    listener,
                    settings.front.clone(),
                    settings.shutdown_grace_ms,
                    auth,
                    Arc::new(Door(Arc::clone(&gate))),
                    table,
                    Arc::clone(&meters),
                );
                (Form::Front(front), downlink, Some(local_addr))
            }
            Broker::Rumqttd => {
                let door = Arc::new(Door(Arc::clone(&gate)));
                let (rumqttd, sender, local_addr) =
                    rumqttd_broker::start(&settings, door, Arc::clone(&meters)).await?;
                (
                    Form::Rumqttd(rumqttd),
                    Downlink::new(sender),
                    Some(local_addr),
                )
            }
            Broker::External(broker) => {
                let door = Arc::new(Door(Arc::clone(&gate)));
                let (external, sender) =
                    external::prepare(&settings, broker, door, Arc::clone(&meters));
                (
                    Form::External(Box::new(external)),
                    Downlink::new(sender),
                    None,
                )
            }
        };
        let _ = gate.downlink.set(downlink.clone());
        let ingest = Self {
            settings,
            log,
            meters,
            refusals,
            activity,
            downlink,
            local_addr,
            gate,
            form,
        };
        Ok(Prepared(ingest))
    }

    /// Notes in every partition of the log that nothing could enter since its last record. While the
    /// log takes no records (a full disk) it tries again after every `pause`, and says so as an error
    /// each time. False if `stop` came first. May be called again as long as nothing is served.
    ///
    /// **Errors**: a log that no waiting will make append.
    pub fn note_gap(
        &self,
        pause: Duration,
        stop: &CancellationToken,
    ) -> impl Future<Output = anyhow::Result<bool>> + Send + use<> {
        // The forms of the broker cannot be shared between threads; what is needed here can.
        let (log, clock) = (Arc::clone(&self.log), self.gate.clock.clone());
        let (meters, stop) = (Arc::clone(&self.meters), stop.clone());
        async move {
            let mut failing = false;
            loop {
                // All partitions again after a failure: the time in which we tried is part of the outage.
                let Err(error) = ticker::note_gap(&*log, &clock).await else {
                    break;
                };
                if !append::is_passing(&error) {
                    let error = anyhow::Error::from(error);
                    return Err(error.context("note in the log that the server was away"));
                }
                failing = true;
                meters.log_failing.set(1.0);
                tracing::error!(
                    error = append::describe(&error),
                    "the log takes no records, so nothing can be taken yet; make room on the disk of the data folder"
                );
                tokio::select! {
                    () = stop.cancelled() => return Ok(false),
                    () = tokio::time::sleep(pause) => {}
                }
            }
            if failing {
                meters.log_failing.set(0.0);
                tracing::info!("the log takes records");
            }
            Ok(true)
        }
    }

    /// Where MQTT clients connect; none with an external broker.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.local_addr
    }

    /// The gate itself, for producers in this process: what is offered goes through the same
    /// permission, admission and append as what comes over MQTT.
    pub fn intake(&self) -> Arc<dyn Intake> {
        Arc::new(Door(Arc::clone(&self.gate)))
    }

    /// The way down to the agents, for acks and commands.
    pub fn downlink(&self) -> Downlink {
        self.downlink.clone()
    }

    /// Serves until `stop`. Then it takes nothing new, waits for the appends under way (at most
    /// `shutdown_grace_ms`), acknowledges them, says goodbye, and returns. The log stays open.
    ///
    /// **Errors**: the broker form cannot go on.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let Self {
            settings,
            log,
            meters,
            refusals,
            activity,
            form,
            ..
        } = self;
        let ticker = tokio::spawn(ticker::run(
            Arc::clone(&log),
            activity,
            settings.tick_ms,
            meters,
            stop.clone(),
        ));
        // Refusals are written until the last connection is gone.
        let served = CancellationToken::new();
        let writer = {
            let (refusals, log, served) = (Arc::clone(&refusals), Arc::clone(&log), served.clone());
            tokio::spawn(async move { refusals.run(&*log, served).await })
        };
        let result = match form {
            Form::Front(front) => {
                front.run(stop.clone()).await;
                Ok(())
            }
            Form::Rumqttd(rumqttd) => rumqttd.run(stop.clone()).await,
            Form::External(external) => {
                external.run(stop.clone()).await;
                Ok(())
            }
        };
        served.cancel();
        let grace = ms(settings.shutdown_grace_ms);
        if tokio::time::timeout(grace, writer).await.is_err() {
            tracing::warn!("stopped with refusals unwritten");
        }
        ticker.abort();
        result
    }
}
