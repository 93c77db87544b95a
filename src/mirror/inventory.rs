//! Which mirror sessions there should be, and what they are called: read from a table, compared with what was seen.
//!
//! Pure: text and sessions in, answers out.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;

use super::session_key::SessionKey;
use crate::wire::Vni;

/// What a table says of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Label {
    /// Its name.
    pub name: Option<String>,
    /// Whose it is.
    pub account: Option<String>,
    /// MTU of its path, in bytes.
    pub mtu: Option<u32>,
}

/// A table of sessions.
#[derive(Clone, Debug, Default)]
pub struct Labels {
    /// By VNI and source; without a source the line stands for every source of its VNI.
    by_session: BTreeMap<(u32, Option<IpAddr>), Label>,
}

/// What is known of sessions before any of them is seen.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// What they are called.
    pub labels: Labels,
    /// Those that there should be, and after how many nanoseconds without a packet one counts as silent.
    pub expected: Option<(Labels, u64)>,
}

impl Inventory {
    /// What is said of a session; the list of those expected may say it too.
    pub fn label(&self, key: SessionKey) -> Option<&Label> {
        let expected = || self.expected.as_ref()?.0.of(key);
        self.labels.of(key).or_else(expected)
    }

    /// What was expected and what was seen at `now_ns`, where something is expected. `seen` are the sessions that sent
    /// packets, with the time of the last one.
    pub fn compare(
        &self,
        seen: impl IntoIterator<Item = (SessionKey, u64)>,
        now_ns: u64,
    ) -> Option<Difference> {
        let (expected, silent_ns) = self.expected.as_ref()?;
        Some(compare(expected, seen, now_ns, *silent_ns))
    }
}

/// Why a table cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct LabelsError {
    /// Line of the file, from 1.
    pub line: u64,
    /// What is wrong there, and what to write.
    pub what: String,
}

/// A line as it stands in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    vni: String,
    #[serde(default)]
    source: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    account: String,
    #[serde(default)]
    mtu: String,
}

impl Line {
    fn read(self) -> Result<((u32, Option<IpAddr>), Label), String> {
        let Self {
            vni,
            source,
            name,
            account,
            mtu,
        } = self;
        let number = vni.parse().ok().and_then(Vni::new);
        let number =
            number.ok_or_else(|| format!("vni '{vni}': a number from 0 to 16777215 is needed"))?;
        let source = match source.as_str() {
            "" | "*" => None,
            text => Some(
                text.parse::<IpAddr>()
                    .map_err(|_| {
                        format!("source '{text}': an address is needed, or nothing for any")
                    })?
                    .to_canonical(),
            ),
        };
        let mtu =
            match mtu.as_str() {
                "" => None,
                text => {
                    let bytes = text
                        .parse()
                        .ok()
                        .filter(|bytes| (68..=65_535).contains(bytes));
                    Some(bytes.ok_or_else(|| {
                        format!("mtu '{text}': bytes from 68 to 65535 are needed")
                    })?)
                }
            };
        let filled = |text: String| Some(text).filter(|text| !text.is_empty());
        let label = Label {
            name: filled(name),
            account: filled(account),
            mtu,
        };
        Ok(((number.as_u32(), source), label))
    }
}

impl Labels {
    /// Reads a table in CSV: the first line names the columns, `vni` and any of `source`, `name`, `account` and
    /// `mtu`; lines that begin with `#` are remarks.
    ///
    /// # Errors
    ///
    /// [`LabelsError`] for the first line that cannot be read, or says again what another one says.
    pub fn read(text: &str) -> Result<Self, LabelsError> {
        let mut labels = Self::default();
        let mut headers = None;
        let lines = (1..).zip(text.lines());
        for (line, text) in lines.filter(|(_, text)| !is_remark(text)) {
            let error = |what| LabelsError { line, what };
            let record = fields(text).map_err(|why| error(in_words(&why)))?;
            let Some(headers) = &headers else {
                if !record.iter().any(|column| column == "vni") {
                    return Err(error(NEEDED.to_owned()));
                }
                headers = Some(record);
                continue;
            };
            if record.len() != headers.len() {
                let (len, columns) = (record.len(), headers.len());
                return Err(error(format!(
                    "{len} fields, where the first line has {columns}"
                )));
            }
            let read: Line =
                (record.deserialize(Some(headers))).map_err(|why| error(in_words(&why)))?;
            let (session, label) = read.read().map_err(error)?;
            if labels.by_session.insert(session, label).is_some() {
                return Err(error("this session stands in a line above".to_owned()));
            }
        }
        if headers.is_none() {
            let what = NEEDED.to_owned();
            return Err(LabelsError { line: 1, what });
        }
        Ok(labels)
    }

    /// What is said of a session.
    pub fn of(&self, key: SessionKey) -> Option<&Label> {
        let (source, vni) = key.mirror()?;
        let of = |source| self.by_session.get(&(vni.as_u32(), source));
        of(Some(source)).or_else(|| of(None))
    }

    /// Lines.
    pub fn len(&self) -> usize {
        self.by_session.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_session.is_empty()
    }
}

/// What a table without it is told.
const NEEDED: &str = "the first line names the columns: vni,source,name,account,mtu";

fn is_remark(line: &str) -> bool {
    line.trim().is_empty() || line.starts_with('#')
}

/// The fields of a line.
fn fields(line: &str) -> Result<csv::StringRecord, csv::Error> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .trim(csv::Trim::All)
        .from_reader(line.as_bytes());
    let mut record = csv::StringRecord::new();
    reader.read_record(&mut record)?;
    Ok(record)
}

fn in_words(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::Deserialize { err, .. } => err.kind().to_string(),
        _ => error.to_string(),
    }
}

