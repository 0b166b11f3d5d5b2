//! Commands to devices: give one, see what became of it, take it back, stop them all.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use event::order::Origin;
use event::{CommandControl, DeviceId, Order, SpecError};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use views::{Command, CommandQuery, CommandStop};

use super::aggregates::duration;
use super::error::clip;
use super::params::Params;
use super::write::{Accepted, Body, Writer, name};
use super::{ApiError, Counted, ErrorBody, Shared, cut};
use crate::control::{Change, Place};

const STATES: [&str; 9] = [
    "queued",
    "sent",
    "running",
    "succeeded",
    "failed",
    "expired",
    "refused",
    "cancelled",
    "dry_run",
];
/// Ids that are paths of other calls.
const TAKEN: [&str; 2] = ["stop", "rollouts"];
/// A command may start for so long if its giver says nothing else.
pub(super) const TTL_DEFAULT: &str = "5m";
/// Who gave a command, if nobody says so.
const BY_DEFAULT: &str = "api";

/// A command that is to be given.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(
    dead_code,
    reason = "for the description; the body is read field by field"
)]
pub struct CommandBody {
    /// Name on the device's allow-list.
    name: String,
    /// Values for the allow-list's argument template: at most 16, with 1,024 bytes in all.
    args: Option<BTreeMap<String, String>>,
    /// How long it may start, `1s` to `30d`; `5m` if absent.
    ttl: Option<String>,
    /// Its id, so that asking again does not give it again; made here if absent. 1 to 256 bytes without white
    /// space.
    id: Option<String>,
    /// Only record what would be sent.
    dry_run: Option<bool>,
    /// Send it although the stop switch is on.
    force: Option<bool>,
    /// Who gives it, at most 128 bytes.
    by: Option<String>,
    /// Why, at most 512 bytes.
    why: Option<String>,
}

/// A command that entered the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Given {
    /// Its id.
    pub id: String,
    /// The device.
    pub device: String,
    /// The agent that it is for.
    pub agent: Option<String>,
    /// Name on the device's allow-list.
    pub name: String,
    /// Arguments.
    pub args: BTreeMap<String, String>,
    /// `queued`: `GET /api/v1/commands/{id}` tells the rest. If the id was known already: its present state.
    #[schema(value_type = String)]
    pub state: &'static str,
    /// Whether it is only recorded.
    pub dry_run: bool,
    /// Whether the stop switch is on: then it waits until that is off, unless it is forced.
    pub stopped: bool,
    /// Where it stands in the log; empty if the id was known already.
    pub at: Vec<Place>,
}

pub(super) fn wrong(error: SpecError) -> ApiError {
    ApiError::bad_parameter(error.field, error.message)
}

/// A fresh id: 128 bits from the hasher's keys, which the standard library draws from the system.
pub(super) fn fresh_id(prefix: &str) -> String {
    let bits = |n: u8| RandomState::new().hash_one(n);
    format!("{prefix}-{:016x}{:016x}", bits(0), bits(1))
}

impl Body {
    pub(super) fn flag(&self, field: &str) -> Result<bool, ApiError> {
        match self.0.get(field) {
            None => Ok(false),
            Some(Value::Bool(on)) => Ok(*on),
            Some(_) => Err(ApiError::bad_parameter(field, "must be true or false")),
        }
    }

    /// Texts by name; numbers and truth values are taken as their texts.
    pub(super) fn pairs(&self, field: &str) -> Result<BTreeMap<String, String>, ApiError> {
        let wrong = || {
            let message = "must be an object of texts such as {\"speed\": \"3\"}";
            ApiError::bad_parameter(field, message)
        };
        match self.0.get(field) {
            None => Ok(BTreeMap::new()),
            Some(Value::Object(given)) => given
                .iter()
                .map(|(key, value)| match value {
                    Value::String(text) => Ok((key.clone(), text.clone())),
                    Value::Number(n) => Ok((key.clone(), n.to_string())),
                    Value::Bool(on) => Ok((key.clone(), on.to_string())),
                    _ => Err(wrong()),
                })
                .collect(),
            Some(_) => Err(wrong()),
        }
    }

