//! Rollouts: one command to many devices, a canary first.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use event::order::TARGETS_MAX;
use event::{CommandControl, DeviceId, RolloutOrder};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use views::model::Device;
use views::{DeviceQuery, Rollout, Views};

use super::commands::{SteerBody, fresh_id, wrong};
use super::error::clip;
use super::params::Params;
use super::write::{Accepted, Body, Writer, name};
use super::{ApiError, ErrorBody, Listing, Shared};
use crate::control::{Change, Place};

const CANARY_DEFAULT: u32 = 1;
const AT_ONCE_DEFAULT: u32 = 50;
/// Rollouts that the server remembers; those under way must be fewer.
const ROLLOUTS_MAX: usize = 100;

/// A rollout that is to be begun.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(
    dead_code,
    reason = "for the description; the body is read field by field"
)]
pub struct RolloutBody {
    /// Name on the devices' allow-lists.
    name: String,
    /// Values for the argument template: at most 16, with 1,024 bytes in all.
    args: Option<BTreeMap<String, String>>,
    /// The devices in the order in which they get it; this or `match`.
    devices: Option<Vec<String>>,
    /// Attributes that the devices must have, at most 10,000 devices; they get it in the order of their ids.
    /// Plain devices are left out.
    r#match: Option<BTreeMap<String, String>>,
    /// So many must succeed before the others get it; 1 if absent, 0 = none.
    canary: Option<u32>,
    /// So many may be under way at a time; 50 if absent, 0 = no limit.
    at_once: Option<u32>,
    /// So many of the others may fail without stopping the rest; 0 if absent.
    max_failures: Option<u32>,
    /// How long each command may start, counted from when it is given, `1s` to `30d`; `5m` if absent.
    ttl: Option<String>,
    /// Its id, so that asking again does not begin it again; made here if absent. 1 to 128 bytes without white
    /// space.
    id: Option<String>,
    /// Only record what would be sent.
    dry_run: Option<bool>,
    /// Who begins it, at most 128 bytes.
    by: Option<String>,
    /// Why, at most 512 bytes.
    why: Option<String>,
}

/// A rollout that entered the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Begun {
    /// Its id: `GET /api/v1/commands/rollouts/{id}` tells the rest.
    pub id: String,
    /// How many devices it is for.
    pub devices: u64,
    /// Where it stands in the log; empty if the id was known already.
    pub at: Vec<Place>,
}

impl Body {
    fn count(&self, field: &str, default: u32) -> Result<u32, ApiError> {
        match self.0.get(field) {
            None => Ok(default),
            Some(value) => value
                .as_u64()
                .and_then(|n| u32::try_from(n).ok())
                .filter(|n| *n as usize <= TARGETS_MAX)
                .ok_or_else(|| {
                    let message = format!("must be a whole number from 0 to {TARGETS_MAX}");
                    ApiError::bad_parameter(field, message)
                }),
        }
    }
}

/// The devices that a body names.
enum Wanted {
    Named(Vec<String>),
    Matching(Vec<(String, String)>),
}

impl Wanted {
    fn read(body: &Body) -> Result<Self, ApiError> {
        let wrong = |field: &str, message: &str| Err(ApiError::bad_parameter(field, message));
        match (body.0.get("devices"), body.0.contains_key("match")) {
            (Some(_), true) | (None, false) => wrong("devices", "give either `devices` or `match`"),
            (None, true) => {
                let pairs = body.pairs("match")?;
                if pairs.is_empty() {
                    return wrong(
                        "match",
                        "names no attribute; to reach all devices, list them in `devices`",
                    );
                }
                Ok(Self::Matching(pairs.into_iter().collect()))
            }
            (Some(Value::Array(items)), false) => {
                let text = |v: &Value| v.as_str().map(str::to_owned);
                let Some(all) = items.iter().map(text).collect::<Option<Vec<_>>>() else {
                    return wrong("devices", "must be a list of ids");
                };
                let different: BTreeSet<&String> = all.iter().collect();
                if different.len() < all.len() {
                    return wrong("devices", "names a device twice");
                }
                Ok(Self::Named(all))
            }
            (Some(_), false) => wrong("devices", "must be a list of ids"),
        }
    }

