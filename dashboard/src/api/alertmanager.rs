//! The API of Prometheus' Alertmanager, version 2, as far as it lists and silences: `amtool`, Grafana and others
//! show our alerts and silence them. Alerts of others are not taken.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use event::{EventTime, Matcher, SilenceKind, SilenceSpec};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use views::matcher::{Matchers, parse};
use views::model::Time;
use views::oncall::{AlertPage, AlertQuery, MarkedAlert, Silence};

use super::write::{Body, Writer, name};
use super::{ApiError, Shared, silences};

/// Most alerts of an answer.
const ALERTS_MAX: usize = 10_000;
/// Most groups of an answer.
const GROUPS_MAX: usize = 1000;
/// The receiver of alerts that no notifier gets.
const NOBODY: &str = "none";

/// An error is a JSON text there.
pub struct Wrong(StatusCode, String);

impl From<ApiError> for Wrong {
    fn from(error: ApiError) -> Self {
        Self(error.status(), error.message().to_owned())
    }
}

impl IntoResponse for Wrong {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}

/// A name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Receiver {
    name: String,
}

/// What a server says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AmStatus {
    /// `disabled`: there is one server.
    cluster: BTreeMap<&'static str, &'static str>,
    /// Of this server.
    version_info: BTreeMap<&'static str, String>,
    /// Empty: the configuration is of another kind.
    config: BTreeMap<&'static str, String>,
    /// When it started.
    uptime: Option<Time>,
}

/// What the server says of itself, in the form of Alertmanager.
#[utoipa::path(get, path = "/api/v2/status", tag = "alertmanager", responses(
    (status = 200, body = AmStatus, description = "Version and start"),
))]
pub async fn status(State(shared): State<Shared>) -> Result<Json<AmStatus>, Wrong> {
    let system = shared.query(|views| views.system()).await?;
    let text = |name, text: &str| (name, text.to_owned());
    Ok(Json(AmStatus {
        cluster: [("status", "disabled")].into(),
        version_info: [
            text("version", &format!("tidewatch {}", system.version)),
            text("revision", ""),
            text("branch", ""),
            text("buildUser", ""),
            text("buildDate", ""),
            text("goVersion", ""),
        ]
        .into(),
        config: [text("original", "")].into(),
        uptime: system.started,
    }))
}

/// State of an alert.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AmAlertStatus {
    /// `active` or `suppressed`.
    #[schema(value_type = String)]
    state: &'static str,
    silenced_by: Vec<String>,
    inhibited_by: Vec<String>,
    muted_by: Vec<String>,
}

/// One alert that is firing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AmAlert {
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    starts_at: Time,
    ends_at: Time,
    updated_at: Time,
    /// The alert's id.
    fingerprint: String,
    receivers: Vec<Receiver>,
    status: AmAlertStatus,
}

fn receivers(page: Option<&AlertPage>) -> Vec<Receiver> {
    let names = page.map_or(&[][..], |p| &p.notifiers);
    let all: Vec<Receiver> = names.iter().map(|n| Receiver { name: n.clone() }).collect();
    match all.is_empty() {
        true => vec![Receiver {
            name: NOBODY.to_owned(),
        }],
        false => all,
    }
}

impl AmAlert {
    /// `now` is the time of the answer: an alert that fires counts for five minutes more.
    fn new(marked: MarkedAlert, page: Option<&AlertPage>, now: i64) -> Self {
        let MarkedAlert { alert, mark } = marked;
        let muted = mark.is_muted();
        let mut labels = alert.group;
        for (name, text) in [
            ("alertname", alert.rule.as_str()),
            ("severity", alert.severity),
            ("device", &alert.device),
            ("metric", &alert.metric),
        ] {
            labels.insert(name.to_owned(), text.to_owned());
        }
        labels.retain(|_, text| !text.is_empty());
        Self {
            labels,
            annotations: [("summary".to_owned(), alert.summary)].into(),
            starts_at: alert.began,
            ends_at: Time(now.saturating_add(300_000_000)),
            updated_at: alert.reported,
            fingerprint: alert.id,
            receivers: receivers(page),
            status: AmAlertStatus {
                state: if muted { "suppressed" } else { "active" },
                silenced_by: mark.silenced_by,
                inhibited_by: mark.inhibited_by.into_iter().collect(),
                muted_by: mark.maintenance,
            },
        }
    }
}

