//! What was refused or set aside, and why.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use event::Release;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use views::model::{QuarantineItem, Time};

use super::error::clip;
use super::params::Params;
use super::write::{Accepted, Body, Writer, name};
use super::{ApiError, ErrorBody, Shared};
use crate::control::Change;

/// Farthest that a release may move event times: 100 years of 365 days, seconds.
const SHIFT_SECONDS_MAX: i64 = 100 * 365 * 86_400;

/// A page of the quarantine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Quarantine {
    /// Reason → how many since the beginning, also of those that memory no longer holds.
    #[schema(value_type = BTreeMap<String, u64>)]
    totals: BTreeMap<&'static str, u64>,
    /// The entries, newest first.
    items: Vec<QuarantineItem>,
    /// Value of `after` for the next page; null at the end.
    next: Option<String>,
}

/// What was refused or quarantined, newest first.
///
/// Totals by reason, and the newest entries that memory holds: 1000 in a partition.
#[utoipa::path(get, path = "/api/v1/quarantine", tag = "system", params(
    ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Most entries"),
    ("after" = Option<String>, Query, description = "`next` of the page before"),
), responses(
    (status = 200, body = Quarantine, description = "A page of entries"),
    (status = 400, body = ErrorBody, description = "A wrong parameter"),
))]
pub async fn quarantine(
    State(shared): State<Shared>,
    uri: Uri,
) -> Result<Json<Quarantine>, ApiError> {
    let params = Params::read(&uri, &["limit", "after"], &[])?;
    let limit = params.limit()?;
    let after = params.text("after").map(Cursor::parse).transpose()?;
    // A first page needs no entry beyond its end.
    let enough = after.map_or(limit + 1, |_| usize::MAX);
    let (totals, items) = shared.query(move |views| views.quarantine(enough)).await?;
    let (items, next) = page(items, after, limit);
    Ok(Json(Quarantine {
        totals,
        items,
        next,
    }))
}

/// How to release.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(
    dead_code,
    reason = "for the description; the body is read field by field"
)]
pub struct ReleaseBody {
    /// Whole seconds added to the event times, for a clock that was wrong; 0 if absent.
    shift_seconds: Option<i64>,
}

/// Release what was quarantined: count it after all.
///
/// Only entries with an `id` can be released. What was counted meanwhile is not counted again.
#[utoipa::path(post, path = "/api/v1/quarantine/{id}/release", tag = "system", params(
    ("id" = String, Path, description = "The entry's `id`"),
), request_body = ReleaseBody, responses(
    (status = 202, body = Accepted, description = "Durable; takes effect within about a second"),
    (status = 400, body = ErrorBody, description = "A wrong field"),
    (status = 403, body = ErrorBody, description = "Changes are not accepted here, or from that page"),
    (status = 404, body = ErrorBody, description = "Nothing is held under that id (any more)"),
    (status = 415, body = ErrorBody, description = "Not `application/json`"),
    (status = 503, body = ErrorBody, description = "Not ready, or the log takes nothing now"),
))]
pub async fn release(
    writer: Writer,
    State(shared): State<Shared>,
    path: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<Accepted>), ApiError> {
    let id = name(path, "id")?;
    let Body(body) = Body::read(body, &["shift_seconds"])?;
    let seconds = body.get("shift_seconds").map(|v| v.as_i64());
    let allowed = -SHIFT_SECONDS_MAX..=SHIFT_SECONDS_MAX;
    let seconds = match seconds {
        None => 0,
        Some(Some(seconds)) if allowed.contains(&seconds) => seconds,
        Some(_) => {
            let message = format!("must be a whole number within ±{SHIFT_SECONDS_MAX}");
            return Err(ApiError::bad_parameter("shift_seconds", message));
        }
    };
    let message = format!(
        "nothing is held under `{}` that could be released",
        clip(&id)
    );
    let gone = || ApiError::not_found(message.clone()).with_field("id");
    let (partition, number) = place(&id).ok_or_else(gone)?;
    let record = shared
        .query(move |views| views.quarantined(partition, number))
        .await?
        .ok_or_else(gone)?;
    let release = Release {
        id: number,
        shift: seconds * 1_000_000,
        record,
    };
    let change = Change::Release { partition, release };
    writer.submit(change, "quarantine", id, "released").await
}

/// The two parts of `<partition>-<offset>`.
fn place(id: &str) -> Option<(u16, u64)> {
    let (partition, number) = id.split_once('-')?;
    Some((partition.parse().ok()?, number.parse().ok()?))
}

/// Where a page ended: entries have no id, but they stay in the order of their times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cursor {
    /// Time of the last entry.
    time: Time,
    /// How many entries of this time have been given out.
    given: usize,
}

impl Cursor {
    fn parse(text: &str) -> Result<Self, ApiError> {
        let parts = text.split_once(':').and_then(|(time, given)| {
            let time = Time(time.parse().ok()?);
            let given = given.parse().ok()?;
            Some(Self { time, given })
        });
        let strange = "the cursor is not one that this list gave out";
        parts.ok_or_else(|| ApiError::bad_parameter("after", strange))
    }
}

/// The page of `items` (newest first) behind `after`, and the cursor of the next one.
fn page(
    items: Vec<QuarantineItem>,
    after: Option<Cursor>,
    limit: usize,
) -> (Vec<QuarantineItem>, Option<String>) {
    let skip = after.map_or(0, |after| {
        let newer = items.iter().take_while(|i| i.time > after.time).count();
        let same = items[newer..].iter().take_while(|i| i.time == after.time);
        newer + same.take(after.given).count()
    });
    let end = (skip + limit).min(items.len());
    let next = (skip < end && end < items.len()).then(|| {
        let time = items[end - 1].time;
        let given = items[..end].iter().filter(|i| i.time == time).count();
        format!("{}:{given}", time.0)
    });
    let page = items.into_iter().skip(skip).take(limit).collect();
    (page, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(time: i64, message: &str) -> QuarantineItem {
        QuarantineItem {
            id: None,
            time: Time(time),
            kind: "refused",
            source: None,
            agent: None,
            device: None,
            metric: None,
            event_time: None,
            reason: "checksum",
            message: message.to_owned(),
            count: 1,
        }
    }

    #[test]
    fn pages_give_every_entry_once_though_times_repeat_and_new_ones_come_in() {
        let mut all: Vec<_> = [9, 7, 7, 7, 7, 4, 3]
            .iter()
            .enumerate()
            .map(|(i, &t)| item(t, &i.to_string()))
            .collect();
        let mut seen = Vec::new();
        let mut after = None;
        for _ in 0..4 {
            let (items, next) = page(all.clone(), after, 2);
            seen.extend(items.into_iter().map(|i| i.message));
            all.insert(0, item(100, "new"));
            after = next.map(|c| Cursor::parse(&c).unwrap());
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen, ["0", "1", "2", "3", "4", "5", "6"]);
    }

    #[test]
    fn strange_cursors_are_refused() {
        for bad in ["x", "1", ":", "1:x", "1:-1", "1:1:1"] {
            assert!(Cursor::parse(bad).is_err(), "{bad}");
        }
    }
}