    fn find(&self, views: &Views) -> Result<Vec<(u16, DeviceId)>, ApiError> {
        let of = |(partition, device): (u16, Device)| {
            let id = DeviceId::new(&device.id).ok()?;
            device.agent.is_some().then_some((partition, id))
        };
        match self {
            Self::Named(ids) => ids
                .iter()
                .map(|id| {
                    let found = views.command_target(id).ok_or_else(|| {
                        let message = format!("device `{}` is not known", clip(id));
                        ApiError::not_found(message).with_field("devices")
                    })?;
                    of(found).ok_or_else(|| {
                        let message = format!(
                            "`{}` is a plain device: only devices behind an agent of ours can get \
                             commands",
                            clip(id)
                        );
                        ApiError::bad_parameter("devices", message)
                    })
                })
                .collect(),
            Self::Matching(attributes) => {
                let query = DeviceQuery {
                    attributes: attributes.clone(),
                    limit: TARGETS_MAX + 1,
                    ..DeviceQuery::default()
                };
                let found = views.command_targets(&query);
                if found.len() > TARGETS_MAX {
                    let message = format!("more than {TARGETS_MAX} devices match; match fewer");
                    return Err(ApiError::bad_parameter("match", message));
                }
                let targets: Vec<_> = found.into_iter().filter_map(of).collect();
                if targets.is_empty() {
                    let message = "no device behind an agent of ours matches";
                    return Err(ApiError::bad_parameter("match", message));
                }
                Ok(targets)
            }
        }
    }
}

/// Begin a rollout.
///
/// The first devices get the command at once. When all of them have succeeded, the others follow by turns. One
/// of the first that fails, refuses it or lets it expire stops the rollout; so do more than `max_failures` of
/// the others.
#[utoipa::path(post, path = "/api/v1/commands/rollouts", tag = "commands", request_body = RolloutBody,
    responses(
    (status = 202, body = Begun, description = "Durable; it begins within about a second"),
    (status = 400, body = ErrorBody, description = "A wrong field"),
    (status = 403, body = ErrorBody, description = "Changes are not accepted here, or from that page"),
    (status = 404, body = ErrorBody, description = "A device that is not known"),
    (status = 409, body = ErrorBody, description = "Too many rollouts are under way, or the id is of another"),
    (status = 415, body = ErrorBody, description = "Not `application/json`"),
    (status = 503, body = ErrorBody, description = "Not ready, or the log takes nothing now"),
))]
pub async fn begin(
    writer: Writer,
    State(shared): State<Shared>,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<Begun>), ApiError> {
    const FIELDS: [&str; 12] = [
        "name",
        "args",
        "devices",
        "match",
        "canary",
        "at_once",
        "max_failures",
        "ttl",
        "id",
        "dry_run",
        "by",
        "why",
    ];
    let body = Body::read(body, &FIELDS)?;
    let wanted = Wanted::read(&body)?;
    let mut order = RolloutOrder {
        id: body
            .text("id")?
            .map_or_else(|| fresh_id("r"), str::to_owned),
        name: body.needed("name")?.to_owned(),
        args: body.pairs("args")?,
        ttl: body.ttl()?,
        by: body.by()?,
        why: body.why()?,
        targets: Vec::new(),
        canary: body.count("canary", CANARY_DEFAULT)?,
        at_once: body.count("at_once", AT_ONCE_DEFAULT)?,
        failures_max: body.count("max_failures", 0)?,
        dry_run: body.flag("dry_run")?,
    };
    let (targets, all) = shared
        .query(move |views| (wanted.find(views), views.rollouts()))
        .await?;
    order.targets = targets?;
    order.check().map_err(wrong)?;
    let id = order.id.clone();
    if let Some(known) = all.iter().find(|r| r.id == id) {
        if known.name != order.name || known.args != order.args {
            let message = format!("`{}` is the id of another rollout", clip(&id));
            return Err(ApiError::conflict(message).with_field("id"));
        }
        let begun = Begun {
            id,
            devices: known.total,
            at: Vec::new(),
        };
        return Ok((StatusCode::ACCEPTED, Json(begun)));
    }
    let under_way = |r: &&Rollout| matches!(r.state, "canary" | "rolling");
    if all.iter().filter(under_way).count() >= ROLLOUTS_MAX {
        let message = format!("{ROLLOUTS_MAX} rollouts are under way; wait for one, or stop one");
        return Err(ApiError::conflict(message));
    }
    let devices = order.targets.len() as u64;
    let change = Change::CommandControl {
        partition: Some(0),
        control: CommandControl::Rollout(order),
    };
    let at = writer.append(change, "rollout", &id, "begun").await?;
    Ok((StatusCode::ACCEPTED, Json(Begun { id, devices, at })))
}

