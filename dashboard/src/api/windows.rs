//! Windows of aggregates, and the devices that a window waits for.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use views::model::{Outstanding, Row};
use views::{Tier, WindowQuery};

use super::params::Params;
use super::{ApiError, Counted, ErrorBody, Paged, Shared, cut};

const GROUP: &str = "group.";

/// Windows of an aggregate.
///
/// Ascending by start, then group. Without `from`, `to` and `after` the newest ones. Hours and days are kept
/// longer than windows are.
#[utoipa::path(get, path = "/api/v1/windows", tag = "windows", params(
    ("aggregate" = String, Query, description = "Name of the aggregate"),
    ("resolution" = Option<String>, Query,
        description = "`window` (the aggregate's own; also if absent), `hour` or `day` (UTC)"),
    ("from" = Option<String>, Query,
        description = "Starts at or after this: RFC 3339, or integer milliseconds since 1970"),
    ("to" = Option<String>, Query, description = "Starts before this"),
    ("group.KEY" = Option<String>, Query,
        description = "Only groups in which the attribute KEY has this value; any number of them"),
    ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Most rows"),
    ("after" = Option<String>, Query, description = "`next` of the page before"),
), responses(
    (status = 200, body = Paged<Row>, description = "A page of rows"),
    (status = 400, body = ErrorBody, description = "A wrong parameter"),
    (status = 404, body = ErrorBody, description = "No such aggregate"),
))]
pub async fn windows(State(shared): State<Shared>, uri: Uri) -> Result<Json<Paged<Row>>, ApiError> {
    let known = ["aggregate", "resolution", "from", "to", "limit", "after"];
    let params = Params::read(&uri, &known, &[GROUP])?;
    let tiers = [Tier::Window, Tier::Hour, Tier::Day];
    let resolution = params.choice("resolution", &tiers.map(Tier::as_str))?;
    let query = WindowQuery {
        aggregate: params.required("aggregate")?.to_owned(),
        tier: tiers
            .into_iter()
            .find(|t| Some(t.as_str()) == resolution)
            .unwrap_or_default(),
        from: params.time("from")?,
        to: params.time("to")?,
        group: params.pairs(GROUP),
        after: params.after(),
        limit: params.limit()?,
    };
    if matches!((query.from, query.to), (Some(from), Some(to)) if from > to) {
        return Err(ApiError::bad_parameter("to", "`to` is before `from`"));
    }
    let page = shared.query(move |views| views.windows(&query)).await??;
    Ok(Json(Paged {
        items: page.items,
        next: page.next,
    }))
}

/// The devices that a window waits for.
///
/// By name, with last contact and backlog, ascending by device.
#[utoipa::path(get, path = "/api/v1/windows/outstanding", tag = "windows", params(
    ("aggregate" = String, Query, description = "Name of the aggregate"),
    ("start" = String, Query,
        description = "Start of the window: RFC 3339, or integer milliseconds since 1970"),
    ("group.KEY" = Option<String>, Query,
        description = "The group: one for each attribute that the aggregate is grouped by"),
    ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Most devices"),
    ("after" = Option<String>, Query, description = "`next` of the page before"),
), responses(
    (status = 200, body = Counted<Outstanding>, description = "A page of devices"),
    (status = 400, body = ErrorBody, description = "A wrong parameter"),
    (status = 404, body = ErrorBody, description = "No such aggregate"),
))]
pub async fn outstanding(
    State(shared): State<Shared>,
    uri: Uri,
) -> Result<Json<Counted<Outstanding>>, ApiError> {
    let params = Params::read(&uri, &["aggregate", "start", "limit", "after"], &[GROUP])?;
    let aggregate = params.required("aggregate")?.to_owned();
    params.required("start")?;
    let start = params.time("start")?.unwrap_or_default();
    let (group, after, limit) = (params.pairs(GROUP), params.after(), params.limit()?);
    let page = shared
        .query(move |views| views.outstanding(&aggregate, start, &group, after, limit + 1))
        .await??;
    let (items, next) = cut(page.items, limit, |o| o.device.clone());
    Ok(Json(Counted {
        items,
        next,
        total: page.total,
    }))
}
