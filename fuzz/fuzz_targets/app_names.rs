//! Names in the first packets of a flow: DNS, TLS and HTTP.
//!
//! The first byte of the input says what the rest is taken for, as the payload of a packet; once more the rest is a whole
//! frame. What is held true:
//!
//! - a name is not empty, has no byte that JSON or CSV would quote, no letter in upper case, and no more bytes than is
//!   promised;
//! - a shorter copy names the same or nothing: a name is never cut; nor if the rest follows in another segment;
//! - only the fields of what the flow is are there.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vxtap::flow::app::{App, Awaited, Guess, MOST_READ, NAME_BYTES, Opening};
use vxtap::wire::inner::Inner;
use vxtap_fuzz::lies_within;

const GUESSES: [Guess; 4] = [
    Guess::Dns,
    Guess::MulticastDns,
    Guess::DnsOverTcp,
    Guess::Stream,
];

fuzz_target!(|data: &[u8]| {
    let Some((first, rest)) = data.split_first() else {
        return;
    };
    let inner = Inner::read(rest);
    if let Some(opening) = Opening::of(&inner, rest, &mut Awaited::default()) {
        assert!(lies_within(opening.payload, rest));
        assert!(opening.payload.len() <= MOST_READ);
        every_length(opening.guess, opening.payload, *first);
    }
    every_length(GUESSES[usize::from(*first) % GUESSES.len()], rest, *first);
});

/// Reads `payload`, and shorter copies of it.
fn every_length(guess: Guess, payload: &[u8], step: u8) {
    let whole = read(guess, payload);
    for len in (0..payload.len()).step_by(usize::from(step) / 8 + 1) {
        let (first, second) = payload.split_at(len);
        let cut = read(guess, first);
        let on = read_on(guess, first, second);
        for name in cut.iter().chain(&on).flatten() {
            let known = whole.iter().flatten().any(|whole| whole == name);
            assert!(known, "{name:?} of {len} bytes, not in {whole:?}");
        }
    }
}

fn opening(guess: Guess, payload: &[u8], seq: u32) -> Opening<'_> {
    Opening {
        guess,
        payload,
        missing: 0,
        seq,
    }
}

/// The names in `payload`, by field.
fn read(guess: Guess, payload: &[u8]) -> [Option<String>; 4] {
    match App::read(&opening(guess, payload, 0)) {
        Some(app) => names(&app),
        None => [const { None }; 4],
    }
}

/// The names in two segments.
fn read_on(guess: Guess, first: &[u8], second: &[u8]) -> [Option<String>; 4] {
    let Some(mut app) = App::read(&opening(guess, first, 0)) else {
        return [const { None }; 4];
    };
    let seq = u32::try_from(first.len()).expect("a packet");
    app.go_on(&opening(Guess::Continued, second, seq));
    names(&app)
}

fn names(app: &App) -> [Option<String>; 4] {
    let names = [
        app.dns_query(),
        app.tls_sni(),
        app.tls_alpn(),
        app.http_host(),
    ];
    let (dns, tls, http) = (
        names[0].is_some() || app.dns_rcode().is_some(),
        names[1].is_some() || names[2].is_some(),
        names[3].is_some() || app.http_method().is_some(),
    );
    let own = match app.name() {
        "dns" => !tls && !http,
        "tls" => !dns && !http,
        _ => !dns && !tls,
    };
    assert!(own, "{app:?}");
    assert!(app.dns_rcode().is_none_or(|rcode| rcode < 16));
    for name in names.into_iter().flatten() {
        assert!((1..=NAME_BYTES).contains(&name.len()));
        let is_clean = |byte: u8| byte.is_ascii_graphic() && !b"\"\\,".contains(&byte);
        assert!(name.bytes().all(is_clean), "{name}");
        assert!(!name.bytes().any(|byte| byte.is_ascii_uppercase()), "{name}");
    }
    names.map(|name| name.map(str::to_owned))
}
