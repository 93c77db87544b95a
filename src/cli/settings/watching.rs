//! What the settings of those who watch a run mean: status, metrics and health checks.

use std::path::Path;

use super::layers::Layers;
use super::mistakes::Mistakes;
use super::typed;
use crate::cli::values;
use crate::control::station::{Places, SocketPlace};

/// Reads them.
pub fn read(typed: &Layers<&typed::Watching>, mistakes: &mut Mistakes) -> Places {
    let http = mistakes.one(typed, "--http", |t| &t.http, values::listen_on);
    let health_tcp = mistakes.one(typed, "--health-tcp", |t| &t.health_tcp, values::listen_on);
    let health_udp = mistakes.one(typed, "--health-udp", |t| &t.health_udp, values::listen_on);
    let token_file = typed.find(|t| t.http_token_file.as_ref());
    let token_file = token_file.map(|(_, file)| file.clone());
    if token_file.is_some() && typed.find(|t| t.http.as_ref()).is_none() {
        mistakes.note("--http-token-file is for --http");
    }
    if let (Some(http), Some(tcp)) = (http, health_tcp)
        && http == tcp
        && http.port() != 0
    {
        mistakes.note(
            "--http and --health-tcp name one port; a connection to --http is a health check too",
        );
    }
    let control = typed.find(|t| t.control.as_deref());
    let socket = match control.map(|(_, path)| path) {
        None => SocketPlace::Usual,
        Some(path) if path == Path::new("auto") => SocketPlace::Usual,
        Some(path) if path == Path::new("none") => SocketPlace::None,
        Some(path) => SocketPlace::At(path.to_owned()),
    };
    Places {
        socket,
        http,
        token_file,
        health_tcp,
        health_udp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(watching: typed::Watching) -> Result<Places, String> {
        let typed = typed::Listen {
            watching,
            ..typed::Listen::default()
        };
        let layers = Layers::new(typed, typed::Listen::defaults());
        let mut mistakes = Mistakes::default();
        let places = read(&layers.group(|typed| &typed.watching), &mut mistakes);
        mistakes
            .end(Some(places))
            .map_err(|failure| failure.to_string())
    }

    #[test]
    fn a_port_alone_is_on_loopback() {
        let watching = typed::Watching {
            http: Some("9469".into()),
            health_udp: Some("[::]:9470".into()),
            control: Some("/tmp/a.sock".into()),
            ..typed::Watching::default()
        };
        let read = places(watching).unwrap();
        assert_eq!(read.http, Some("127.0.0.1:9469".parse().unwrap()));
        assert_eq!(read.health_udp, Some("[::]:9470".parse().unwrap()));
        assert_eq!(read.socket, SocketPlace::At("/tmp/a.sock".into()));
        let usual = places(typed::Watching::default()).unwrap();
        assert_eq!((usual.http, usual.socket), (None, SocketPlace::Usual));
        let none = typed::Watching {
            control: Some("none".into()),
            ..typed::Watching::default()
        };
        assert_eq!(places(none).unwrap().socket, SocketPlace::None);
    }

    #[test]
    fn settings_that_contradict_each_other() {
        let token = typed::Watching {
            http_token_file: Some("token".into()),
            ..typed::Watching::default()
        };
        assert!(places(token).unwrap_err().contains("is for --http"));
        let one_port = typed::Watching {
            http: Some("9469".into()),
            health_tcp: Some("127.0.0.1:9469".into()),
            ..typed::Watching::default()
        };
        assert!(places(one_port).unwrap_err().contains("one port"));
        let wrong = typed::Watching {
            http: Some("everywhere:9469".into()),
            ..typed::Watching::default()
        };
        assert!(places(wrong).unwrap_err().contains("--http"));
    }
}
