//! Settings read anew while a run goes on: what it takes, what needs a restart, and what is wrong with them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::oneshot;

use super::logging;
use super::settings::given::Given;
use super::settings::keys::{self, Key};
use super::settings::layers::{Layers, Origin};
use super::settings::listening::Listen;
use super::settings::mistakes::Mistakes;
use super::settings::typed;
use crate::capture::store::hooks::Hooks;
use crate::capture::terms::Terms;
use crate::control::verbs::Answer;
use crate::mirror::words::counted;
use crate::pipeline::change::Change;
use crate::say::say;
use crate::threads;

/// Settings that a run takes while it goes on. The files of `allow-file`, `labels` and `expect` are read anew in any case.
const TAKEN: [&str; 14] = [
    "allow",
    "allow-file",
    "vni",
    "vni-deny",
    "filter",
    "labels",
    "expect",
    "silent-after",
    "keep-bytes",
    "keep-files",
    "keep-age",
    "min-free",
    "on-rotate",
    "log",
];

type Changes = Box<dyn Fn(&Arc<Change>) -> usize + Send + Sync>;

/// Whoever reads the settings of a run anew.
pub struct Reloader {
    /// What was typed, which still counts before everything else.
    flags: typed::Listen,
    config: Option<PathBuf>,
    /// What the run goes by.
    running: Mutex<Layers<typed::Listen>>,
    changes: Changes,
    hooks: Option<Hooks>,
}

/// What came of it.
#[derive(Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Reloaded {
    /// Settings that hold from now on, as `name = value`.
    pub taken: Vec<String>,
    /// Settings that need a restart.
    pub restart: Vec<String>,
    /// Mistakes: nothing has changed then.
    pub mistakes: Vec<String>,
    /// Threads that had not taken the settings after a while; they will.
    pub late_threads: usize,
}

/// Values by the names of settings, and where they came from.
type Effective = BTreeMap<String, (Origin, Value)>;

impl Reloader {
    /// For a run whose settings are `layers`: `flags` over what `config` and the environment say. `changes` has its
    /// threads take others.
    pub fn new(
        flags: typed::Listen,
        config: Option<PathBuf>,
        layers: Layers<typed::Listen>,
        changes: impl Fn(&Arc<Change>) -> usize + Send + Sync + 'static,
        hooks: Option<Hooks>,
    ) -> Self {
        Self {
            flags,
            config,
            running: Mutex::new(layers),
            changes: Box::new(changes),
            hooks,
        }
    }

    /// Reads the settings, and has the run take what it can. One after the other: who comes second waits.
    pub fn reload(&self) -> Reloaded {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let variables = std::env::vars_os();
        let mut given = Given::gather(self.flags.clone(), self.config.as_deref(), variables);
        let meant = Listen::again(&mut given);
        if meant.is_none() || !given.mistakes.all().is_empty() {
            return refused(&given.mistakes);
        }
        let (old, new) = (running.effective(), given.layers.effective());
        let (merged, changed) = merge(&old, &new, |name| self.takes(name, &old, &new));
        let mut mistakes = Mistakes::default();
        // What is not taken may contradict what is.
        let Some(listen) = Listen::read(&merged, &mut mistakes) else {
            return refused(&mistakes);
        };
        if !mistakes.all().is_empty() {
            return refused(&mistakes);
        }
        let mut reloaded = Reloaded::default();
        for name in changed {
            let told = told(&name, new.get(&name));
            match self.takes(&name, &old, &new) {
                true => reloaded.taken.push(told),
                false => reloaded.restart.push(told),
            }
        }
        reloaded.late_threads = self.take(&listen, running.fingerprint(), merged.fingerprint());
        *running = merged;
        reloaded
    }

    /// Whether a setting can be taken.
    fn takes(&self, name: &str, old: &Effective, new: &Effective) -> bool {
        let is_there = |settings: &Effective| settings.contains_key(name);
        match name {
            // Their threads begin with the run.
            "on-rotate" => self.hooks.is_some() && is_there(old) && is_there(new),
            _ => TAKEN.contains(&name),
        }
    }

    fn take(&self, listen: &Listen, old: String, new: String) -> usize {
        if let Err(error) = logging::set(&listen.log) {
            tracing::warn!("the log stays as it is: {error}");
        }
        let (_, plan) = listen.run.outputs.stores();
        let program = plan.and_then(|plan| plan.custody.on_rotate.clone());
        if let (Some(hooks), Some(program)) = (&self.hooks, program) {
            hooks.change(program);
        }
        let worker = &listen.run.worker;
        (self.changes)(&Arc::new(Change {
            allowed: Arc::clone(&worker.allowed),
            filter: worker.filter.clone(),
            terms: Terms {
                inventory: Arc::clone(&worker.inventory),
                keeping: plan.map(|plan| (plan.keeping.limits, plan.triggers)),
                configuration: (old, new),
            },
        }))
    }
}

/// Answers requests through the control socket: a line of JSON. The log tells what came of it, too.
pub fn answer(reloader: &Arc<Reloader>) -> impl Fn(&str) -> Answer + Send + Sync + 'static + use<> {
    let reloader = Arc::clone(reloader);
    move |_| {
        let reloader = Arc::clone(&reloader);
        let (tell, told) = oneshot::channel();
        // Files are read, and threads waited for: signals and others who ask are not to wait for that.
        let started = threads::start("vxtap-reload", move || {
            let reloaded = reloader.reload();
            say(reloaded.in_words());
            let _ = tell.send(reloaded);
        });
        Box::pin(async move {
            let error = match (started, told.await) {
                (_, Ok(reloaded)) => return line(&reloaded),
                (Err(error), _) => error.to_string(),
                (Ok(_), Err(_)) => "it failed".to_owned(),
            };
            line(&serde_json::json!({ "error": error }))
        })
    }
}

