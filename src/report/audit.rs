//! The truncation audit as a value: what a JSON summary says of mirror sessions and packets, read back, with sums over
//! all sessions and, where flow records were made for it, the largest flows. `--json` prints it as it is. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::summary::{InventorySummary, RefusedSummary, SessionSummary, Summary};
use crate::export::top::Top;

/// Counters by reason.
pub type Counts = BTreeMap<String, u64>;

/// The audit. It reads summaries, and what it printed itself.
#[derive(Debug, Deserialize, Serialize)]
pub struct Audit {
    /// Version of the program that wrote the summary.
    pub version: String,
    /// What it is of.
    #[serde(skip_deserializing)]
    pub input: Input,
    /// Sums over all sessions.
    #[serde(skip_deserializing)]
    pub total: Total,
    /// Packets the source handed over.
    pub received: u64,
    /// Mirrored frames decapsulated and judged.
    pub delivered: u64,
    /// Packets that break a rule, by reason.
    pub malformed: Counts,
    /// Packets that were not asked for, by reason.
    pub filtered: Counts,
    /// Copies of packets that came before, where these were dropped.
    pub duplicate: u64,
    /// Packets lost, by reason.
    pub dropped: Counts,
    /// Datagrams the kernel lost before they could be received, by reason.
    pub kernel_dropped: Counts,
    /// Packets of sources that --allow does not name that the kernel left out before they were received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_refused: Option<u64>,
    /// Sources that --allow does not name, those with the most packets first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused_sources: Vec<RefusedSummary>,
    /// Packets that the input says were lost before it was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_dropped: Option<u64>,
    /// Worth knowing of packets that were delivered.
    pub noted: Counts,
    /// Mirror sessions.
    pub sessions: Vec<SessionSummary>,
    /// What `--expect` lists and what was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory: Option<InventorySummary>,
    /// The largest flows and protocols; absent where no flow records were made for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top: Option<Top>,
    /// What there is to say about the input.
    #[serde(default)]
    pub remarks: Vec<String>,
    /// What went wrong in the run.
    pub errors: Vec<String>,
}

/// What an audit is of.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Input {
    /// File or directory.
    pub name: String,
    /// What that is.
    pub kind: Kind,
}

/// A kind of input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Capture files.
    #[default]
    Capture,
    /// The files of a store.
    Store,
    /// What an earlier run wrote.
    Summary,
}

/// Sums over all sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Total {
    /// Sessions.
    pub sessions: u64,
    /// Those that sent cut packets.
    pub sessions_cut: u64,
    /// Frames.
    pub packets: u64,
    /// Bytes of inner frame that arrived.
    pub bytes: u64,
    /// Packets cut before they reached us.
    pub truncated: u64,
    /// Bytes cut off.
    pub missing_bytes: u64,
    /// Packets without a declared length that are as long as the cut.
    pub suspect: u64,
    /// Whole packets larger than one outer packet of the path's MTU carries.
    pub oversize: u64,
    /// Packets whose outer packets arrived in fragments.
    pub fragmented: u64,
    /// Largest inner IP packet, in bytes.
    pub largest_inner_ip: u32,
    /// Time of the earliest frame, RFC 3339; null where there is none.
    pub first_seen: Option<String>,
    /// Time of the latest frame, likewise.
    pub last_seen: Option<String>,
}

/// Why a text is no summary that can be told.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum AuditError {
    #[error("it is not one JSON object ({0})")]
    NotJson(serde_json::Error),
    #[error("it is JSON, but no summary that 'vxtap listen' or 'vxtap replay' wrote (--summary)")]
    NoSummary,
    #[error(
        "it is a summary of vxtap {theirs}, which vxtap {ours} cannot read ({what}): use vxtap {theirs}, or make it again"
    )]
    OtherVersion {
        theirs: String,
        ours: &'static str,
        what: serde_json::Error,
    },
    #[error("it is a summary with a fault: {0}")]
    Damaged(serde_json::Error),
}

impl Audit {
    /// Reads the text of a summary.
    ///
    /// # Errors
    ///
    /// When it is none, or one of a version that tells other things.
    pub fn read(text: &[u8]) -> Result<Self, AuditError> {
        let value: serde_json::Value = serde_json::from_slice(text).map_err(AuditError::NotJson)?;
        let has = |name: &str| value.get(name).is_some();
        let version = value.get("version").and_then(|version| version.as_str());
        let (Some(version), true) = (version, has("received") && has("sessions")) else {
            return Err(AuditError::NoSummary);
        };
        let theirs = version.to_owned();
        let ours = env!("CARGO_PKG_VERSION");
        let read: Result<Self, _> = serde_json::from_value(value);
        let mut audit = read.map_err(|what| match theirs == ours {
            true => AuditError::Damaged(what),
            false => AuditError::OtherVersion { theirs, ours, what },
        })?;
        audit.total = Total::of(&audit.sessions);
        Ok(audit)
    }

