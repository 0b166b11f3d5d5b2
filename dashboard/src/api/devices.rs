//! Devices: the list, one of them, its recent points, and what operators say of it.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use event::{DeviceChange, DeviceId, MetricName};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use views::model::{Device, Point};
use views::{Command, CommandQuery, DeviceQuery};

use super::error::clip;
use super::params::Params;
use super::write::{Accepted, Body, Writer, name};
use super::{ApiError, Counted, ErrorBody, Listing, Shared, cut};
use crate::control::Change;

const ATTRIBUTE: &str = "attr.";
/// Commands shown with a device.
const COMMANDS_SHOWN: usize = 10;
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

/// A device and its newest commands.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct DeviceDetail {
    /// What is known of it.
    #[serde(flatten)]
    pub device: Device,
    /// Its newest commands, at most 10, newest first.
    pub commands: Vec<Command>,
}

/// One device.
#[utoipa::path(get, path = "/api/v1/devices/{id}", tag = "devices", params(
    ("id" = String, Path, description = "Its id"),
), responses(
    (status = 200, body = DeviceDetail, description = "What is known of it"),
    (status = 404, body = ErrorBody, description = "No such device"),
))]
pub async fn device(
    State(shared): State<Shared>,
    id: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Json<DeviceDetail>, ApiError> {
    Params::none(&uri)?;
    let id = name(id, "id")?;
    let unknown = unknown(&id);
    let query = CommandQuery {
        device: Some(id.clone()),
        limit: COMMANDS_SHOWN,
        ..CommandQuery::default()
    };
    let found = shared.query(move |views| {
        let device = views.device(&id)?;
        let commands = views.commands(&query).items;
        Some(DeviceDetail { device, commands })
    });
    found.await?.map(Json).ok_or(unknown)
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
    let id = name(id, "id")?;
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

/// What an operator says of a device.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(
    dead_code,
    reason = "for the description; the body is read field by field"
)]
pub struct DeviceBody {
    /// Attribute → its text; null takes back what an operator said before. Others stay as they are.
    attributes: std::collections::BTreeMap<String, Option<String>>,
}

/// Set attributes of a device.
///
/// They go over what the device says of itself. Past windows keep the groups that they have.
#[utoipa::path(put, path = "/api/v1/devices/{id}", tag = "devices", params(
    ("id" = String, Path, description = "Its id"),
), request_body = DeviceBody, responses(
    (status = 202, body = Accepted, description = "Durable; takes effect within about a second"),
    (status = 400, body = ErrorBody, description = "A wrong field"),
    (status = 403, body = ErrorBody, description = "Changes are not accepted here, or from that page"),
    (status = 404, body = ErrorBody, description = "No such device"),
    (status = 415, body = ErrorBody, description = "Not `application/json`"),
    (status = 503, body = ErrorBody, description = "Not ready, or the log takes nothing now"),
))]
pub async fn set_device(
    writer: Writer,
    State(shared): State<Shared>,
    id: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<Accepted>), ApiError> {
    let body = Body::read(body, &["attributes"])?;
    let (device, partitions) = find(&shared, name(id, "id")?).await?;
    let wrong = |message: String| ApiError::bad_parameter("attributes", message);
    let Some(Value::Object(given)) = body.0.get("attributes") else {
        let message = "must be an object such as {\"site\": \"north\", \"line\": null}";
        return Err(wrong(message.to_owned()));
    };
    let mut attributes = Vec::new();
    for (key, value) in given {
        let metric = MetricName::attribute(key).map_err(|e| wrong(e.to_string()))?;
        let text = match value {
            Value::String(text) => Some(text.clone()),
            Value::Null => None,
            _ => {
                let message = format!("`{}` must be a text in quotes, or null", clip(key));
                return Err(wrong(message));
            }
        };
        attributes.push((metric, text));
    }
    let change = DeviceChange {
        device: device.clone(),
        attributes,
    };
    change.check().map_err(|e| wrong(e.message))?;
    let change = Change::SetDevice { partitions, change };
    writer
        .submit(change, "device", device.to_string(), "set")
        .await
}

/// Decommission a device.
///
/// It is no longer expected in windows from now on. What it sent stays; if it sends again, it is back.
#[utoipa::path(delete, path = "/api/v1/devices/{id}", tag = "devices", params(
    ("id" = String, Path, description = "Its id"),
), responses(
    (status = 202, body = Accepted, description = "Durable; takes effect within about a second"),
    (status = 403, body = ErrorBody, description = "Changes are not accepted here, or from that page"),
    (status = 404, body = ErrorBody, description = "No such device"),
    (status = 503, body = ErrorBody, description = "Not ready, or the log takes nothing now"),
))]
pub async fn decommission(
    writer: Writer,
    State(shared): State<Shared>,
    id: Result<Path<String>, PathRejection>,
) -> Result<(StatusCode, Json<Accepted>), ApiError> {
    let (device, partitions) = find(&shared, name(id, "id")?).await?;
    let name = device.to_string();
    let change = Change::Decommission { partitions, device };
    writer
        .submit(change, "device", name, "decommissioned")
        .await
}

/// The device, and the partitions that know it.
async fn find(shared: &Shared, id: String) -> Result<(DeviceId, Vec<u16>), ApiError> {
    let no_device = unknown(&id);
    let Ok(device) = DeviceId::new(&id) else {
        return Err(no_device);
    };
    let partitions = shared.query(move |views| views.partitions_of(&id)).await?;
    match partitions.is_empty() {
        true => Err(no_device),
        false => Ok((device, partitions)),
    }
}

fn unknown(id: &str) -> ApiError {
    ApiError::not_found(format!("device `{}` is not known", clip(id))).with_field("id")
}
