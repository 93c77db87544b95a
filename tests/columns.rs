//! Docs that are made of what is defined once: the fields of flow records and what is written of them follow from one
//! table, the example of a file of settings from the flags.

mod common;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use common::json_lines;
use serde::{Serialize, Serializer};
use serde_json::Value;
use vxtap::flow::columns::{COLUMNS, Column, Element, Ipfix, Kind, OWN_ENTERPRISE, VARIABLE};

/// JSON whose objects keep the order of their keys.
enum Json {
    Text(String),
    Number(u64),
    List(Vec<Json>),
    Object(Vec<(&'static str, Json)>),
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Number(number) => serializer.serialize_u64(*number),
            Self::List(items) => serializer.collect_seq(items),
            Self::Object(fields) => {
                serializer.collect_map(fields.iter().map(|(key, value)| (key, value)))
            }
        }
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// The JSON Schema of a line of `--flows`.
fn schema() -> String {
    let properties = COLUMNS.iter().map(|column| (column.name, property(column)));
    let required = COLUMNS.iter().filter(|column| column.always);
    let schema = Json::Object(vec![
        (
            "$schema",
            "https://json-schema.org/draft/2020-12/schema".into(),
        ),
        ("title", "vxtap flow record".into()),
        (
            "description",
            "One line of 'vxtap --flows'. Fields that do not apply are absent. docs/FLOWS.md says more.".into(),
        ),
        ("type", "object".into()),
        ("properties", Json::Object(properties.collect())),
        (
            "required",
            Json::List(required.map(|column| column.name.into()).collect()),
        ),
    ]);
    serde_json::to_string_pretty(&schema).unwrap() + "\n"
}

fn property(column: &Column) -> Json {
    let mut fields = vec![("description", column.sentence.into())];
    fields.extend(content(column.kind));
    if let Some(unit) = column.unit.name() {
        fields.push(("x-unit", unit.into()));
    }
    Json::Object(fields)
}

/// What a value of this kind is in JSON.
fn content(kind: Kind) -> Vec<(&'static str, Json)> {
    let text = |key, how: &str| vec![("type", "string".into()), (key, how.into())];
    match kind {
        Kind::Time => text("format", "date-time"),
        Kind::Id => text("pattern", "^[0-9a-f]{16}$"),
        Kind::Mac => text("pattern", "^([0-9a-f]{2}:){5}[0-9a-f]{2}$"),
        Kind::Text => vec![("type", "string".into())],
        Kind::Direction => vec![
            ("type", "string".into()),
            ("enum", Json::List(vec!["in".into(), "out".into()])),
        ],
        Kind::Address => vec![
            ("type", "string".into()),
            (
                "anyOf",
                Json::List(
                    ["ipv4", "ipv6"]
                        .map(|format| Json::Object(vec![("format", format.into())]))
                        .into(),
                ),
            ),
        ],
        Kind::Addresses => vec![
            ("type", "array".into()),
            ("items", Json::Object(content(Kind::Address))),
            ("minItems", Json::Number(1)),
        ],
        Kind::Duration | Kind::Port | Kind::U8 | Kind::U16 | Kind::U32 | Kind::U64 => vec![
            ("type", "integer".into()),
            ("minimum", Json::Number(0)),
            ("maximum", Json::Number(kind.largest().unwrap())),
        ],
    }
}

/// The table of fields for docs/FLOWS.md.
fn table() -> String {
    let mut table =
        "| field | kind | unit | in every record | IPFIX | content |\n|---|---|---|---|---|---|\n"
            .to_owned();
    for column in COLUMNS {
        let _ = writeln!(
            table,
            "| `{}` | {} | {} | {} | {} | {} |",
            column.name,
            kind_in_words(column.kind),
            column.unit.name().unwrap_or_default(),
            if column.always { "yes" } else { "" },
            ipfix_in_words(column.ipfix),
            column.sentence
        );
    }
    table
}

const fn kind_in_words(kind: Kind) -> &'static str {
    match kind {
        Kind::Time => "time",
        Kind::Duration => "duration",
        Kind::Id => "id",
        Kind::Text => "text",
        Kind::Address => "address",
        Kind::Addresses => "addresses",
        Kind::Mac => "MAC address",
        Kind::Direction => "`in`, `out`",
        Kind::Port => "port",
        Kind::U8 => "number, 8 bits",
        Kind::U16 => "number, 16 bits",
        Kind::U32 => "number, 32 bits",
        Kind::U64 => "number, 64 bits",
    }
}

fn ipfix_in_words(ipfix: Ipfix) -> String {
    let words = |element: Element| {
        let Element {
            enterprise,
            number,
            len,
            name,
        } = element;
        let enterprise = enterprise.map(|number| format!("{number}/"));
        let enterprise = enterprise.unwrap_or_default();
        let len = match len {
            VARIABLE => "variable".to_owned(),
            len => len.to_string(),
        };
        format!("{enterprise}{number} {name} ({len})")
    };
    ipfix.elements().map(words).collect::<Vec<_>>().join(", ")
}

const BEGIN: &str = "<!-- fields: begin, made by tests/columns.rs -->\n";
const END: &str = "<!-- fields: end -->\n";

/// A file of docs that is not what the table of fields gives; `UPDATE_DOCS=1` rewrites it.
#[track_caller]
fn holds(name: &str, should: impl Fn(&str) -> String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("docs")
        .join(name);
    let is = fs::read_to_string(&path).unwrap_or_default();
    let should = should(&is);
    if std::env::var_os("UPDATE_DOCS").is_some_and(|value| value == "1") {
        fs::write(&path, &should).unwrap();
        return;
    }
    let differing = is
        .lines()
        .zip(should.lines())
        .find(|(is, should)| is != should);
    assert!(
        is == should,
        "docs/{name} is not what the table of fields gives: UPDATE_DOCS=1 rewrites it. First: {differing:?}"
    );
}

/// The example of a file of settings has every flag of `listen`, with its help and its default.
#[cfg(target_os = "linux")]
#[test]
fn the_example_of_settings_has_every_flag() {
    holds("vxtap.toml", |_| vxtap::cli::settings::printed::example());
}

#[test]
fn the_schema_is_that_of_the_table() {
    holds("flow-record.schema.json", |_| schema());
}

#[test]
fn the_page_has_the_fields_of_the_table() {
    holds("FLOWS.md", |page| {
        let (before, rest) = page.split_once(BEGIN).unwrap();
        let (_, behind) = rest.split_once(END).unwrap();
        [before, BEGIN, &table(), END, behind].concat()
    });
}

/// Names and elements are each given once; the two directions of a count have the two directions of an element.
#[test]
fn fields_are_told_apart() {
    let mut names = BTreeSet::new();
    let mut elements = BTreeSet::new();
    for column in COLUMNS {
        assert!(names.insert(column.name), "{}", column.name);
        for Element {
            enterprise, number, ..
        } in column.ipfix.elements()
        {
            assert!(elements.insert((enterprise, number)), "{}", column.name);
        }
    }
    for column in COLUMNS {
        let Some(stem) = column.name.strip_suffix("_r") else {
            continue;
        };
        let forward = COLUMNS
            .iter()
            .find(|forward| forward.name == format!("{stem}_o"));
        let forward = forward.unwrap();
        assert_eq!(
            (forward.kind, forward.unit, forward.always),
            (column.kind, column.unit, column.always)
        );
        let reverse: Vec<Element> = forward.ipfix.elements().map(Element::reverse).collect();
        assert_eq!(column.ipfix.elements().collect::<Vec<_>>(), reverse);
    }
}

/// RFC 5103: `reverseOctetDeltaCount` is 29305/1, and of an enterprise the bit 0x4000 turns an element round.
#[test]
fn both_directions_of_an_element() {
    let of = |name: &str| {
        let column = COLUMNS.iter().find(|column| column.name == name).unwrap();
        let element = column.ipfix.elements().next().unwrap();
        (element.enterprise, element.number)
    };
    assert_eq!(of("ip_bytes_o"), (None, 1));
    assert_eq!(of("ip_bytes_r"), (Some(29305), 1));
    assert_eq!(of("trunc_pkts_o"), (Some(OWN_ENTERPRISE), 2));
    assert_eq!(of("trunc_pkts_r"), (Some(OWN_ENTERPRISE), 0x4002));
}

/// Every golden line has fields of the table only, each of its kind, in its order, and those that are always there.
#[test]
fn golden_records_have_the_fields_of_the_table() {
    let mut records = 0;
    let golden = common::testdata("golden");
    for entry in fs::read_dir(golden).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_none_or(|extension| extension != "jsonl")
        {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for (line, record) in text.lines().zip(json_lines(&text)) {
            let record = record.as_object().unwrap();
            let mut at = 0;
            let mut present = 0;
            for column in COLUMNS {
                let Some(value) = record.get(column.name) else {
                    assert!(!column.always, "{} is missing: {line}", column.name);
                    continue;
                };
                assert!(is_of(value, column.kind), "{}: {line}", column.name);
                let place = line.find(&format!("\"{}\":", column.name)).unwrap();
                assert!(place > at, "{} is not in its place: {line}", column.name);
                at = place;
                present += 1;
            }
            assert_eq!(present, record.len(), "{line}");
            records += 1;
        }
    }
    assert!(records > 100, "{records}");
}

fn is_of(value: &Value, kind: Kind) -> bool {
    let is_address = |value: &Value| {
        let address = value.as_str().map(str::parse::<std::net::IpAddr>);
        address.is_some_and(|address| address.is_ok())
    };
    match kind {
        Kind::Address => is_address(value),
        Kind::Addresses => value
            .as_array()
            .is_some_and(|list| !list.is_empty() && list.iter().all(is_address)),
        Kind::Time | Kind::Id | Kind::Text | Kind::Mac => value.is_string(),
        Kind::Direction => value == "in" || value == "out",
        Kind::Duration | Kind::Port | Kind::U8 | Kind::U16 | Kind::U32 | Kind::U64 => value
            .as_u64()
            .is_some_and(|number| number <= kind.largest().unwrap()),
    }
}