/// The parameters of a list: `filter` may come several times.
struct Asked {
    filters: Matchers,
    texts: Vec<Matcher>,
    receiver: Option<String>,
    active: bool,
    silenced: bool,
    inhibited: bool,
}

impl Asked {
    fn read(uri: &Uri) -> Result<Self, Wrong> {
        let bad = |message: String| Wrong(StatusCode::BAD_REQUEST, message);
        let mut asked = Self {
            filters: Matchers::default(),
            texts: Vec::new(),
            receiver: None,
            active: true,
            silenced: true,
            inhibited: true,
        };
        for pair in uri.query().unwrap_or_default().split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = value.replace('+', " ");
            let value = percent_decode_str(&value).decode_utf8();
            let value = value.map_err(|_| bad(format!("{name} is not UTF-8")))?;
            match name {
                "filter" => asked.texts.push(parse(&value).map_err(bad)?),
                "receiver" => asked.receiver = Some(value.into_owned()),
                "active" => asked.active = value != "false",
                "silenced" => asked.silenced = value != "false",
                "inhibited" => asked.inhibited = value != "false",
                // What others add later is theirs.
                _ => {}
            }
        }
        if asked.texts.len() > event::operate::MATCHERS_MAX {
            return Err(bad("too many filters".to_owned()));
        }
        asked.filters = Matchers::new(&asked.texts).map_err(bad)?;
        Ok(asked)
    }

    fn wants(&self, marked: &MarkedAlert) -> bool {
        let mark = &marked.mark;
        let silenced = !mark.silenced_by.is_empty() || !mark.maintenance.is_empty();
        let inhibited = mark.inhibited_by.is_some();
        self.filters.hold(&marked.alert)
            && (self.active || silenced || inhibited)
            && (self.silenced || !silenced)
            && (self.inhibited || !inhibited)
    }

    fn wants_of(&self, receivers: &[Receiver]) -> bool {
        let wanted = self.receiver.as_deref();
        wanted.is_none_or(|wanted| receivers.iter().any(|r| r.name == wanted))
    }
}

fn firing(page: Option<String>) -> AlertQuery {
    AlertQuery {
        state: Some("firing".to_owned()),
        page,
        ..AlertQuery::default()
    }
}

/// Firing alerts in the form of Alertmanager.
#[utoipa::path(get, path = "/api/v2/alerts", tag = "alertmanager", params(
    ("filter" = Option<String>, Query,
        description = "A matcher such as `site=\"plant-1\"`; several must all hold"),
    ("active" = Option<bool>, Query, description = "False leaves out those that are not muted"),
    ("silenced" = Option<bool>, Query, description = "False leaves out silenced ones"),
    ("inhibited" = Option<bool>, Query, description = "False leaves out inhibited ones"),
    ("receiver" = Option<String>, Query, description = "Name of a notifier"),
), responses(
    (status = 200, body = Vec<AmAlert>, description = "At most 10,000, newest first"),
    (status = 400, body = String, description = "A wrong filter"),
))]
pub async fn alerts(State(shared): State<Shared>, uri: Uri) -> Result<Json<Vec<AmAlert>>, Wrong> {
    let asked = Asked::read(&uri)?;
    let found = shared
        .query(move |views| {
            let now = views.now().unwrap_or_default();
            let all = views.alerts(&firing(None), None, usize::MAX).items;
            let wanted = all.into_iter().filter(|a| asked.wants(a));
            let shown = wanted.map(|a| {
                let page = a.mark.page.as_deref().and_then(|key| views.alert_page(key));
                AmAlert::new(a, page.as_ref(), now)
            });
            let shown = shown.filter(|a| asked.wants_of(&a.receivers));
            shown.take(ALERTS_MAX).collect::<Vec<_>>()
        })
        .await?;
    Ok(Json(found))
}

