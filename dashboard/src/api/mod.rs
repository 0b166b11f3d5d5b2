//! The calls under `/api`, a file per noun. Every call is described where it is written, and the
//! description is served at `/api/openapi.json`.

mod aggregates;
mod alertmanager;
mod alerts;
mod commands;
mod description;
mod devices;
mod error;
mod health;
mod ledger;
mod live;
mod notifications;
mod overview;
mod params;
mod quarantine;
mod rollouts;
mod rules;
mod silences;
mod system;
mod windows;
mod write;

use std::sync::Arc;
use std::time::Duration;

use axum::http::Method;
use axum::{Extension, Router};
use bytes::Bytes;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;
use utoipa::openapi::{InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use views::Views;

use crate::control::Control;
use crate::live::Hub;
pub use error::{ApiError, ErrorBody};

/// How long a query waits for its turn.
const TURN_WAIT: Duration = Duration::from_secs(5);

/// What the calls share.
#[derive(Clone)]
pub struct Shared(Arc<Inner>);

struct Inner {
    views: Arc<Views>,
    hub: Arc<Hub>,
    turns: Arc<Semaphore>,
    control: Option<Arc<dyn Control>>,
    stop: CancellationToken,
}

impl Shared {
    /// At most `queries_max` queries run at the same time; streams end when `stop` is cancelled. Without
    /// `control` nothing can be changed.
    pub fn new(
        views: Arc<Views>,
        hub: Arc<Hub>,
        queries_max: usize,
        control: Option<Arc<dyn Control>>,
        stop: CancellationToken,
    ) -> Self {
        let turns = Arc::new(Semaphore::new(queries_max.max(1)));
        Self(Arc::new(Inner {
            views,
            hub,
            turns,
            control,
            stop,
        }))
    }

    /// The hub of the live stream.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.0.hub
    }

    /// The way into the log; none if nothing may be changed.
    pub fn control(&self) -> Option<&Arc<dyn Control>> {
        self.0.control.as_ref()
    }

    /// Cancelled when the server stops.
    pub fn stop(&self) -> &CancellationToken {
        &self.0.stop
    }

    /// Whether the processor has caught up.
    pub fn ready(&self) -> bool {
        self.0.views.ready()
    }

    /// Asks the views away from the threads that serve sockets: a search through millions of
    /// devices must not hold up the live stream.
    ///
    /// **Errors**: 503 if no turn comes in 5 s, 500 if the query panics.
    pub async fn query<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Views) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let turn = tokio::time::timeout(TURN_WAIT, self.0.turns.clone().acquire_owned()).await;
        let Ok(Ok(turn)) = turn else {
            return Err(ApiError::busy("too many queries are running; try again"));
        };
        let views = self.0.views.clone();
        let answer = tokio::task::spawn_blocking(move || {
            // Held until the query ends, also if nobody waits for its answer any more.
            let _turn = turn;
            ask(&views)
        });
        answer.await.map_err(|error| {
            tracing::error!(%error, "failed to answer a query");
            ApiError::internal()
        })
    }
}

/// A list that is given whole.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Listing<T> {
    /// The items.
    pub items: Vec<T>,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Paged<T> {
    /// The items.
    pub items: Vec<T>,
    /// Value of `after` for the next page; null at the end.
    pub next: Option<String>,
}

/// A page of a list whose length is known.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Counted<T> {
    /// The items.
    pub items: Vec<T>,
    /// Value of `after` for the next page; null at the end.
    pub next: Option<String>,
    /// How many match in all.
    pub total: u64,
}

/// Cuts `limit + 1` items, which is what was asked for, to a page, and says where the next begins.
fn cut<T>(
    mut items: Vec<T>,
    limit: usize,
    cursor: impl FnOnce(&T) -> String,
) -> (Vec<T>, Option<String>) {
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(cursor);
    (items, next)
}

/// All calls, and what describes them.
pub fn router() -> (Router<Shared>, OpenApi) {
    let info = InfoBuilder::new()
        .title("Tidewatch")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "What the fleet reports and how complete it is. Times are RFC 3339 in UTC. Lists take \
             `limit` (1 to 1000, 100 if absent) and `after`, the `next` of the page before. \
             Parameters that are not known are refused. Changes are records of the event log: they are \
             answered with 202 when they are durable there.",
        ))
        .license(Some(LicenseBuilder::new().name("Apache-2.0").build()))
        .build();
    let described = OpenApiBuilder::new().info(info).build();
    let (router, described) = OpenApiRouter::with_openapi(described)
        .routes(routes!(overview::overview))
        .routes(routes!(aggregates::aggregates))
        .routes(routes!(
            aggregates::set_aggregate,
            aggregates::remove_aggregate
        ))
        .routes(routes!(windows::windows))
        .routes(routes!(windows::outstanding))
        .routes(routes!(devices::devices))
        .routes(routes!(
            devices::device,
            devices::set_device,
            devices::decommission
        ))
        .routes(routes!(devices::recent))
        .routes(routes!(alerts::alerts))
        .routes(routes!(alerts::alert))
        .routes(routes!(alerts::acknowledge))
        .routes(routes!(alerts::unacknowledge))
        .routes(routes!(alerts::pages))
        .routes(routes!(alerts::automation))
        .routes(routes!(silences::silences, silences::set_silence))
        .routes(routes!(silences::silence, silences::expire_silence))
        .routes(routes!(commands::give))
        .routes(routes!(commands::commands))
        .routes(routes!(commands::stop, commands::set_stop))
        .routes(routes!(rollouts::rollouts, rollouts::begin))
        .routes(routes!(rollouts::rollout))
        .routes(routes!(rollouts::stop))
        .routes(routes!(rollouts::resume))
        .routes(routes!(rollouts::stop_rule))
        .routes(routes!(rollouts::resume_rule))
        .routes(routes!(commands::command))
        .routes(routes!(commands::cancel))
        .routes(routes!(rules::rules))
        .routes(routes!(rules::test_rule))
        .routes(routes!(rules::rule, rules::set_rule, rules::remove_rule))
        .routes(routes!(notifications::notifications))
        .routes(routes!(notifications::resend))
        .routes(routes!(quarantine::quarantine))
        .routes(routes!(quarantine::release))
        .routes(routes!(ledger::ledger))
        .routes(routes!(ledger::too_old))
        .routes(routes!(system::system))
        .routes(routes!(live::live))
        .routes(routes!(alertmanager::status))
        .routes(routes!(alertmanager::list_receivers))
        .routes(routes!(alertmanager::alerts))
        .routes(routes!(alertmanager::groups))
        .routes(routes!(
            alertmanager::list_silences,
            alertmanager::set_silence
        ))
        .routes(routes!(alertmanager::silence, alertmanager::expire_silence))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
        .routes(routes!(description::description))
        .split_for_parts();
    let text = described.to_json().unwrap_or_default();
    let router = router
        .layer(Extension(description::Text(Bytes::from(text))))
        .method_not_allowed_fallback(|method: Method| async move {
            ApiError::method_not_allowed(method.as_str())
        });
    (router, described)
}
