//! HTTP/1: method and host of a request (RFC 9112 §3). The crate httparse reads it.
//!
//! The first bytes say whether it is HTTP at all: a method that is known, or a status line. A request that is cut tells
//! what came of it: httparse keeps the headers that were whole.

use httparse::{EMPTY_HEADER, ParserConfig, Request};

use super::name::{HOST_LEN, Name};

/// Headers of a request that are looked at.
const HEADERS: usize = 48;

/// Methods of RFC 9110 §9.3, PATCH, and those of WebDAV and UPnP that name a server too.
const METHODS: [&str; 20] = [
    "GET",
    "POST",
    "HEAD",
    "PUT",
    "CONNECT",
    "OPTIONS",
    "DELETE",
    "PATCH",
    "TRACE",
    "PROPFIND",
    "PROPPATCH",
    "MKCOL",
    "COPY",
    "MOVE",
    "LOCK",
    "UNLOCK",
    "REPORT",
    "SUBSCRIBE",
    "UNSUBSCRIBE",
    "NOTIFY",
];

/// What a request tells; nothing where only an answer was seen, or HTTP/2 without TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Http {
    /// The method, as it is written.
    pub method: Option<&'static str>,
    /// The host, with the port if one is named.
    pub host: Option<Name>,
}

impl Http {
    /// Reads what `bytes` begin with; `None` where it is not HTTP.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let Some(method) = method(bytes) else {
            let is_answer = bytes.starts_with(b"HTTP/1.");
            let is_http2 = bytes.starts_with(b"PRI * HTTP/2.0\r\n");
            return (is_answer || is_http2).then(Self::default);
        };
        let mut headers = [EMPTY_HEADER; HEADERS];
        let mut request = Request::new(&mut headers);
        let read = ParserConfig::default()
            .allow_multiple_spaces_in_request_line_delimiters(true)
            .ignore_invalid_headers_in_requests(true)
            .parse_request(&mut request, bytes);
        if request.version.is_none() && (read.is_err() || !is_target(bytes, method)) {
            return None;
        }
        let is_host = |header: &&httparse::Header<'_>| header.name.eq_ignore_ascii_case("host");
        let host = request.headers.iter().find(is_host);
        Some(Self {
            method: Some(method),
            host: host.and_then(|header| Name::of(header.value, HOST_LEN)),
        })
    }

    /// Adds what a later packet tells.
    pub fn learn(&mut self, later: Self) {
        self.method = self.method.or(later.method);
        self.host = self.host.take().or(later.host);
    }
}

/// The method that `bytes` begin with.
fn method(bytes: &[u8]) -> Option<&'static str> {
    let is_it = |method: &&str| {
        let behind = bytes.strip_prefix(method.as_bytes());
        behind.is_some_and(|behind| behind.first() == Some(&b' '))
    };
    METHODS.into_iter().find(is_it)
}

/// Whether a request line that is cut looks like one of HTTP: RTSP, SIP and ICAP have some of its methods.
fn is_target(bytes: &[u8], method: &str) -> bool {
    let target = bytes.get(method.len() + 1..).unwrap_or_default();
    target.starts_with(b"/") || target.starts_with(b"http://")
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: &[u8] =
        b"GET /a?b=c HTTP/1.1\r\nUser-Agent: x\r\nhOsT:  WWW.Example.com:8080 \r\nAccept: */*\r\n\r\nbody";

    fn told(bytes: &[u8]) -> Option<(Option<&'static str>, Option<String>)> {
        let Http { method, host } = Http::read(bytes)?;
        Some((method, host.map(|host| host.as_str().to_owned())))
    }

    #[test]
    fn a_request() {
        let host = Some("www.example.com:8080".to_owned());
        assert_eq!(told(REQUEST), Some((Some("GET"), host)));
        assert_eq!(
            told(b"POST / HTTP/1.0\r\nHost:\r\n\r\n"),
            Some((Some("POST"), None)),
            "an empty host"
        );
        let answer = b"HTTP/1.1 200 OK\r\nHost: not-asked\r\n\r\n";
        assert_eq!(told(answer), Some((None, None)));
        assert_eq!(
            told(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
            Some((None, None))
        );
    }

    /// The host is there once its line has ended.
    #[test]
    fn every_prefix() {
        let at = REQUEST
            .windows(4)
            .position(|window| window == b"8080")
            .unwrap();
        // A carriage return alone ends no line.
        let end = at + "8080 \r\n".len();
        for len in 0..=REQUEST.len() {
            let read = told(&REQUEST[..len]);
            assert_eq!(
                read.is_some(),
                len >= "GET /".len(),
                "prefix of {len} bytes"
            );
            let Some((method, host)) = read else { continue };
            assert_eq!(method, Some("GET"), "prefix of {len} bytes");
            assert_eq!(host.is_some(), len >= end, "prefix of {len} bytes");
        }
    }

    #[test]
    fn what_is_none() {
        for text in [
            "GET / RTSP/1.0\r\n",
            "OPTIONS rtsp://a/b RTSP/1.0\r\nCSeq: 1\r\n\r\n",
            "OPTIONS sip:a@example.com SIP/2.0\r\nHost: a\r\n\r\n",
            "OPTIONS sip:a@exam",
            "GETTING / HTTP/1.1\r\n",
            "get / HTTP/1.1\r\n",
            "INVITE sip:a SIP/2.0\r\n",
            "GET",
            "",
        ] {
            assert_eq!(told(text.as_bytes()), None, "{text}");
        }
    }

    /// Neither a line that is no header nor more headers than are looked at hide the host in front of them; one with a NUL
    /// byte ends the reading.
    #[test]
    fn other_headers_do_no_harm() {
        let host = Some((Some("GET"), Some("a".to_owned())));
        let strange = b"GET / HTTP/1.1\r\nno header\r\nHost: a\r\n\r\n";
        assert_eq!(told(strange), host);
        let mut many = b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec();
        for number in 0..100 {
            many.extend(format!("X-{number}: 1\r\n").bytes());
        }
        assert_eq!(told(&many), host);
        let nul = b"GET / HTTP/1.1\r\nA\0: b\r\nHost: a\r\n\r\n";
        assert_eq!(told(nul), Some((Some("GET"), None)));
    }
}