fn line(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default() + "\n"
}

fn refused(mistakes: &Mistakes) -> Reloaded {
    Reloaded {
        mistakes: mistakes.all().iter().map(ToString::to_string).collect(),
        ..Reloaded::default()
    }
}

/// The old settings with those of the new that are taken, and the names of all that differ.
fn merge(
    old: &Effective,
    new: &Effective,
    takes: impl Fn(&str) -> bool,
) -> (Layers<typed::Listen>, Vec<String>) {
    let keys: BTreeMap<String, Key> = keys::all()
        .into_iter()
        .map(|key| (key.name.clone(), key))
        .collect();
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let value =
        |settings: &Effective, name: &str| settings.get(name).map(|(_, value)| value.clone());
    let mut changed = Vec::new();
    let mut by_origin: BTreeMap<Origin, Vec<(String, String, Value)>> = BTreeMap::new();
    for name in names {
        if value(old, name) != value(new, name) {
            changed.push(name.clone());
        }
        let from = if takes(name) { new } else { old };
        if let (Some((origin, value)), Some(key)) = (from.get(name), keys.get(name)) {
            let values = by_origin.entry(*origin).or_default();
            values.push((key.group.clone(), name.clone(), value.clone()));
        }
    }
    let layers = by_origin.into_iter().rev();
    let layers = layers.filter_map(|(origin, values)| {
        // They were taken apart from such structs.
        keys::to_typed(values).ok().map(|typed| (origin, typed))
    });
    (Layers::of(layers.collect()), changed)
}

fn told(name: &str, value: Option<&(Origin, Value)>) -> String {
    match value {
        None => format!("{name} (not set any more)"),
        Some((_, Value::String(text))) => format!("{name} = {text}"),
        Some((_, Value::Array(values))) => {
            let values: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
            format!("{name} = {}", values.join(", "))
        }
        Some((_, value)) => format!("{name} = {value}"),
    }
}

impl Reloaded {
    /// The lines for people.
    pub fn in_words(&self) -> String {
        if !self.mistakes.is_empty() {
            let count = counted(self.mistakes.len() as u64, "mistake");
            return format!(
                "vxtap: error: {}\nvxtap: the settings have {count}: nothing has changed\n",
                self.mistakes.join("\nvxtap: error: ")
            );
        }
        let list = |what: &str, settings: &[String]| match settings {
            [] => String::new(),
            settings => format!("; {what}: {}", settings.join("; ")),
        };
        let nothing = match self.taken.is_empty() && self.restart.is_empty() {
            true => "; none has changed",
            false => "",
        };
        let late = match self.late_threads {
            0 => String::new(),
            late => format!(
                "; {} will take them later",
                counted(late as u64, "busy thread")
            ),
        };
        format!(
            "vxtap: settings read anew{nothing}{}{}{late}\n",
            list("taken", &self.taken),
            list("needs a restart", &self.restart)
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn effective(values: &[(&str, Value)]) -> Effective {
        let values = values.iter();
        values
            .map(|(name, value)| ((*name).to_owned(), (Origin::File, value.clone())))
            .collect()
    }

    #[test]
    fn what_is_taken_is_new_and_the_rest_as_before() {
        let old = effective(&[
            ("allow", json!(["10.0.0.0/8"])),
            ("mtu", json!("1500")),
            ("vni", json!(["5"])),
        ]);
        let new = effective(&[
            ("allow", json!(["10.0.0.0/8", "fd00::/8"])),
            ("mtu", json!("9000")),
            ("duration", json!("5s")),
        ]);
        let (merged, changed) = merge(&old, &new, |name| TAKEN.contains(&name));
        assert_eq!(changed, ["allow", "duration", "mtu", "vni"]);
        let merged = merged.effective();
        assert_eq!(merged["allow"].1, json!(["10.0.0.0/8", "fd00::/8"]));
        assert_eq!(merged["mtu"].1, json!("1500"));
        assert!(!merged.contains_key("vni") && !merged.contains_key("duration"));
    }

    #[test]
    fn every_setting_that_is_taken_is_one() {
        let keys: BTreeSet<String> = keys::all().into_iter().map(|key| key.name).collect();
        for name in TAKEN {
            assert!(keys.contains(name), "{name}");
        }
    }

    #[test]
    fn what_came_of_it_in_words() {
        let mut reloaded = Reloaded::default();
        assert_eq!(
            reloaded.in_words(),
            "vxtap: settings read anew; none has changed\n"
        );
        reloaded.taken = vec![
            "allow = 10.0.0.0/8".to_owned(),
            "vni (not set any more)".to_owned(),
        ];
        reloaded.restart = vec!["mtu = 9000".to_owned()];
        reloaded.late_threads = 1;
        assert_eq!(
            reloaded.in_words(),
            "vxtap: settings read anew; taken: allow = 10.0.0.0/8; vni (not set any more); needs a restart: mtu = 9000; \
             1 busy thread will take them later\n"
        );
        reloaded.mistakes = vec!["f:1:1: a".to_owned(), "b".to_owned()];
        assert_eq!(
            reloaded.in_words(),
            "vxtap: error: f:1:1: a\nvxtap: error: b\nvxtap: the settings have 2 mistakes: nothing has changed\n"
        );
    }
}