/// Rollouts, newest first.
///
/// The newest 100. Their commands: `GET /api/v1/commands?rollout=ID`.
#[utoipa::path(get, path = "/api/v1/commands/rollouts", tag = "commands", responses(
    (status = 200, body = Listing<Rollout>, description = "The rollouts"),
))]
pub async fn rollouts(
    State(shared): State<Shared>,
    uri: Uri,
) -> Result<Json<Listing<Rollout>>, ApiError> {
    Params::none(&uri)?;
    let items = shared.query(|views| views.rollouts()).await?;
    Ok(Json(Listing { items }))
}

async fn find(shared: &Shared, id: String) -> Result<Rollout, ApiError> {
    let unknown = ApiError::not_found(format!("rollout `{}` is not known", clip(&id)));
    let all = shared.query(|views| views.rollouts()).await?;
    let found = all.into_iter().find(|r| r.id == id);
    found.ok_or_else(|| unknown.with_field("id"))
}

/// One rollout.
#[utoipa::path(get, path = "/api/v1/commands/rollouts/{id}", tag = "commands", params(
    ("id" = String, Path, description = "Its id"),
), responses(
    (status = 200, body = Rollout, description = "How far it is"),
    (status = 404, body = ErrorBody, description = "No such rollout"),
))]
pub async fn rollout(
    State(shared): State<Shared>,
    id: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Json<Rollout>, ApiError> {
    Params::none(&uri)?;
    find(&shared, name(id, "id")?).await.map(Json)
}

/// Stop a rollout.
///
/// Commands that were given out already go on.
#[utoipa::path(post, path = "/api/v1/commands/rollouts/{id}/stop", tag = "commands", params(
    ("id" = String, Path, description = "Its id"),
), request_body = SteerBody, responses(
    (status = 202, body = Accepted, description = "Durable; takes effect within about a second"),
    (status = 403, body = ErrorBody, description = "Changes are not accepted here, or from that page"),
    (status = 404, body = ErrorBody, description = "No such rollout"),
    (status = 409, body = ErrorBody, description = "It is done"),
    (status = 503, body = ErrorBody, description = "Not ready, or the log takes nothing now"),
))]
pub async fn stop(
    writer: Writer,
    State(shared): State<Shared>,
    id: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<Accepted>), ApiError> {
    steer(&writer, &shared, id, body, false).await
}

/// Go on with a rollout that stopped.
///
/// It begins with a canary again, among the devices that did not get the command yet.
#[utoipa::path(post, path = "/api/v1/commands/rollouts/{id}/resume", tag = "commands", params(
    ("id" = String, Path, description = "Its id"),
), request_body = SteerBody, responses(
    (status = 202, body = Accepted, description = "Durable; takes effect within about a second"),
    (status = 403, body = ErrorBody, description = "Changes are not accepted here, or from that page"),
    (status = 404, body = ErrorBody, description = "No such rollout"),
    (status = 409, body = ErrorBody, description = "It is not stopped"),
    (status = 503, body = ErrorBody, description = "Not ready, or the log takes nothing now"),
))]
pub async fn resume(
    writer: Writer,
    State(shared): State<Shared>,
    id: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<Accepted>), ApiError> {
    steer(&writer, &shared, id, body, true).await
}

