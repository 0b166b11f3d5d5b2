use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::UdpSocket as StdUdp;
use std::os::unix::net::{UnixDatagram as StdDatagram, UnixStream as StdStream};
use std::path::Path;
use std::sync::Arc;

use event::DeviceId;

use super::*;
use crate::clock::{Clock, Quality};
use crate::inbox::{self, Inbox};
use crate::sources::decode::every_metric;
use crate::sources::{TagRules, line_protocol, statsd};

fn tags() -> TagRules {
    TagRules {
        device_tag: "device".to_owned(),
        device: Some(DeviceId::new("me").unwrap()),
        attributes: Vec::new(),
    }
}

fn line() -> Decoding {
    Decoding::Line(line_protocol::Settings {
        tags: tags(),
        precision: line_protocol::Precision::Nanos,
        names: line_protocol::MetricNames::Field,
        mapping: every_metric(),
    })
}

/// A source that runs in a task of its own.
struct Running {
    inbox: Arc<Inbox>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Counts>,
}

fn start(listen: &str, decoding: Decoding) -> Running {
    let inbox = Inbox::new(inbox::Settings::default(), Clock::new(Quality::Ntp));
    let feed = Feed::new(inbox.clone(), "s".to_owned(), &BTreeMap::new()).unwrap();
    let stop = CancellationToken::new();
    let settings = Settings {
        listen: listen.parse().unwrap(),
        decoding,
        lag: Duration::ZERO,
    };
    let task = tokio::spawn(run(settings, feed, stop.clone()));
    Running { inbox, stop, task }
}

