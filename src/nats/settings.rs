//! The settings of a running stream, compared with those that its file asks for.

use std::collections::BTreeSet;
use std::fmt;

use async_nats::jetstream::stream::Config;
use serde_json::{Map, Value};

/// What whoever runs the servers decides: where the stream is, what it is called, and what is noted with it.
const LEFT_ALONE: &[&str] = &[
    "name",
    "description",
    "metadata",
    "placement",
    "compression",
    "template_owner",
];
/// What the server changes in no stream.
const FIXED: &[&str] = &[
    "storage",
    "retention",
    "persist_mode",
    "max_consumers",
    "mirror",
    "first_seq",
    "sealed",
    "allow_msg_ttl",
    "allow_msg_counter",
    "allow_msg_schedules",
];

/// A setting of a running stream that is not what its file asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The setting, as the file and the server call it.
    pub setting: String,
    /// What it is; null where it is not set.
    pub running: Value,
    /// What it should be.
    pub wanted: Value,
}

impl Difference {
    /// Whether the stream has to be made anew to change it.
    pub fn is_fixed(&self) -> bool {
        FIXED.contains(&self.setting.as_str())
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            setting,
            running,
            wanted,
        } = self;
        match (running, wanted) {
            (Value::Null, wanted) => write!(f, "{setting} is not set, and should be {wanted}"),
            (running, Value::Null) => write!(f, "{setting} is {running}, and should not be set"),
            (running, wanted) => write!(f, "{setting} is {running}, and should be {wanted}"),
        }
    }
}

/// Every setting that is not as wanted, in the order of their names.
pub fn differences(running: &Config, wanted: &Config) -> Vec<Difference> {
    let (running, wanted) = (settings(running), settings(wanted));
    let names: BTreeSet<&String> = running.keys().chain(wanted.keys()).collect();
    let value = |of: &Map<String, Value>, name: &str| of.get(name).cloned().unwrap_or(Value::Null);
    names
        .into_iter()
        .filter(|name| !LEFT_ALONE.contains(&name.as_str()))
        .map(|name| Difference {
            setting: name.clone(),
            running: value(&running, name),
            wanted: value(&wanted, name),
        })
        .filter(|difference| difference.running != difference.wanted)
        .collect()
}

/// The running settings with these changed to what is wanted.
pub fn amended(running: &Config, differences: &[Difference]) -> Config {
    let mut settings = settings(running);
    for difference in differences {
        if difference.wanted.is_null() {
            settings.remove(&difference.setting);
        } else {
            settings.insert(difference.setting.clone(), difference.wanted.clone());
        }
    }
    serde_json::from_value(Value::Object(settings))
        .expect("the settings of one stream with some of another are settings")
}

/// Settings by name; those that are at their default may be missing, and null is the same as missing.
fn settings(config: &Config) -> Map<String, Value> {
    let Ok(Value::Object(mut settings)) = serde_json::to_value(config) else {
        unreachable!("settings have names");
    };
    settings.retain(|_, value| !value.is_null() && *value != Value::Bool(false));
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(json: &str) -> Config {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn each_setting_that_differs_is_named_and_can_be_amended() {
        let base = r#""name":"S","retention":"limits","discard":"new","num_replicas":1"#;
        let wanted = stream(&format!(
            r#"{{{base},"storage":"file","max_age":0,"deny_delete":true,"max_msg_size":10}}"#
        ));
        let running = stream(&format!(
            r#"{{{base},"storage":"memory","max_age":5,"allow_rollup_hdrs":true,"max_msg_size":10,"description":"ours","metadata":{{"a":"b"}}}}"#
        ));
        let found = differences(&running, &wanted);
        let told: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "allow_rollup_hdrs is true, and should not be set",
                "deny_delete is not set, and should be true",
                "max_age is 5, and should be 0",
                r#"storage is "memory", and should be "file""#,
            ]
        );
        assert!(
            found
                .iter()
                .all(|difference| difference.is_fixed() == (difference.setting == "storage"))
        );
        let amended = amended(&running, &found);
        assert_eq!(differences(&amended, &wanted), []);
        assert_eq!(
            (&amended.description, &amended.metadata),
            (&running.description, &running.metadata)
        );
    }
}