/// Stop the commands of a rule.
///
/// Its alerts go on; they give no commands until somebody resumes them.
#[utoipa::path(post, path = "/api/v1/rules/{name}/commands/stop", tag = "commands", params(
    ("name" = String, Path, description = "The rule"),
), request_body = SteerBody, responses(
    (status = 202, body = Accepted, description = "Durable; takes effect within about a second"),
    (status = 400, body = ErrorBody, description = "The rule gives no commands"),
    (status = 403, body = ErrorBody, description = "Changes are not accepted here, or from that page"),
    (status = 404, body = ErrorBody, description = "No such rule"),
    (status = 503, body = ErrorBody, description = "Not ready, or the log takes nothing now"),
))]
pub async fn stop_rule(
    writer: Writer,
    State(shared): State<Shared>,
    rule: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<Accepted>), ApiError> {
    steer_rule(&writer, &shared, rule, body, false).await
}

/// Go on with the commands of a rule that a failure or somebody stopped.
///
/// They begin with a canary again.
#[utoipa::path(post, path = "/api/v1/rules/{name}/commands/resume", tag = "commands", params(
    ("name" = String, Path, description = "The rule"),
), request_body = SteerBody, responses(
    (status = 202, body = Accepted, description = "Durable; takes effect within about a second"),
    (status = 400, body = ErrorBody, description = "The rule gives no commands"),
    (status = 403, body = ErrorBody, description = "Changes are not accepted here, or from that page"),
    (status = 404, body = ErrorBody, description = "No such rule"),
    (status = 503, body = ErrorBody, description = "Not ready, or the log takes nothing now"),
))]
pub async fn resume_rule(
    writer: Writer,
    State(shared): State<Shared>,
    rule: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<Accepted>), ApiError> {
    steer_rule(&writer, &shared, rule, body, true).await
}

async fn steer_rule(
    writer: &Writer,
    shared: &Shared,
    rule: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
    go_on: bool,
) -> Result<(StatusCode, Json<Accepted>), ApiError> {
    let body = Body::read(body, &["by", "why"])?;
    let rule = name(rule, "name")?;
    let asked = rule.clone();
    let found = shared.query(move |views| views.rule(&asked)).await?;
    let found = found.ok_or_else(|| {
        let message = format!("rule `{}` is not known", clip(&rule));
        ApiError::not_found(message).with_field("name")
    })?;
    if found.get("command").is_none_or(Value::is_null) {
        let message = format!("rule `{}` gives no commands", clip(&rule));
        return Err(ApiError::bad_parameter("name", message));
    }
    submit_steer(writer, None, Some(rule), &body, go_on).await
}

async fn steer(
    writer: &Writer,
    shared: &Shared,
    id: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
    go_on: bool,
) -> Result<(StatusCode, Json<Accepted>), ApiError> {
    let body = Body::read(body, &["by", "why"])?;
    let found = find(shared, name(id, "id")?).await?;
    let fits = match go_on {
        true => found.state == "stopped",
        false => matches!(found.state, "canary" | "rolling"),
    };
    if !fits {
        let message = format!("rollout `{}` is {}", clip(&found.id), found.state);
        return Err(ApiError::conflict(message).with_field("id"));
    }
    submit_steer(writer, Some(found.id), None, &body, go_on).await
}

async fn submit_steer(
    writer: &Writer,
    rollout: Option<String>,
    rule: Option<String>,
    body: &Body,
    go_on: bool,
) -> Result<(StatusCode, Json<Accepted>), ApiError> {
    let (kind, name) = match (&rollout, &rule) {
        (Some(id), _) => ("rollout", id.clone()),
        (None, rule) => ("rule", rule.clone().unwrap_or_default()),
    };
    let control = CommandControl::Steer {
        rollout,
        rule,
        go_on,
        by: body.by()?,
        why: body.why()?,
    };
    control.check().map_err(wrong)?;
    let change = Change::CommandControl {
        partition: Some(0),
        control,
    };
    let action = if go_on { "resumed" } else { "stopped" };
    writer.submit(change, kind, name, action).await
}