    pub(super) fn needed(&self, field: &str) -> Result<&str, ApiError> {
        self.text(field)?
            .ok_or_else(|| ApiError::bad_parameter(field, "is missing"))
    }

    pub(super) fn by(&self) -> Result<String, ApiError> {
        Ok(self.text("by")?.unwrap_or(BY_DEFAULT).to_owned())
    }

    pub(super) fn why(&self) -> Result<String, ApiError> {
        Ok(self.text("why")?.unwrap_or_default().to_owned())
    }

    pub(super) fn ttl(&self) -> Result<i64, ApiError> {
        duration("ttl", self.text("ttl")?.unwrap_or(TTL_DEFAULT))
    }
}

/// Give a command to a device.
///
/// It is sent to the device's agent as soon as that is in contact, again and again until the device has
/// answered, and the device runs it once. An id that is known already gives nothing new: the answer is the
/// command as it is.
#[utoipa::path(post, path = "/api/v1/devices/{id}/commands", tag = "commands", params(
    ("id" = String, Path, description = "The device"),
), request_body = CommandBody, responses(
    (status = 202, body = Given, description = "Durable; it is sent when its agent is in contact"),
    (status = 400, body = ErrorBody, description = "A wrong field, or a device that cannot get commands"),
    (status = 403, body = ErrorBody, description = "Changes are not accepted here, or from that page"),
    (status = 404, body = ErrorBody, description = "No such device"),
    (status = 409, body = ErrorBody, description = "The id is of another command"),
    (status = 415, body = ErrorBody, description = "Not `application/json`"),
    (status = 503, body = ErrorBody, description = "Not ready, or the log takes nothing now"),
))]
pub async fn give(
    writer: Writer,
    State(shared): State<Shared>,
    path: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<Given>), ApiError> {
    const FIELDS: [&str; 8] = ["name", "args", "ttl", "id", "dry_run", "force", "by", "why"];
    let body = Body::read(body, &FIELDS)?;
    let device = name(path, "device")?;
    let unknown = || {
        let message = format!("device `{}` is not known", clip(&device));
        ApiError::not_found(message).with_field("device")
    };
    let device_id = DeviceId::new(&device).map_err(|_| unknown())?;
    let id = match body.text("id")? {
        Some(id) if TAKEN.contains(&id) => {
            let message = format!("`{id}` cannot be an id; choose another");
            return Err(ApiError::bad_parameter("id", message));
        }
        Some(id) => id.to_owned(),
        None => fresh_id("c"),
    };
    let order = Order {
        id: id.clone(),
        device: device_id,
        name: body.needed("name")?.to_owned(),
        args: body.pairs("args")?,
        ttl: body.ttl()?,
        by: body.by()?,
        why: body.why()?,
        origin: Origin::ByHand,
        alert: None,
        dry_run: body.flag("dry_run")?,
        force: body.flag("force")?,
    };
    order.check().map_err(wrong)?;
    let of = device.clone();
    let (known, target, stop) = shared
        .query(move |v| (v.command(&id), v.command_target(&of), v.command_stop()))
        .await?;
    if let Some((_, known)) = known {
        return Ok((StatusCode::ACCEPTED, Json(as_known(&order, known, &stop)?)));
    }
    let (partition, target) = target.ok_or_else(unknown)?;
    if target.agent.is_none() {
        let message = format!(
            "`{}` is a plain device: only devices behind an agent of ours can get commands",
            clip(&device)
        );
        return Err(ApiError::bad_parameter("device", message));
    }
    let mut given = Given {
        id: order.id.clone(),
        device,
        agent: target.agent,
        name: order.name.clone(),
        args: order.args.clone(),
        state: "queued",
        dry_run: order.dry_run,
        stopped: stop.on && !order.force,
        at: Vec::new(),
    };
    given.at = writer
        .append(
            Change::Command { partition, order },
            "command",
            &given.id,
            "given",
        )
        .await?;
    Ok((StatusCode::ACCEPTED, Json(given)))
}