impl Running {
    /// Metrics and values, once there are `n` of them.
    async fn readings(&self, n: usize) -> Vec<String> {
        let mut got = Vec::new();
        for _ in 0..3000 {
            got.extend(self.taken());
            if got.len() >= n {
                return got;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{got:?} and no more");
    }

    fn taken(&self) -> Vec<String> {
        let Some(pending) = self.inbox.wait(Some(Duration::ZERO), true).1 else {
            return Vec::new();
        };
        let show = |s: &event::Sample| format!("{} {} {:?}", s.device, s.metric, s.value);
        let taken = pending.samples.iter().map(show).collect();
        self.inbox.stored(pending);
        taken
    }

    async fn stop(self) -> (Counts, Vec<String>) {
        self.stop.cancel();
        let inbox = self.inbox.clone();
        let counts = (&mut { self.task }).await.unwrap();
        let last = inbox.wait(Some(Duration::ZERO), true).1;
        let show = |s: &event::Sample| format!("{} {} {:?}", s.device, s.metric, s.value);
        let last = last.map_or(Vec::new(), |p| p.samples.iter().map(show).collect());
        (counts, last)
    }
}

async fn until_it_listens(path: &Path) {
    for _ in 0..1000 {
        if path.exists() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it does not listen");
}

#[tokio::test]
async fn datagrams_of_a_unix_socket_are_taken_and_large_ones_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    // A file left behind.
    drop(StdDatagram::bind(&path).unwrap());
    let inode = identity_of(&path);
    let source = start(&format!("unix://{}", path.display()), line());
    for _ in 0..1000 {
        if identity_of(&path).is_some_and(|now| Some(now) != inode) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let client = StdDatagram::unbound().unwrap();
    let send = |bytes: &[u8]| client.send_to(bytes, &path).unwrap();
    send(b"m,device=d t=1,x=\"a\nb\"\nbad\nm u=2i");
    send(&vec![b'x'; DATAGRAM_BYTES_MAX + 1]);
    send(b"");
    send(b"m v=t\n");
    assert_eq!(
        source.readings(4).await,
        [
            "d t Number(1.0)",
            "d x Text(\"a\\nb\")",
            "me u Number(2.0)",
            "me v Bool(true)"
        ]
    );
    let (counts, _) = source.stop().await;
    assert_eq!((counts.rows, counts.readings, counts.bad), (5, 4, 2));
    assert!(!path.exists(), "its file is removed");
}

fn identity_of(path: &Path) -> Option<std::time::SystemTime> {
    std::fs::metadata(path).and_then(|m| m.modified()).ok()
}

#[tokio::test]
async fn connections_send_lines_and_too_many_are_closed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let source = start(
        &format!("unix-stream://{}", path.display()),
        Decoding::Json(every_metric()),
    );
    until_it_listens(&path).await;
    let mut first = StdStream::connect(&path).unwrap();
    first
        .write_all(b"{\"device\":\"a\",\"t\":1}\n{\"device\":")
        .unwrap();
    assert_eq!(source.readings(1).await, ["a t Number(1.0)"]);
    // A line over the limit is read past; the connection goes on.
    let mut second = StdStream::connect(&path).unwrap();
    let flood = std::thread::spawn(move || {
        let long = vec![b'x'; 3 * LINE_BYTES_MAX];
        second.write_all(&long).unwrap();
        second
            .write_all(b"\n{\"device\":\"b\",\"t\":2}\n{\"device\":\"b\",\"t\":3}")
            .unwrap();
    });
    // The last line comes without its end, by the end of the connection.
    assert_eq!(
        source.readings(2).await,
        ["b t Number(2.0)", "b t Number(3.0)"]
    );
    flood.join().unwrap();
    // `first` still holds a place.
    let mut more: Vec<_> = (1..CONNECTIONS_MAX)
        .map(|_| StdStream::connect(&path).unwrap())
        .collect();
    let refused = StdStream::connect(&path).unwrap();
    let closed = tokio::task::spawn_blocking(move || {
        refused
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        (&refused).read(&mut [0]).unwrap()
    });
    assert_eq!(closed.await.unwrap(), 0);
    first.write_all(b"\"c\",\"t\":4}\n").unwrap();
    let last = more.last_mut().unwrap();
    last.write_all(b"{\"device\":\"d\",\"t\":5}\n").unwrap();
    let mut got = source.readings(2).await;
    got.sort();
    assert_eq!(got, ["c t Number(4.0)", "d t Number(5.0)"]);
    // A place that is given back is free again.
    drop(more);
    let mut again = StdStream::connect(&path).unwrap();
    let mut tries = 0;
    while again.write_all(b"{\"device\":\"e\",\"t\":6}\n").is_err() || {
        tokio::time::sleep(Duration::from_millis(20)).await;
        source.taken().is_empty()
    } {
        tries += 1;
        assert!(tries < 1000, "no place becomes free");
        again = StdStream::connect(&path).unwrap();
    }
    let (counts, _) = source.stop().await;
    assert!(counts.bad >= 2, "{counts:?}");
    assert!(!path.exists());
}

#[tokio::test]
async fn statsd_is_reported_at_the_end_of_each_interval_and_at_the_stop() {
    // A free port; the test of the whole agent looks it up in the log.
    let port = StdUdp::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let statsd = |interval| {
        Decoding::Statsd(statsd::Settings {
            tags: tags(),
            mapping: every_metric(),
            interval,
        })
    };
    let listen = format!("udp://127.0.0.1:{port}");
    let client = StdUdp::bind("127.0.0.1:0").unwrap();
    client.connect(("127.0.0.1", port)).unwrap();
    let source = start(&listen, statsd(Duration::from_millis(50)));
    // Nobody may listen yet.
    let mut got = Vec::new();
    for _ in 0..500 {
        let _ = client.send(b"hits:1|c");
        tokio::time::sleep(Duration::from_millis(20)).await;
        got = source.taken();
        if !got.is_empty() {
            break;
        }
    }
    assert!(got[0].starts_with("me hits Number("), "{got:?}");
    source.stop().await;

    // An interval that does not end by itself: the stop ends it.
    let source = start(&listen, statsd(Duration::from_secs(3600)));
    // Bound once a second socket cannot have the port any more.
    while StdUdp::bind(("127.0.0.1", port)).is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    client.send(b"level:6|g\nlevel:7|g").unwrap();
    // Loopback delivers before the call returns; the source's task has still to read.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(source.taken().is_empty());
    let (counts, last) = source.stop().await;
    assert_eq!(last, ["me level Number(7.0)"]);
    assert!(counts.rows > 0 && counts.readings == 1, "{counts:?}");
}
