//! Devices: the list, one of them, and its recent points.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::Uri;
use views::DeviceQuery;
use views::model::{Device, Point};

use super::error::clip;
use super::params::Params;
use super::{ApiError, Counted, ErrorBody, Listing, Shared, cut};

const ATTRIBUTE: &str = "attr.";
const STATUSES: [&str; 3] = ["online", "buffering", "silent"];

/// Devices, ascending by id.
#[utoipa::path(get, path = "/api/v1/devices", tag = "devices", params(
    ("q" = Option<String>, Query, description = "Part of the id, upper and lower case alike"),
    ("status" = Option<String>, Query, description = "`online`, `buffering` or `silent`"),
    ("attr.KEY" = Option<String>, Query,
        description = "Only devices whose attribute KEY has this value; any number of them"),
    ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Most devices"),
    ("after" = Option<String>, Query, description = "`next` of the page before"),
), responses(
    (status = 200, body = Counted<Device>, description = "A page of devices"),
    (status = 400, body = ErrorBody, description = "A wrong parameter"),
))]
pub async fn devices(
    State(shared): State<Shared>,
    uri: Uri,
) -> Result<Json<Counted<Device>>, ApiError> {
    let params = Params::read(&uri, &["q", "status", "limit", "after"], &[ATTRIBUTE])?;
    let limit = params.limit()?;
    let query = DeviceQuery {
        text: params.text("q").unwrap_or_default().to_owned(),
        status: params.choice("status", &STATUSES)?.map(str::to_owned),
        attributes: params.pairs(ATTRIBUTE),
        after: params.after(),
        limit: limit + 1,
    };
    let page = shared.query(move |views| views.devices(&query)).await?;
    let (items, next) = cut(page.items, limit, |d| d.id.clone());
    Ok(Json(Counted {
        items,
        next,
        total: page.total,
    }))
}

/// One device.
#[utoipa::path(get, path = "/api/v1/devices/{id}", tag = "devices", params(
    ("id" = String, Path, description = "Its id"),
), responses(
    (status = 200, body = Device, description = "What is known of it"),
    (status = 404, body = ErrorBody, description = "No such device"),
))]
pub async fn device(
    State(shared): State<Shared>,
    id: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Json<Device>, ApiError> {
    Params::none(&uri)?;
    let id = utf8(id)?;
    let unknown = unknown(&id);
    let device = shared.query(move |views| views.device(&id)).await?;
    device.map(Json).ok_or(unknown)
}

/// Recent points of a device's metric.
///
/// Oldest first. Only what memory holds: a bounded number of the newest points.
#[utoipa::path(get, path = "/api/v1/devices/{id}/recent", tag = "devices", params(
    ("id" = String, Path, description = "Its id"),
    ("metric" = String, Query, description = "The metric"),
), responses(
    (status = 200, body = Listing<Point>, description = "The points"),
    (status = 400, body = ErrorBody, description = "A wrong parameter"),
    (status = 404, body = ErrorBody, description = "No such device, or it never sent that metric"),
))]
pub async fn recent(
    State(shared): State<Shared>,
    id: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Json<Listing<Point>>, ApiError> {
    let params = Params::read(&uri, &["metric"], &[])?;
    let metric = params.required("metric")?.to_owned();
    let id = utf8(id)?;
    let no_device = unknown(&id);
    let no_metric = ApiError::not_found(format!(
        "device `{}` has no metric `{}`",
        clip(&id),
        clip(&metric)
    ))
    .with_field("metric");
    let points = shared
        .query(move |views| match views.recent(&id, &metric) {
            Some(points) => Ok(points),
            None if views.device(&id).is_some() => Err(no_metric),
            None => Err(no_device),
        })
        .await??;
    Ok(Json(Listing { items: points }))
}

fn utf8(id: Result<Path<String>, PathRejection>) -> Result<String, ApiError> {
    let unreadable = || ApiError::bad_parameter("id", "is not UTF-8 behind its percent signs");
    id.map(|Path(id)| id).map_err(|_| unreadable())
}

fn unknown(id: &str) -> ApiError {
    ApiError::not_found(format!("device `{}` is not known", clip(id))).with_field("id")
}
