//! The configuration as it is typed. Field names are the keys of the file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Priority;
use super::command::Command;
use super::inputs::{ExecSource, SocketSource};
use super::tls::Tls;
use crate::buffer::Overflow;
use crate::clock::Quality;
use crate::sources::file::{Format, Timestamps};

/// What the file holds. `agent.sample.toml` says what each key means.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Raw {
    pub agent: Option<String>,
    pub server: String,
    pub user: Option<String>,
    pub password: Option<String>,
    pub password_file: Option<PathBuf>,
    pub data_dir: PathBuf,
    pub log: String,
    pub exit_when_done: bool,
    pub clock: Quality,
    pub attributes: BTreeMap<String, String>,
    pub buffer: Buffer,
    pub uplink: Uplink,
    pub tls: Tls,
    pub source: Vec<Entry>,
    pub command: Vec<Command>,
    pub rule: Vec<toml::Table>,
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            agent: None,
            server: "mqtt://127.0.0.1:1883".to_owned(),
            user: None,
            password: None,
            password_file: None,
            data_dir: "tidewatch-agent-data".into(),
            log: "info".to_owned(),
            exit_when_done: false,
            clock: Quality::Auto,
            attributes: BTreeMap::new(),
            buffer: Buffer::default(),
            uplink: Uplink::default(),
            tls: Tls::default(),
            source: Vec::new(),
            command: Vec::new(),
            rule: Vec::new(),
        }
    }
}

/// Section `[buffer]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Buffer {
    pub bytes_max: u64,
    pub cache_bytes: usize,
    pub commit_interval_ms: u64,
    pub commit_events: usize,
    pub commit_bytes: usize,
    pub waiting_events_max: usize,
    pub replay_backlog_max: Option<u64>,
    pub overflow: Overflow,
    pub age_max_s: Option<u32>,
    pub disk_free_min: u64,
}

impl Default for Buffer {
    fn default() -> Self {
        Self {
            bytes_max: 256 << 20,
            cache_bytes: 512 << 10,
            commit_interval_ms: 2000,
            commit_events: 4096,
            commit_bytes: 256 << 10,
            waiting_events_max: 16_384,
            replay_backlog_max: None,
            overflow: Overflow::Compact,
            age_max_s: None,
            disk_free_min: 64 << 20,
        }
    }
}

/// Section `[uplink]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Uplink {
    pub batch_events_max: u32,
    pub batch_bytes_max: usize,
    pub in_flight_max: usize,
    pub ack_timeout_ms: u64,
    pub ack_timeout_max_ms: u64,
    pub heartbeat_ms: u64,
    pub refused_retry_ms: u64,
    pub refused_retry_max_ms: u64,
    pub silence_max_ms: u64,
    pub reconnect_min_ms: u64,
    pub reconnect_max_ms: u64,
    pub connect_timeout_ms: u64,
    pub keep_alive_s: u64,
    pub stop_grace_ms: u64,
}

impl Default for Uplink {
    fn default() -> Self {
        Self {
            batch_events_max: 1000,
            batch_bytes_max: 256 << 10,
            in_flight_max: 8,
            ack_timeout_ms: 10_000,
            ack_timeout_max_ms: 120_000,
            heartbeat_ms: 60_000,
            refused_retry_ms: 60_000,
            refused_retry_max_ms: 3_600_000,
            silence_max_ms: 90_000,
            reconnect_min_ms: 1000,
            reconnect_max_ms: 300_000,
            connect_timeout_ms: 20_000,
            keep_alive_s: 30,
            stop_grace_ms: 5000,
        }
    }
}

/// One `[[source]]`: what all have, and what its kind has.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    #[serde(flatten)]
    pub common: Common,
    #[serde(flatten)]
    pub kind: Source,
}

/// Keys of every source.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Common {
    pub name: Option<String>,
    pub attributes: BTreeMap<String, String>,
    pub units: BTreeMap<String, String>,
    pub dead_band: Option<f64>,
    pub min_interval_ms: u64,
    pub max_interval_ms: u64,
    pub priority: Priority,
}

/// What a source reads.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Source {
    Host(HostSource),
    #[serde(rename = "agent")]
    Own(OwnSource),
    Stdin(StdinSource),
    File(FileSource),
    Socket(SocketSource),
    Exec(ExecSource),
    Sysfs(super::sysfs::SysfsSource),
    Mqtt(super::mqtt::MqttSource),
    Tail(super::tail::TailSource),
}

/// `kind = "host"`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct HostSource {
    pub device: Option<String>,
    pub interval_ms: u64,
    pub disk: PathBuf,
}

impl Default for HostSource {
    fn default() -> Self {
        Self {
            device: None,
            interval_ms: 10_000,
            disk: "/".into(),
        }
    }
}

/// `kind = "agent"`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct OwnSource {
    pub device: Option<String>,
    pub interval_ms: u64,
    pub card_endurance_gb: Option<f64>,
}

impl Default for OwnSource {
    fn default() -> Self {
        Self {
            device: None,
            interval_ms: 60_000,
            card_endurance_gb: None,
        }
    }
}

/// `kind = "stdin"`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct StdinSource {
    pub device: Option<String>,
    pub device_key: Option<String>,
    pub time_key: Option<String>,
    pub time_format: String,
    pub utc_offset: String,
    pub lag_ms: u64,
    pub metrics: Vec<String>,
    pub skip: Vec<String>,
    pub rename: BTreeMap<String, String>,
}

impl Default for StdinSource {
    fn default() -> Self {
        Self {
            device: None,
            device_key: None,
            time_key: None,
            time_format: "ms".to_owned(),
            utc_offset: "+00:00".to_owned(),
            lag_ms: 0,
            metrics: Vec::new(),
            skip: Vec::new(),
            rename: BTreeMap::new(),
        }
    }
}

/// `kind = "file"`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct FileSource {
    pub path: PathBuf,
    pub format: Option<Format>,
    pub delimiter: String,
    pub header: bool,
    pub columns: Vec<String>,
    pub device: Option<String>,
    pub device_column: Option<String>,
    pub time_column: Option<String>,
    pub time_format: String,
    pub utc_offset: String,
    pub metrics: Vec<String>,
    pub skip: Vec<String>,
    pub text: Vec<String>,
    pub rename: BTreeMap<String, String>,
    pub timestamps: Timestamps,
    pub speed: f64,
}

impl Default for FileSource {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            format: None,
            delimiter: ",".to_owned(),
            header: true,
            columns: Vec::new(),
            device: None,
            device_column: None,
            time_column: None,
            time_format: "ms".to_owned(),
            utc_offset: "+00:00".to_owned(),
            metrics: Vec::new(),
            skip: Vec::new(),
            text: Vec::new(),
            rename: BTreeMap::new(),
            timestamps: Timestamps::Own,
            speed: 1.0,
        }
    }
}