/// A page in the form of Alertmanager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct AmGroup {
    labels: BTreeMap<String, String>,
    receiver: Receiver,
    alerts: Vec<AmAlert>,
}

/// Pages that are open, in the form of Alertmanager.
#[utoipa::path(get, path = "/api/v2/alerts/groups", tag = "alertmanager", params(
    ("filter" = Option<String>, Query, description = "As of `/api/v2/alerts`"),
    ("receiver" = Option<String>, Query, description = "Name of a notifier"),
), responses(
    (status = 200, body = Vec<AmGroup>, description = "At most 1000 pages with 10,000 alerts together"),
    (status = 400, body = String, description = "A wrong filter"),
))]
pub async fn groups(State(shared): State<Shared>, uri: Uri) -> Result<Json<Vec<AmGroup>>, Wrong> {
    let asked = Asked::read(&uri)?;
    let found = shared
        .query(move |views| {
            let now = views.now().unwrap_or_default();
            let mut by_page: BTreeMap<String, Vec<MarkedAlert>> = BTreeMap::new();
            let all = views.alerts(&firing(None), None, usize::MAX).items;
            for alert in all.into_iter().filter(|a| asked.wants(a)).take(ALERTS_MAX) {
                if let Some(key) = alert.mark.page.clone() {
                    by_page.entry(key).or_default().push(alert);
                }
            }
            let mut groups = Vec::new();
            for page in views.alert_pages(Some(true), None, GROUPS_MAX).items {
                let alerts = by_page.remove(&page.key).unwrap_or_default();
                let receivers = receivers(Some(&page));
                if alerts.is_empty() || !asked.wants_of(&receivers) {
                    continue;
                }
                let alerts = alerts.into_iter();
                groups.extend(receivers.into_iter().take(1).map(|receiver| {
                    AmGroup {
                        labels: page.labels.clone(),
                        receiver,
                        alerts: alerts
                            .clone()
                            .map(|a| AmAlert::new(a, Some(&page), now))
                            .collect(),
                    }
                }));
            }
            groups
        })
        .await?;
    Ok(Json(found))
}

/// Notifiers that were told of something that is shown, in the form of Alertmanager.
#[utoipa::path(get, path = "/api/v2/receivers", tag = "alertmanager", responses(
    (status = 200, body = Vec<Receiver>, description = "Their names"),
))]
pub async fn list_receivers(State(shared): State<Shared>) -> Result<Json<Vec<Receiver>>, Wrong> {
    let pages = shared
        .query(|views| views.alert_pages(None, None, usize::MAX).items)
        .await?;
    let mut names: Vec<String> = pages.into_iter().flat_map(|p| p.notifiers).collect();
    names.sort();
    names.dedup();
    let receivers = names.into_iter().map(|name| Receiver { name });
    Ok(Json(receivers.collect()))
}

/// State of a silence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct AmSilenceStatus {
    /// `expired`, `active` or `pending`.
    #[schema(value_type = String)]
    state: &'static str,
}

/// A silence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AmSilence {
    id: String,
    #[schema(value_type = Vec<Object>)]
    matchers: Vec<Matcher>,
    starts_at: Time,
    ends_at: Time,
    updated_at: Time,
    created_by: String,
    comment: String,
    status: AmSilenceStatus,
}

impl From<Silence> for AmSilence {
    fn from(s: Silence) -> Self {
        Self {
            id: s.id,
            matchers: s.matchers,
            starts_at: s.starts_at,
            ends_at: s.ends_at,
            updated_at: s.updated,
            created_by: s.by,
            comment: s.comment,
            status: AmSilenceStatus { state: s.state },
        }
    }
}

/// Silences in the form of Alertmanager.
#[utoipa::path(get, path = "/api/v2/silences", tag = "alertmanager", params(
    ("filter" = Option<String>, Query,
        description = "A matcher; silences that have it as one of theirs. Several must all be there"),
), responses(
    (status = 200, body = Vec<AmSilence>, description = "All but the weekly windows of the configuration"),
    (status = 400, body = String, description = "A wrong filter"),
))]
pub async fn list_silences(
    State(shared): State<Shared>,
    uri: Uri,
) -> Result<Json<Vec<AmSilence>>, Wrong> {
    let asked = Asked::read(&uri)?;
    let all = shared.query(|views| views.silences()).await?;
    let fits =
        |s: &Silence| !s.weekly && asked.texts.iter().all(|wanted| s.matchers.contains(wanted));
    let found = all.into_iter().filter(fits).map(AmSilence::from);
    Ok(Json(found.collect()))
}

