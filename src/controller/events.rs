//! Kubernetes Events through one shared recorder.

use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use sha2::{Digest, Sha256};

use super::metrics::Metrics;

/// The longest note that the API takes is 1 kB.
const LONGEST_NOTE: usize = 1000;
/// A recorder remembers for minutes all that it published, to count what happens again, and looks through all of it each time: when
/// thousands of tables are linked at once, the oldest are forgotten.
const REMEMBERED: usize = 200;

/// Publishes Events.
pub struct Events {
    client: Client,
    reporter: Reporter,
    /// And how much it published.
    recorder: Mutex<(Recorder, usize)>,
    metrics: Arc<Metrics>,
}

/// Something that happened to an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happened {
    /// One word in CamelCase.
    pub reason: String,
    /// One sentence.
    pub message: String,
    /// Whether a person should look at it.
    pub warning: bool,
}

impl Happened {
    /// Something expected.
    pub fn normal(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { reason: reason.into(), message: message.into(), warning: false }
    }

    /// Something that a person should look at.
    pub fn warning(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { reason: reason.into(), message: message.into(), warning: true }
    }
}

/// As much of a message as an Event has room for.
fn note(message: &str) -> String {
    if message.len() <= LONGEST_NOTE { message.to_owned() } else { format!("{}…", &message[..message.floor_char_boundary(LONGEST_NOTE)]) }
}

impl Events {
    /// A recorder for this controller; `instance` is its pod's name.
    pub fn new(client: Client, instance: Option<String>, metrics: Arc<Metrics>) -> Self {
        let reporter = Reporter { controller: "link-operator".to_owned(), instance };
        Self { recorder: Mutex::new((Recorder::new(client.clone(), reporter.clone()), 0)), client, reporter, metrics }
    }

    fn recorder(&self) -> Recorder {
        let mut recorder = self.recorder.lock().unwrap_or_else(PoisonError::into_inner);
        if recorder.1 >= REMEMBERED {
            *recorder = (Recorder::new(self.client.clone(), self.reporter.clone()), 0);
        }
        recorder.1 += 1;
        recorder.0.clone()
    }

    /// Publishes what happened. An Event that cannot be published is logged: nothing waits for it.
    pub async fn publish(&self, object: &ObjectReference, happened: &Happened) {
        let event = Event {
            type_: if happened.warning { EventType::Warning } else { EventType::Normal },
            reason: happened.reason.clone(),
            note: Some(note(&happened.message)),
            action: action(happened),
            secondary: None,
        };
        self.metrics.told(object.kind.as_deref().unwrap_or_default(), &happened.reason);
        if let Err(error) = self.recorder().publish(&event, object).await {
            tracing::warn!(reason = happened.reason, message = happened.message, %error, "an Event cannot be published");
        }
    }
}

/// The recorder takes Events that differ in their note alone for one that happened again, and drops the newer note: what was
/// done is told apart by its note.
fn action(happened: &Happened) -> String {
    let digest = Sha256::digest(&happened.message);
    format!("{}-{}", happened.reason, hex::encode(&digest[..4]))
}

#[cfg(test)]
mod tests {
    use axum::http::{Request, Response};
    use kube::client::Body;

    use super::*;

    #[test]
    fn a_note_is_as_long_as_it_may_be() {
        assert_eq!(note(&"ä".repeat(500)), "ä".repeat(500));
        let cut = note(&format!("a{}", "ä".repeat(500)));
        assert_eq!(cut, format!("a{}…", "ä".repeat(499)));
        assert!(cut.len() < 1024);
    }

    #[tokio::test]
    async fn what_was_published_is_not_remembered_without_bound() {
        let takes_all = tower::service_fn(|_: Request<Body>| async {
            let event = serde_json::json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"}});
            Ok::<_, std::convert::Infallible>(Response::new(Body::from(event.to_string().into_bytes())))
        });
        let events = Events::new(Client::new(takes_all, "shops"), None, Arc::new(Metrics::new()));
        let shop = ObjectReference { namespace: Some("shops".to_owned()), name: Some("shop".to_owned()), ..ObjectReference::default() };
        let remembered = || events.recorder.lock().unwrap().1;
        for number in 1..=REMEMBERED {
            events.publish(&shop, &Happened::normal("AddTable", format!("table {number} is linked"))).await;
            assert_eq!(remembered(), number);
        }
        events.publish(&shop, &Happened::normal("AddTable", "one more")).await;
        assert_eq!(remembered(), 1);
    }
}