    /// Of a run that just ended: read from what its summary would be.
    ///
    /// # Errors
    ///
    /// None that a summary of this program could bring out.
    pub fn of(summary: &Summary) -> Result<Self, AuditError> {
        let text = serde_json::to_vec(summary).map_err(AuditError::Damaged)?;
        Self::read(&text)
    }

    /// As JSON.
    ///
    /// # Errors
    ///
    /// None that an audit could bring out.
    pub fn json(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut json = serde_json::to_vec_pretty(self)?;
        json.push(b'\n');
        Ok(json)
    }
}

impl Total {
    fn of(sessions: &[SessionSummary]) -> Self {
        let sum = |of: fn(&SessionSummary) -> u64| {
            let counts = sessions.iter().map(of);
            self::sum(counts)
        };
        // RFC 3339 in UTC and of one length: the order of texts is that of times.
        let seen = || sessions.iter().filter(|session| session.packets > 0);
        Self {
            sessions: sessions.len() as u64,
            sessions_cut: sum(|session| u64::from(session.truncated > 0)),
            packets: sum(|session| session.packets),
            bytes: sum(|session| session.bytes),
            truncated: sum(|session| session.truncated),
            missing_bytes: sum(|session| session.missing_bytes),
            suspect: sum(|session| session.suspect),
            oversize: sum(|session| session.oversize),
            fragmented: sum(|session| session.fragmented),
            largest_inner_ip: sessions
                .iter()
                .map(|session| session.largest_inner_ip)
                .max()
                .unwrap_or_default(),
            first_seen: seen().map(|session| session.first_seen.clone()).min(),
            last_seen: seen().map(|session| session.last_seen.clone()).max(),
        }
    }
}

/// A sum that ends where numbers do: a summary is a file like any other.
pub(super) fn sum(counts: impl Iterator<Item = u64>) -> u64 {
    counts.fold(0, u64::saturating_add)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::mirror::session::Sessions;
    use crate::mirror::session_key::SessionKey;
    use crate::pipeline::outcome::Outcome;
    use crate::pipeline::worker::WorkerSettings;

    fn summary() -> serde_json::Value {
        let settings = WorkerSettings::default();
        let mut sessions = Sessions::default();
        sessions.find(SessionKey::Plain, None, None, 0);
        let outcome = Outcome {
            sessions: sessions.list().to_vec(),
            ..Outcome::default()
        };
        let summary = Summary::new(&outcome, BTreeMap::new(), &settings, Vec::new());
        serde_json::to_value(summary).unwrap()
    }

    /// Of one session without a packet.
    pub fn audit() -> Audit {
        Audit::read(summary().to_string().as_bytes()).unwrap()
    }

    /// Its session.
    pub fn session() -> SessionSummary {
        audit().sessions.remove(0)
    }

    fn said(value: &serde_json::Value) -> String {
        let read = Audit::read(value.to_string().as_bytes());
        read.map_or_else(|error| error.to_string(), |_| "read".to_owned())
    }

    #[test]
    fn what_is_no_summary_is_told() {
        assert_eq!(said(&summary()), "read");
        // What is new in later versions is left alone.
        let mut later = summary();
        later["version"] = "9.9.9".into();
        later["news"] = 1.into();
        assert_eq!(said(&later), "read");
        later.as_object_mut().unwrap().remove("noted");
        let told = said(&later);
        assert!(
            told.contains("a summary of vxtap 9.9.9") && told.contains("`noted`"),
            "{told}"
        );
        let mut damaged = summary();
        damaged["sessions"] = serde_json::json!([{"vni": 1}]);
        assert!(said(&damaged).contains("with a fault: missing field"));
        assert!(said(&serde_json::json!({"version": "0.1.0", "frames": 1})).contains("no summary"));
        let lines = b"{\"flow_id\":1}\n{\"flow_id\":2}\n";
        let told = Audit::read(lines).unwrap_err().to_string();
        assert!(told.contains("not one JSON object"), "{told}");
    }

    #[test]
    fn an_audit_reads_itself() {
        let audit = Audit::read(summary().to_string().as_bytes()).unwrap();
        let json = audit.json().unwrap();
        let again = Audit::read(&json).unwrap().json().unwrap();
        assert_eq!(json, again);
    }
}
