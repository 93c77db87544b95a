//! HTTP for those who watch a run: `/metrics`, `/healthz`, `/readyz`, `/status`.
//!
//! Everything is bounded: connections, the size and time of a request, the time of a connection. A connection serves one
//! request, so that nobody can keep one.

mod routes;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::look::Looker;
use super::token::Token;

/// Connections at a time; more are closed at once.
const MOST_CONNECTIONS: usize = 64;
/// How long the head of a request may take.
const HEAD_TIME: Duration = Duration::from_secs(2);
/// How long a connection may take in all.
const ALL_TIME: Duration = Duration::from_secs(10);
/// Most bytes of the head of a request, which is also the most that is read ahead.
const MOST_HEAD: usize = 16 << 10;
/// Most lines of it.
const MOST_HEADERS: usize = 64;
/// How long no connection is taken after the system gave none.
const PAUSE: Duration = Duration::from_millis(100);

/// Who may see what beyond health and metrics.
#[derive(Clone, Debug)]
pub enum Access {
    /// Everybody who reaches the listener: a loopback address.
    Everybody,
    /// Who has the token.
    Token(Token),
    /// Nobody: the listener can be reached from outside, and there is no token.
    Nobody,
}

impl Access {
    /// To a listener on `address`.
    pub fn new(address: SocketAddr, token: Option<Token>) -> Self {
        match token {
            Some(token) => Self::Token(token),
            None if address.ip().is_loopback() => Self::Everybody,
            None => Self::Nobody,
        }
    }
}

/// Serves whoever connects, for as long as the process lives.
pub async fn serve(listener: TcpListener, looker: Arc<Looker>, access: Access) {
    let router = routes::router(Arc::clone(&looker), access);
    let service = TowerToHyperService::new(router);
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "cannot take an HTTP connection");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            looker.count_refused();
            continue;
        };
        let service = service.clone();
        tokio::spawn(async move {
            let _place = place;
            let _ = timeout(ALL_TIME, converse(stream, service)).await;
        });
    }
}

/// Answers one request.
async fn converse(stream: TcpStream, service: TowerToHyperService<axum::Router>) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(MOST_HEAD)
        .max_headers(MOST_HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "an HTTP connection ended early");
    }
}
