//! Settings in environment variables: `VXTAP_` and the name of the flag in capitals. Pure: variables in, values out.

use std::ffi::OsString;

use serde_json::Value;

use super::keys::{self, Key, Kind, PREFIX};
use super::mistakes::Mistakes;

/// The variable that names the file of settings.
pub const CONFIG: &str = "VXTAP_CONFIG";

/// Behind the prefix: variables that are no settings of `listen` and yet ours. All but the first are given to programs
/// behind --on-rotate, which may start a vxtap of their own.
pub const OTHERS: [&str; 8] = [
    "CONFIG", "FILE", "FIRST_TS", "LAST_TS", "PACKETS", "BYTES", "SHA256", "REASON",
];

/// What the environment says.
#[derive(Debug, Default)]
pub struct Environment {
    /// Group, key and value, as the typed structs take them.
    pub values: Vec<(String, String, Value)>,
    /// What to say of variables that are no settings.
    pub warnings: Vec<String>,
}

/// Reads the variables. One that is empty says nothing.
pub fn read(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    keys: &[Key],
    mistakes: &mut Mistakes,
) -> Environment {
    let mut environment = Environment::default();
    let ours = variables.into_iter().filter_map(|(variable, value)| {
        let name = variable.to_str()?.strip_prefix(PREFIX)?.to_owned();
        (!value.is_empty()).then_some((name, value))
    });
    let mut ours: Vec<(String, OsString)> = ours.collect();
    // The system knows no order.
    ours.sort();
    for (name, value) in ours {
        let variable = format!("{PREFIX}{name}");
        let Some(key) = keys
            .iter()
            .find(|key| keys::variable(&key.name) == variable)
        else {
            environment.warnings.extend(unknown(&name, keys));
            continue;
        };
        let Ok(text) = value.into_string() else {
            mistakes.note_at(None, format!("{variable} is not UTF-8"));
            continue;
        };
        match value_of(key, &text) {
            Ok(value) => {
                let (group, name) = (key.group.clone(), key.name.clone());
                environment.values.push((group, name, value));
            }
            Err(needed) => {
                mistakes.note_at(
                    None,
                    format!("invalid value '{text}' for {variable}: {needed}"),
                );
            }
        }
    }
    environment
}

/// A list has commas between its values.
fn value_of(key: &Key, text: &str) -> Result<Value, &'static str> {
    match key.kind {
        Kind::One => Ok(Value::String(text.to_owned())),
        Kind::Many => {
            let values = text.split(',').map(str::trim);
            let values = values.filter(|value| !value.is_empty());
            Ok(values
                .map(|value| Value::String(value.to_owned()))
                .collect())
        }
        Kind::Switch => match text {
            "true" | "1" => Ok(Value::Bool(true)),
            "false" | "0" => Ok(Value::Bool(false)),
            _ => Err("true or false is needed"),
        },
    }
}

/// What to say of a variable that is no setting.
fn unknown(name: &str, keys: &[Key]) -> Option<String> {
    // Kubernetes gives these to every container where a service is called vxtap.
    let of_kubernetes = ["SERVICE_HOST", "SERVICE_PORT", "PORT"].iter().any(|own| {
        let behind = name.strip_prefix(own);
        behind.is_some_and(|behind| behind.is_empty() || behind.starts_with('_'))
    });
    if of_kubernetes || OTHERS.contains(&name) {
        return None;
    }
    let names = keys.iter().map(|key| key.name.as_str());
    let meant = match keys::nearest(name, names) {
        Some(near) => format!("; is {} meant?", keys::variable(near)),
        None => ": nothing reads it".to_owned(),
    };
    Some(format!("{PREFIX}{name} is no setting{meant}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_from(variables: &[(&str, &str)]) -> (Environment, Vec<String>) {
        let mut mistakes = Mistakes::default();
        let variables = variables
            .iter()
            .map(|(name, value)| (name.into(), value.into()));
        let environment = read(variables, &keys::all(), &mut mistakes);
        let mistakes = mistakes.all().iter().map(ToString::to_string).collect();
        (environment, mistakes)
    }

    #[test]
    fn variables_have_the_names_of_the_flags() {
        let (read, mistakes) = read_from(&[
            ("VXTAP_BIND", "10.0.0.5:4789, [fd00::5]:4789"),
            ("VXTAP_IDLE_TIMEOUT", "tcp=10m,udp=2m"),
            ("VXTAP_MTU", "9000"),
            ("VXTAP_KEEP_EMPTY", "true"),
            ("VXTAP_NO_INDEX", "0"),
            ("VXTAP_WRITE", ""),
            ("VXTAP_ALLOW", ""),
            ("PATH", "/bin"),
        ]);
        assert!(mistakes.is_empty(), "{mistakes:?}");
        assert!(read.warnings.is_empty(), "{:?}", read.warnings);
        let typed = keys::to_typed(read.values).unwrap();
        let list = |values: &[&str]| Some(values.iter().map(|text| (*text).into()).collect());
        assert_eq!(
            typed.receive.bind,
            list(&["10.0.0.5:4789", "[fd00::5]:4789"])
        );
        assert_eq!(
            typed.flow_lifetimes.idle_timeout,
            list(&["tcp=10m", "udp=2m"])
        );
        assert_eq!(typed.truncation.mtu, Some("9000".into()));
        assert_eq!(typed.store.keep_empty, Some(true));
        assert_eq!(typed.store.no_index, Some(false));
        assert_eq!(typed.filters.allow, None, "empty says nothing");
        assert_eq!(typed.output.write, None);
    }

    #[test]
    fn variables_that_are_no_settings() {
        let (read, mistakes) = read_from(&[
            ("VXTAP_BINDS", "10.0.0.5:4789"),
            ("VXTAP_COLOUR", "red"),
            ("VXTAP_LOG", "debug"),
            ("VXTAP_CONFIG", "f.toml"),
            ("VXTAP_PACKETS", "5"),
            ("VXTAP_PORT", "udp://10.0.0.1:4789"),
            ("VXTAP_PORT_4789_UDP_ADDR", "10.0.0.1"),
            ("VXTAP_SERVICE_HOST", "10.0.0.1"),
            ("VXTAP_KEEP_EMPTY", "yes"),
        ]);
        assert_eq!(
            read.warnings,
            [
                "VXTAP_BINDS is no setting; is VXTAP_BIND meant?",
                "VXTAP_COLOUR is no setting: nothing reads it",
            ]
        );
        assert_eq!(
            mistakes,
            ["invalid value 'yes' for VXTAP_KEEP_EMPTY: true or false is needed"]
        );
    }
}