/// A session that was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Network identifier.
    pub vni: u32,
    /// Outer source; `None` for any.
    pub source: Option<IpAddr>,
    /// Its name.
    pub name: Option<String>,
    /// Time of its last packet, nanoseconds since 1970; `None` where none came.
    pub last_ns: Option<u64>,
}

/// What was expected and what was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Sessions expected.
    pub expected: usize,
    /// Those of which nothing came.
    pub missing: Vec<Expected>,
    /// Those that sent, and then nothing for too long.
    pub silent: Vec<Expected>,
    /// Sessions seen that nobody expected.
    pub unexpected: Vec<SessionKey>,
}

/// Compares what was `expected` with the sessions seen and their last packets: at `now_ns` a session is silent whose
/// last packet is `silent_ns` old.
pub fn compare(
    expected: &Labels,
    seen: impl IntoIterator<Item = (SessionKey, u64)>,
    now_ns: u64,
    silent_ns: u64,
) -> Difference {
    let mut difference = Difference {
        expected: expected.len(),
        ..Difference::default()
    };
    // A line without a source stands for every source.
    let mut last: BTreeMap<(u32, Option<IpAddr>), u64> = BTreeMap::new();
    for (key, last_ns) in seen {
        let Some((source, vni)) = key.mirror() else {
            continue;
        };
        for source in [Some(source), None] {
            let known = last.entry((vni.as_u32(), source)).or_default();
            *known = (*known).max(last_ns);
        }
        if expected.of(key).is_none() {
            difference.unexpected.push(key);
        }
    }
    for ((vni, source), label) in &expected.by_session {
        let session = Expected {
            vni: *vni,
            source: *source,
            name: label.name.clone(),
            last_ns: last.get(&(*vni, *source)).copied(),
        };
        match session.last_ns {
            None => difference.missing.push(session),
            Some(last_ns) if last_ns.saturating_add(silent_ns) < now_ns => {
                difference.silent.push(session);
            }
            Some(_) => {}
        }
    }
    difference
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::direction::Direction;
    use crate::mirror::session::Sessions;
    use crate::wire::decapsulate::Tunnel;
    use crate::wire::length::{Evidence, FrameLen, Verdict};

    fn key(vni: u32, source: &str) -> SessionKey {
        SessionKey::Mirror {
            source: source.parse().unwrap(),
            vni: Vni::new(vni).unwrap(),
        }
    }

    #[test]
    fn a_table_of_sessions() {
        let labels = Labels::read(
            "# made by hand\nvni, source, name, mtu\n101, 10.0.1.11,\"web, first\", 9000\n101,,web,\n7,2001:db8::1,,\n",
        )
        .unwrap();
        assert_eq!(labels.len(), 3);
        let named = |vni, source: &str| {
            labels
                .of(key(vni, source))
                .map(|label| label.name.as_deref())
        };
        assert_eq!(named(101, "10.0.1.11"), Some(Some("web, first")));
        assert_eq!(
            named(101, "10.0.1.12"),
            Some(Some("web")),
            "any other source"
        );
        assert_eq!(named(7, "2001:db8::1"), Some(None));
        assert_eq!(named(7, "10.0.1.11"), None);
        assert_eq!(labels.of(key(101, "10.0.1.11")).unwrap().mtu, Some(9000));
        for (text, line, words) in [
            ("source,name\n1,2\n", 1, "names the columns"),
            ("vni,colour\n1,red\n", 2, "colour"),
            ("vni,mtu\n1,1500\n16777216,\n", 3, "16777215"),
            ("vni,source\n1,10.0.0\n", 2, "'10.0.0'"),
            ("vni,mtu\n1,20\n", 2, "'20'"),
            (
                "vni,source\n1,10.0.0.1\n\n# again\n1,10.0.0.1\n",
                5,
                "above",
            ),
            ("vni,source\n1\n", 2, "1 fields"),
        ] {
            let error = Labels::read(text).unwrap_err();
            assert_eq!(error.line, line, "{text}: {error}");
            assert!(error.to_string().contains(words), "{text}: {error}");
        }
        assert!(Labels::read("vni\n").unwrap().is_empty());
    }

    #[test]
    fn what_is_missing_and_what_is_too_much() {
        let mut sessions = Sessions::default();
        let lengths = FrameLen {
            captured: 60,
            orig: 60,
        };
        for (vni, source, ts_ns) in [
            (1, "10.0.0.1", 100),
            (1, "10.0.0.2", 900),
            (2, "10.0.0.1", 950),
            (9, "10.0.0.9", 10),
        ] {
            let target = "10.9.9.9".parse().ok();
            let id = sessions.find(key(vni, source), target, Some(Tunnel::Vxlan), ts_ns);
            let session = sessions.session_mut(id).unwrap();
            session.add(
                ts_ns,
                &Evidence::default(),
                lengths,
                Verdict::Whole,
                Direction::Unknown,
            );
        }
        let expected =
            Labels::read("vni,source,name\n1,10.0.0.1,a\n1,10.0.0.2,b\n2,,c\n3,,d\n").unwrap();
        let seen = sessions.list().iter();
        let seen = seen.map(|session| (session.key, session.last_ns));
        let difference = compare(&expected, seen, 1000, 100);
        let names = |list: &[Expected]| -> Vec<String> {
            list.iter()
                .filter_map(|session| session.name.clone())
                .collect()
        };
        assert_eq!(difference.expected, 4);
        assert_eq!(names(&difference.missing), ["d"]);
        assert_eq!(names(&difference.silent), ["a"]);
        assert_eq!(difference.silent[0].last_ns, Some(100));
        assert_eq!(difference.unexpected, [key(9, "10.0.0.9")]);
    }
}
