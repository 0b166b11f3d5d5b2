//! `tidewatch notify test`: asks a receiver whether it hears us.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use notify::format::{Attempt, Verdict};
use notify::{Client, Message, Target};

/// Sends one test message to the target of that name, and prints what comes back. Fails if it is not accepted.
///
/// **Errors**: there is no such target, or it cannot be used.
pub async fn test(targets: Vec<Target>, name: String) -> anyhow::Result<ExitCode> {
    let names: Vec<String> = targets.iter().map(|t| format!("{:?}", t.name)).collect();
    let target = targets.into_iter().find(|t| t.name == name);
    let target = target.with_context(|| match names.is_empty() {
        true => "the configuration has no [[notifiers]]; give one with --config".to_owned(),
        false => format!(
            "there is no notifier {name:?}; there are {}",
            names.join(", ")
        ),
    })?;
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    let at = since_1970.map_or(0, |d| d.as_micros() as i64);
    let place = format!(
        "{name:?} ({}, {})",
        target.format.as_str(),
        target.shown_url()
    );
    let client = Client::new(target)?;
    let attempt = Attempt { at, handle: None };
    let outcome = client.send(&Message::test(&name, at), &attempt).await;
    let status = outcome
        .status
        .map_or_else(|| "none".to_owned(), |s| s.to_string());
    if outcome.verdict == Verdict::Delivered {
        super::print(format_args!(
            "{place} accepted the test\nstatus: {status}\nanswer: {}\n",
            outcome.words
        ));
        return Ok(ExitCode::SUCCESS);
    }
    let error = outcome.error.unwrap_or_default();
    super::print(format_args!(
        "{place} did not accept the test\nstatus: {status}\nreason: {error}\n"
    ));
    Ok(ExitCode::FAILURE)
}
