//! `tidewatch-agent status`: a running agent answers on a Unix socket in its data directory.
//!
//! Not a file that is written again and again: it would wear the card.

use std::fmt::Write as _;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use crate::health::{Health, Process, Snapshot};
use crate::inbox::Inbox;
use crate::sources::socket::listen::{SocketFile, remove_stale};

/// The socket's name in the data directory.
const SOCKET: &str = "status.sock";
/// A client that does not read is dropped after this time.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Most bytes of an answer.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// The socket; its file is gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Socket {
    listener: UnixListener,
    _file: SocketFile,
}

impl Socket {
    /// Makes the socket in the place of one that a killed agent has left.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join(SOCKET);
        remove_stale(&path)?;
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660))?;
        Ok(Self {
            listener,
            _file: SocketFile::of(&path)?,
        })
    }

    /// Answers everybody who connects, one after the other, with one line of JSON.
    pub async fn serve(
        self,
        health: Health,
        inbox: &Inbox,
        endurance: Option<u64>,
        stop: CancellationToken,
    ) {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            let Ok((mut stream, _)) = accepted else {
                // Out of file handles, for example: nobody is helped by trying at once.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let clock = inbox.clock();
            let (now, wall, report) = (clock.monotonic(), clock.wall(), clock.report());
            let snapshot = health.snapshot(now, wall, report, Process::now(), endurance);
            let mut line = serde_json::to_vec(&snapshot).unwrap_or_default();
            line.push(b'\n');
            let answer = async {
                stream.write_all(&line).await?;
                stream.shutdown().await
            };
            // Whoever asked is gone: that is his affair.
            let _ = tokio::time::timeout(ANSWER_MAX, answer).await;
        }
    }
}

/// Asks the agent that runs on this data directory.
///
/// **Errors**: none runs there, or it does not answer.
pub fn ask(dir: &Path) -> io::Result<Snapshot> {
    let stream = UnixStream::connect(dir.join(SOCKET))?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    let mut text = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut text)?;
    serde_json::from_str(&text).map_err(io::Error::other)
}

/// A snapshot for people.
pub fn describe(s: &Snapshot) -> String {
    let mut out = String::new();
    let mut line = |name: &str, text: String| {
        // Writing to a string does not fail.
        let _ = writeln!(out, "{name:<12}{text}");
    };
    let life = s.incarnation.as_deref().unwrap_or("-");
    line(
        "agent",
        format!(
            "version {}, life {life}, up {}",
            s.version,
            span(s.uptime_seconds)
        ),
    );
    let ack = match s.last_ack_seconds {
        Some(seconds) => format!("last acknowledgement {} ago", span(seconds)),
        None => "nothing acknowledged yet".to_owned(),
    };
    let connection = match s.connected_seconds {
        Some(seconds) => format!("connected for {}", span(seconds)),
        None => "not connected".to_owned(),
    };
    line(
        "uplink",
        format!("{connection}, {} reconnects, {ack}", s.reconnects),
    );
    let oldest = match s.backlog_oldest_seconds {
        Some(seconds) => format!(", the oldest {} old", span(seconds)),
        None => String::new(),
    };
    line(
        "backlog",
        format!(
            "{} events, {}{oldest}",
            s.backlog_events,
            bytes(s.backlog_bytes)
        ),
    );
    line(
        "losses",
        format!(
            "{} events declared lost, {} summed up by the minute, {} refused and kept",
            s.dropped_events, s.summed_up_events, s.refused_events
        ),
    );
    let mut disk = match s.disk_written_bytes_today {
        Some(n) => format!("{} written today", bytes(n)),
        None => "the system does not say what is written".to_owned(),
    };
    if let Some(days) = s.card_life_days {
        let _ = write!(disk, ", the card lasts {days:.0} days at this pace");
    }
    if let Some(free) = s.disk_free_bytes {
        let _ = write!(disk, ", {} free", bytes(free));
    }
    if s.disk_short {
        let max = s.buffer_bytes_max.map_or("?".to_owned(), bytes);
        let _ = write!(
            disk,
            "; LITTLE IS FREE: the buffer is held to {max} (free space, or lower buffer.disk_free_min)"
        );
    }
    if s.disk_full {
        disk.push_str("; THE DISK IS FULL: readings wait");
    }
    line("disk", disk);
    let mut clock = format!("quality {}", s.clock_quality);
    if let Some(ms) = s.clock_offset_ms {
        let _ = write!(clock, ", the cloud's clock is {ms:+.1} ms from ours");
    }
    match s.clock_set_by.as_deref() {
        None => clock.push_str("; NOT SET: readings wait for the time"),
        Some("cloud") => clock.push_str("; set by the cloud"),
        Some(_) => {}
    }
    if s.clock_steps > 0 {
        let last = s.clock_last_step_ms.unwrap_or(0.0) / 1000.0;
        let _ = write!(clock, "; {} steps, the last by {last:+.1} s", s.clock_steps);
    }
    line("clock", clock);
    if s.unplaced_events > 0 {
        line("no time yet", format!("{} readings", s.unplaced_events));
    }
    if let Some(seconds) = s.uncertain_seconds {
        let seconds = span(seconds as u64);
        line(
            "uncertain",
            format!(
                "{} boots ended with a clock that was never set; the times of the last may be off by \
                 {seconds}",
                s.uncertain_boots
            ),
        );
    }
    if s.rules > 0 {
        let mut rules = format!("{} on the device, {} firing", s.rules, s.rules_firing);
        if s.rules_stale_readings > 0 {
            let _ = write!(
                rules,
                ", {} readings too old or ahead",
                s.rules_stale_readings
            );
        }
        if s.rules_unwatched_readings > 0 {
            let n = s.rules_unwatched_readings;
            let _ = write!(rules, "; TOO MANY SERIES: {n} readings not watched");
        }
        line("rules", rules);
    }
    let memory = s.memory_bytes.map_or("?".to_owned(), bytes);
    let cpu = s
        .cpu_seconds
        .map_or("?".to_owned(), |n| format!("{n:.1} s"));
    line(
        "process",
        format!("{memory} of memory, {cpu} of processor time"),
    );
    out
}

