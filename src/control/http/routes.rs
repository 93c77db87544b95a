//! What is answered to which request.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::{
    ACCEPT, ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE,
};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::Access;
use crate::control::look::Looker;
use crate::report::metrics::Form;

const TEXT: &str = "text/plain; charset=utf-8";

/// What the answers need.
#[derive(Clone)]
struct Site {
    looker: Arc<Looker>,
    access: Access,
}

/// Every request's way to its answer.
pub(super) fn router(looker: Arc<Looker>, access: Access) -> Router {
    Router::new()
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .fallback(unknown)
        .method_not_allowed_fallback(other_method)
        .with_state(Site { looker, access })
}

fn text(code: StatusCode, text: impl Into<String>) -> Response {
    let headers = [(CONTENT_TYPE, TEXT), (CACHE_CONTROL, "no-store")];
    (code, headers, text.into()).into_response()
}

/// The process answers.
async fn alive() -> Response {
    text(StatusCode::OK, "alive\n")
}

/// It takes packets, and writes what comes of them.
async fn ready(State(site): State<Site>) -> Response {
    let look = site.looker.look().await;
    let health = look.health();
    if health.is_ready() {
        return text(StatusCode::OK, "ready\n");
    }
    let mut reasons = String::new();
    if look.now.is_ending {
        reasons.push_str("the run was told to end\n");
    }
    // Paths and addresses are for those who may see the status.
    for (kind, number) in health.by_kind().filter(|(_, number)| *number > 0) {
        reasons.push_str(&format!("{kind}: {number}\n"));
    }
    text(
        StatusCode::SERVICE_UNAVAILABLE,
        format!("not ready\n{reasons}"),
    )
}

async fn metrics(State(site): State<Site>, headers: HeaderMap) -> Response {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    let form = Form::accepted_by(accept);
    let metrics = site.looker.metrics(form).await;
    let headers = [
        (CONTENT_TYPE, form.content_type()),
        (CACHE_CONTROL, "no-store"),
    ];
    (headers, metrics.to_string()).into_response()
}

async fn status(State(site): State<Site>, headers: HeaderMap) -> Response {
    let offered = headers.get(AUTHORIZATION).map(|header| header.as_bytes());
    match &site.access {
        Access::Everybody => {}
        Access::Token(token) if token.is_in(offered) => {}
        Access::Token(_) => {
            let answer = text(
                StatusCode::UNAUTHORIZED,
                "the token of --http-token-file is needed\n",
            );
            return ([(WWW_AUTHENTICATE, "Bearer")], answer).into_response();
        }
        Access::Nobody => {
            let why = "this address is not a loopback one: /status needs --http-token-file\n";
            return text(StatusCode::FORBIDDEN, why);
        }
    }
    let status = site.looker.status().await;
    let headers = [
        (CONTENT_TYPE, "application/json"),
        (CACHE_CONTROL, "no-store"),
    ];
    (headers, status.line()).into_response()
}

async fn unknown() -> Response {
    text(
        StatusCode::NOT_FOUND,
        "there are /metrics, /healthz, /readyz and /status\n",
    )
}

async fn other_method(method: Method) -> Response {
    let answer = text(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("GET is needed, not {method}\n"),
    );
    ([(ALLOW, "GET,HEAD")], answer).into_response()
}
