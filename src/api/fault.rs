//! How anything that went wrong is told to a person: one word, one sentence, one remedy.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Something that went wrong, in the words of a condition. Never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    /// The error's name in CamelCase: the condition's reason, the Event's reason and the metric's label at once.
    pub reason: String,
    /// What is wrong, naming the object or field.
    pub message: String,
    /// What to do about it, with the exact command where there is one.
    pub remedy: String,
    /// Whether it may pass by itself (a table: Suspended), or needs a person (Failed). The link looks again either way, and
    /// goes on by itself once the cause is mended.
    pub heals: bool,
}

/// What every module's error enum can tell about itself. The enum's variant name is the reason (`strum::IntoStaticStr`).
pub trait Explain: std::error::Error + Sized
where
    for<'a> &'a Self: Into<&'static str>,
{
    /// What a person should do; exact commands where there are any.
    fn remedy(&self) -> String;

    /// Whether it may pass without a person doing something.
    fn heals(&self) -> bool;

    /// The error as conditions, Events and reports show it.
    fn fault(&self) -> Fault {
        let reason: &'static str = self.into();
        Fault { reason: reason.to_owned(), message: self.to_string(), remedy: self.remedy(), heals: self.heals() }
    }
}

/// The outcome of one question that a probe or a worker asked of a system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// What was asked: the type of the condition that it becomes (`SourceReachable`, `TargetReachable`, `Writable` …).
    pub name: String,
    /// None when it is as it should be.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fault: Option<Fault>,
    /// What was found, for a person (a version, a right), also when all is well.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

impl Check {
    /// A check that passed.
    pub fn passed(name: &str, message: impl Into<String>) -> Self {
        Self { name: name.to_owned(), fault: None, message: message.into() }
    }

    /// A check that failed.
    pub fn failed(name: &str, fault: Fault) -> Self {
        Self { name: name.to_owned(), message: fault.message.clone(), fault: Some(fault) }
    }
}