/// The answer to an order whose id is known.
fn as_known(order: &Order, known: Command, stop: &CommandStop) -> Result<Given, ApiError> {
    let same = known.device == order.device.as_str()
        && known.name == order.name
        && known.args == order.args;
    if !same {
        let message = format!(
            "`{}` is the id of another command: {} for {}; choose another id",
            clip(&order.id),
            known.name,
            known.device
        );
        return Err(ApiError::conflict(message).with_field("id"));
    }
    let stopped = stop.on && !known.forced && known.state == "queued";
    Ok(Given {
        id: known.id,
        device: known.device,
        agent: known.agent,
        name: known.name,
        args: known.args,
        state: known.state,
        dry_run: known.dry_run,
        stopped,
        at: Vec::new(),
    })
}

/// Commands, newest first.
///
/// Of each partition the newest 10,000 that have ended within 30 days, and all that have not.
#[utoipa::path(get, path = "/api/v1/commands", tag = "commands", params(
    ("state" = Option<String>, Query, description = "`queued`, `sent`, `running`, `succeeded`, `failed`, \
        `expired`, `refused`, `cancelled` or `dry_run`"),
    ("device" = Option<String>, Query, description = "Of this device"),
    ("rollout" = Option<String>, Query, description = "Of this rollout"),
    ("rule" = Option<String>, Query, description = "Given by this rule"),
    ("alert" = Option<String>, Query, description = "Given for this alert"),
    ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "Most commands"),
    ("after" = Option<String>, Query, description = "`next` of the page before"),
), responses(
    (status = 200, body = Counted<Command>, description = "A page of commands"),
    (status = 400, body = ErrorBody, description = "A wrong parameter"),
))]
pub async fn commands(
    State(shared): State<Shared>,
    uri: Uri,
) -> Result<Json<Counted<Command>>, ApiError> {
    let known = [
        "state", "device", "rollout", "rule", "alert", "limit", "after",
    ];
    let params = Params::read(&uri, &known, &[])?;
    let limit = params.limit()?;
    let text = |name| params.text(name).map(str::to_owned);
    let query = CommandQuery {
        state: params.choice("state", &STATES)?.map(str::to_owned),
        device: text("device"),
        rollout: text("rollout"),
        rule: text("rule"),
        alert: text("alert"),
        after: params.after().map(|a| place(&a)).transpose()?,
        limit: limit + 1,
    };
    let page = shared.query(move |views| views.commands(&query)).await?;
    let (items, next) = cut(page.items, limit, |c| format!("{}:{}", c.issued.0, c.id));
    Ok(Json(Counted {
        items,
        next,
        total: page.total,
    }))
}

fn place(after: &str) -> Result<(i64, String), ApiError> {
    let place = after.split_once(':');
    place
        .and_then(|(at, id)| Some((at.parse().ok()?, id.to_owned())))
        .ok_or_else(|| ApiError::bad_parameter("after", "is not the `next` of a page"))
}

fn unknown(id: &str) -> ApiError {
    ApiError::not_found(format!("command `{}` is not known", clip(id))).with_field("id")
}

/// One command.
#[utoipa::path(get, path = "/api/v1/commands/{id}", tag = "commands", params(
    ("id" = String, Path, description = "Its id"),
), responses(
    (status = 200, body = Command, description = "What became of it so far"),
    (status = 404, body = ErrorBody, description = "No such command, or it is forgotten"),
))]
pub async fn command(
    State(shared): State<Shared>,
    id: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Json<Command>, ApiError> {
    Params::none(&uri)?;
    let id = name(id, "id")?;
    let unknown = unknown(&id);
    let found = shared.query(move |views| views.command(&id)).await?;
    found.map(|(_, c)| Json(c)).ok_or(unknown)
}

/// Who steers something, and why.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(
    dead_code,
    reason = "for the description; the body is read field by field"
)]
pub struct SteerBody {
    /// Who, at most 128 bytes.
    by: Option<String>,
    /// Why, at most 512 bytes.
    why: Option<String>,
}