/// Which alerts nobody is told of, and when.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AmPostableSilence {
    /// The silence that is changed; a new one if absent or empty.
    #[serde(default)]
    id: Option<String>,
    /// All must hold.
    #[schema(value_type = Vec<Object>)]
    matchers: Vec<Matcher>,
    /// RFC 3339.
    starts_at: String,
    /// RFC 3339.
    ends_at: String,
    /// Who.
    created_by: String,
    /// What for.
    #[serde(default)]
    comment: String,
}

/// Id of a silence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct AmSilenceId {
    #[serde(rename = "silenceID")]
    silence_id: String,
}

/// Silence alerts, or change a silence, in the form of Alertmanager.
#[utoipa::path(post, path = "/api/v2/silences", tag = "alertmanager",
    request_body = AmPostableSilence, responses(
    (status = 200, body = AmSilenceId, description = "Durable; takes effect within about a second"),
    (status = 400, body = String, description = "A wrong field"),
    (status = 403, body = String, description = "Changes are not accepted here, or from that page"),
    (status = 404, body = String, description = "No such silence"),
))]
pub async fn set_silence(
    writer: Result<Writer, ApiError>,
    State(shared): State<Shared>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<AmSilenceId>, Wrong> {
    let writer = writer?;
    let bad = |message: String| Wrong(StatusCode::BAD_REQUEST, message);
    let Body(fields) = Body::read(body, &[])?;
    let posted: AmPostableSilence = serde_json::from_value(fields.into())
        .map_err(|e| bad(format!("the silence does not read: {e}")))?;
    let time = |field: &str, text: &str| {
        let time = EventTime::parse_rfc3339(text);
        time.map(|t| t.0)
            .map_err(|_| bad(format!("{field}: {text:?} is not RFC 3339")))
    };
    let spec = SilenceSpec {
        kind: SilenceKind::Silence,
        matchers: posted.matchers,
        starts: time("startsAt", &posted.starts_at)?,
        ends: time("endsAt", &posted.ends_at)?,
        by: posted.created_by,
        comment: posted.comment,
    };
    let old = posted.id.filter(|id| !id.is_empty());
    let (silence_id, _) = silences::submit(&writer, &shared, old, spec).await?;
    Ok(Json(AmSilenceId { silence_id }))
}

/// A silence in the form of Alertmanager.
#[utoipa::path(get, path = "/api/v2/silence/{id}", tag = "alertmanager", params(
    ("id" = String, Path, description = "Its id"),
), responses(
    (status = 200, body = AmSilence, description = "The silence"),
    (status = 404, body = String, description = "No such silence"),
))]
pub async fn silence(
    State(shared): State<Shared>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<AmSilence>, Wrong> {
    let id = name(path, "id")?;
    let found = shared.query(move |views| views.silence(&id)).await?;
    let missing = || Wrong(StatusCode::NOT_FOUND, "there is no such silence".to_owned());
    Ok(Json(found.ok_or_else(missing)?.into()))
}

/// End a silence now, in the form of Alertmanager.
#[utoipa::path(delete, path = "/api/v2/silence/{id}", tag = "alertmanager", params(
    ("id" = String, Path, description = "Its id"),
), responses(
    (status = 200, description = "Durable; takes effect within about a second"),
    (status = 403, body = String, description = "Changes are not accepted here, or from that page"),
    (status = 404, body = String, description = "No such silence"),
))]
pub async fn expire_silence(
    writer: Result<Writer, ApiError>,
    State(shared): State<Shared>,
    path: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, Wrong> {
    let writer = writer?;
    let id = name(path, "id")?;
    let by = "somebody through the Alertmanager API".to_owned();
    silences::expire(&writer, &shared, &id, by).await?;
    Ok(StatusCode::OK)
}