fn bytes(n: u64) -> String {
    match n {
        0..10_000 => format!("{n} B"),
        10_000..10_000_000 => format!("{:.1} kB", n as f64 / 1e3),
        10_000_000..10_000_000_000 => format!("{:.1} MB", n as f64 / 1e6),
        _ => format!("{:.1} GB", n as f64 / 1e9),
    }
}

fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_told_in_words() {
        let s = Snapshot {
            version: "1".to_owned(),
            uptime_seconds: 7200,
            connected_seconds: Some(61),
            reconnects: 2,
            last_ack_seconds: Some(3),
            backlog_events: 12,
            backlog_bytes: 12_000,
            backlog_oldest_seconds: Some(600),
            dropped_events: 1,
            summed_up_events: 500,
            disk_free_bytes: Some(1_000_000_000),
            disk_written_bytes_today: Some(20_000_000),
            card_life_days: Some(900.4),
            memory_bytes: Some(4_000_000),
            cpu_seconds: Some(1.25),
            clock_quality: "ntp".to_owned(),
            clock_offset_ms: Some(-1.5),
            clock_set_by: Some("system".to_owned()),
            clock_steps: 2,
            clock_last_step_ms: Some(-3_600_000.0),
            ..Snapshot::default()
        };
        assert_eq!(
            describe(&s),
            "agent       version 1, life -, up 2 h\n\
             uplink      connected for 61 s, 2 reconnects, last acknowledgement 3 s ago\n\
             backlog     12 events, 12.0 kB, the oldest 10 min old\n\
             losses      1 events declared lost, 500 summed up by the minute, 0 refused and kept\n\
             disk        20.0 MB written today, the card lasts 900 days at this pace, 1000.0 MB free\n\
             clock       quality ntp, the cloud's clock is -1.5 ms from ours; 2 steps, the last by -3600.0 s\n\
             process     4000.0 kB of memory, 1.2 s of processor time\n"
        );
        let idle = Snapshot {
            disk_full: true,
            unplaced_events: 7,
            uncertain_boots: 1,
            uncertain_seconds: Some(7200.0),
            disk_short: true,
            buffer_bytes_max: Some(2_000_000),
            rules: 2,
            rules_firing: 1,
            rules_stale_readings: 3,
            rules_unwatched_readings: 4,
            ..Snapshot::default()
        };
        let text = describe(&idle);
        for part in [
            "not connected",
            "THE DISK IS FULL",
            "the buffer is held to 2000.0 kB",
            "NOT SET",
            "no time yet 7 readings",
            "may be off by 2 h",
            "rules       2 on the device, 1 firing, 3 readings too old or ahead; TOO MANY SERIES: 4 \
             readings not watched\n",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn nobody_answers_where_nobody_runs() {
        let dir = tempfile::tempdir().unwrap();
        assert!(ask(dir.path()).is_err());
    }
}