/// Take a command back.
///
/// Only one that was not sent yet: what was sent may have run.
#[utoipa::path(post, path = "/api/v1/commands/{id}/cancel", tag = "commands", params(
    ("id" = String, Path, description = "Its id"),
), request_body = SteerBody, responses(
    (status = 202, body = Accepted, description = "Durable; it is taken back unless it is sent before"),
    (status = 403, body = ErrorBody, description = "Changes are not accepted here, or from that page"),
    (status = 404, body = ErrorBody, description = "No such command"),
    (status = 409, body = ErrorBody, description = "It was sent already, or has ended"),
    (status = 503, body = ErrorBody, description = "Not ready, or the log takes nothing now"),
))]
pub async fn cancel(
    writer: Writer,
    State(shared): State<Shared>,
    id: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<Accepted>), ApiError> {
    let body = Body::read(body, &["by", "why"])?;
    let id = name(id, "id")?;
    let asked = id.clone();
    let found = shared.query(move |views| views.command(&asked)).await?;
    let (partition, command) = found.ok_or_else(|| unknown(&id))?;
    if command.state != "queued" {
        let message = format!(
            "command `{}` is {}: only one that was not sent yet can be taken back",
            clip(&id),
            command.state
        );
        return Err(ApiError::conflict(message).with_field("id"));
    }
    let control = CommandControl::Cancel {
        id: id.clone(),
        by: body.by()?,
    };
    control.check().map_err(wrong)?;
    let change = Change::CommandControl {
        partition: Some(partition),
        control,
    };
    writer.submit(change, "command", id, "cancelled").await
}

/// The stop switch.
#[utoipa::path(get, path = "/api/v1/commands/stop", tag = "commands", responses(
    (status = 200, body = CommandStop, description = "Whether it is on, since when and why"),
))]
pub async fn stop(State(shared): State<Shared>, uri: Uri) -> Result<Json<CommandStop>, ApiError> {
    Params::none(&uri)?;
    Ok(Json(shared.query(|views| views.command_stop()).await?))
}

/// Which way to turn the stop switch.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(
    dead_code,
    reason = "for the description; the body is read field by field"
)]
pub struct StopBody {
    /// On or off.
    on: bool,
    /// Who, at most 128 bytes.
    by: Option<String>,
    /// Why, at most 512 bytes.
    why: Option<String>,
}

/// Turn the stop switch.
///
/// While it is on, nothing is sent: no command of a rule, of a rollout or by hand, but those that are given
/// with `force`. What waits stays queued and expires in its time; rules give no new ones. What was sent
/// before cannot be called back.
#[utoipa::path(put, path = "/api/v1/commands/stop", tag = "commands", request_body = StopBody, responses(
    (status = 202, body = Accepted, description = "Durable; takes effect within about a second"),
    (status = 400, body = ErrorBody, description = "A wrong field"),
    (status = 403, body = ErrorBody, description = "Changes are not accepted here, or from that page"),
    (status = 415, body = ErrorBody, description = "Not `application/json`"),
    (status = 503, body = ErrorBody, description = "Not ready, or the log takes nothing now"),
))]
pub async fn set_stop(
    writer: Writer,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<Accepted>), ApiError> {
    let body = Body::read(body, &["on", "by", "why"])?;
    if !body.0.contains_key("on") {
        return Err(ApiError::bad_parameter("on", "must be true or false"));
    }
    let on = body.flag("on")?;
    let control = CommandControl::Stop {
        on,
        by: body.by()?,
        why: body.why()?,
    };
    control.check().map_err(wrong)?;
    let change = Change::CommandControl {
        partition: None,
        control,
    };
    let action = if on { "on" } else { "off" };
    writer
        .submit(change, "commands", "stop".to_owned(), action)
        .await
}
