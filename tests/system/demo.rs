//! `tidewatch demo`: one command, and there is something to look at.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;

use super::harness::{Process, ready_line, tidewatch, wait_for};
use super::http::{self, Live};

#[test]
fn the_demo_shows_a_page_with_moving_numbers_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let temporary = dir.path().join("tmp");
    std::fs::create_dir(&temporary).expect("a folder");
    let mut command = tidewatch(&["demo", "--listen", "127.0.0.1:0", "--mqtt", "127.0.0.1:0"]);
    command
        .args(["--devices", "60", "--agents", "5", "--rate", "300"])
        .env("TMPDIR", &temporary)
        .stdout(Stdio::piped());
    let mut demo = Process::start("tidewatch demo", &mut command, &dir.path().join("log"));
    let (address, _) = ready_line(&mut demo);

    let page = http::get(address, "/").expect("the page");
    assert_eq!(page.status, 200);
    assert!(
        page.content_type.starts_with("text/html"),
        "{}",
        page.content_type
    );
    let text = page.text();
    assert!(
        text.contains("<title>") && text.contains("Tidewatch"),
        "{text}"
    );

    let overview = || {
        http::get(address, "/api/v1/overview")
            .ok()
            .map(|r| r.json())
    };
    let mut newest = 0;
    for _ in 0..3 {
        newest = wait_for("the number of events to grow", || {
            overview()?["totals"]["counted"]
                .as_u64()
                .filter(|n| *n > newest)
        });
    }
    wait_for("all devices to be online", || {
        (overview()?["devices"]["online"] == 60).then_some(())
    });
    wait_for("a rate", || {
        overview()?["events_per_second"]
            .as_f64()
            .filter(|f| *f > 0.0)
    });

    let mut live = Live::open(address).expect("the live stream");
    let mut seen = Vec::new();
    while !(seen.contains(&"overview".to_owned()) && seen.contains(&"windows".to_owned())) {
        let (name, _) = live.next().expect("an event").expect("the stream goes on");
        seen.push(name);
    }

    demo.signal(Signal::INT);
    let status = demo.wait(Duration::from_secs(10));
    assert!(status.success(), "Ctrl-C ended it with {status}");
    let left: Vec<_> = std::fs::read_dir(&temporary).expect("a folder").collect();
    assert!(left.is_empty(), "{left:?}");
}
