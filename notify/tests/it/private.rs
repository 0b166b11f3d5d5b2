//! Nobody can make the server speak to itself or its neighbours.

use notify::format::{Attempt, Verdict};
use notify::{Client, Format, Message, Target};

use super::receiver::Receiver;

async fn outcome(target: Target) -> notify::format::Outcome {
    let client = Client::new(target).unwrap();
    let attempt = Attempt {
        at: 1,
        handle: None,
    };
    client.send(&Message::test("ops", 1), &attempt).await
}

fn target(url: &str) -> Target {
    Target::new("ops", Format::Webhook, url, None)
}

#[tokio::test]
async fn a_name_that_leads_to_a_private_address_is_refused_when_connecting() {
    let receiver = Receiver::start();
    let url = receiver.url("/hook").replace("127.0.0.1", "localhost");
    let refused = outcome(target(&url)).await;
    assert_eq!(
        refused.verdict,
        Verdict::Retry,
        "the name may lead elsewhere soon"
    );
    let error = refused.error.unwrap();
    assert!(
        error.contains("localhost") && error.contains("allow_private"),
        "{error}"
    );
    assert_eq!(receiver.got(), []);
    let mut allowed = target(&url);
    allowed.allow_private = true;
    assert_eq!(outcome(allowed).await.verdict, Verdict::Delivered);
    assert_eq!(receiver.got().len(), 1);
}

#[test]
fn a_written_address_is_refused_before() {
    for url in [
        "http://127.0.0.1:1/",
        "http://[::ffff:127.0.0.1]:1/",
        "http://[fd00:ec2::254]/",
        "http://169.254.169.254/latest/meta-data",
        "http://100.100.100.200/",
        "http://0/",
    ] {
        let error = Client::new(target(url)).unwrap_err();
        assert!(
            error.to_string().contains("allow_private"),
            "{url}: {error}"
        );
    }
}

#[tokio::test]
async fn a_proxy_is_used_only_if_it_is_configured() {
    let (proxy, receiver) = (Receiver::start(), Receiver::start());
    // What the environment says is not asked; what the target says is.
    let mut through = target("http://receiver.invalid/hook");
    through.proxy = Some(notify::Secret::new(proxy.url("/")));
    assert_eq!(outcome(through).await.verdict, Verdict::Delivered);
    let got = proxy.got();
    assert_eq!(got[0].line, "POST http://receiver.invalid/hook");
    assert_eq!(receiver.got(), []);
}
