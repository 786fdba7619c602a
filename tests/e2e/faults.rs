//! What can be wrong is said in the CR, with a remedy, and heals by itself once mended.

use serde_json::Value;

use crate::{
    azurite,
    cluster::{PASSWORD, Place, SERVERS, condition, kubectl, until},
};

/// That Ready's message says what is wrong and what to do.
fn has_remedy(object: &Value, words: &[&str]) {
    let message = condition(object, "Ready").unwrap()["message"].as_str().unwrap_or_default().to_owned();
    for word in words {
        assert!(message.contains(word), "{message:?} does not say {word:?}");
    }
    assert!(!object.to_string().contains("wr0ng"), "a secret stands in the object");
    assert!(!object.to_string().contains(PASSWORD), "a secret stands in the object");
}

fn set_password(place: &Place, secret: &str, password: &str) {
    place.apply(&format!(
        "{{apiVersion: v1, kind: Secret, metadata: {{name: {secret}}}, stringData: {{username: postgres, password: {password}}}}}"
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_hosts_and_missing_secrets() {
    let place = Place::new("credentials").await;
    place.source.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    kubectl(&["delete", "secret", "source", "-n", &place.namespace]);
    place.link(&["t"]);
    let missing = place.link_is("", "False", "SecretMissing").await;
    has_remedy(&missing, &["source", "create the Secret"]);

    set_password(&place, "source", "wr0ng");
    let wrong = place.link_is("", "False", "SourceAuthenticationFailed").await;
    has_remedy(&wrong, &["password", "Secret"]);

    set_password(&place, "source", PASSWORD);
    place.link_is("Running", "True", "Replicating").await;

    place.patch("lc/link", r#"{"spec":{"target":{"postgresql":{"host":"nowhere.invalid"}}}}"#);
    let unreachable = place.link_is("", "False", "TargetUnreachable").await;
    has_remedy(&unreachable, &["nowhere.invalid", "check host"]);
    place.patch("lc/link", &format!(r#"{{"spec":{{"target":{{"postgresql":{{"host":"target.{SERVERS}"}}}}}}}}"#));
    place.link_is("Running", "True", "Replicating").await;

    // The same questions are asked while no worker runs.
    place.patch("lc/link", r#"{"spec":{"state":"Paused"}}"#);
    place.link_is("Paused", "True", "Paused").await;
    place.patch("lc/link", r#"{"spec":{"source":{"postgresql":{"host":"nowhere.invalid"}}}}"#);
    let unreachable = place.link_is("Paused", "False", "SourceUnreachable").await;
    has_remedy(&unreachable, &["nowhere.invalid"]);
    place.patch("lc/link", &format!(r#"{{"spec":{{"source":{{"postgresql":{{"host":"source.{SERVERS}"}}}}}}}}"#));
    place.link_is("Paused", "True", "Paused").await;
    place.done();
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_cannot_be_linked() {
    let place = Place::new("tables").await;
    place.source.batch_execute("CREATE TABLE good (id int PRIMARY KEY); CREATE TABLE keyless (id int)").await.unwrap();
    place.link(&["good", "keyless", "absent"]);
    let good = place.table_is("good", "Replicating", "").await;
    assert_eq!(condition(&good, "Ready").unwrap()["status"], "True", "the others go on");
    for (table, reason, remedy) in [("keyless", "NoPrimaryKey", "ADD PRIMARY KEY"), ("absent", "SourceTableMissing", "create")] {
        let failed = until(&place.namespace, reason, || {
            let found = place.table(table)?;
            (found["status"]["error"]["code"] == reason && found["status"]["phase"] == "Failed").then_some(found)
        })
        .await;
        assert!(failed["status"]["error"]["remedy"].as_str().unwrap().contains(remedy), "{failed:#}");
        assert_eq!(condition(&failed, "Ready").unwrap()["status"], "False");
    }
    let link = place.link_is("Running", "False", "TablesFailed").await;
    assert_eq!(link["status"]["tables"]["summary"], "1/3");
    assert_eq!(link["status"]["worstTables"].as_array().unwrap().len(), 2);

    place.source.batch_execute("CREATE TABLE absent (id int PRIMARY KEY); ALTER TABLE keyless ADD PRIMARY KEY (id)").await.unwrap();
    place.link_is("Running", "True", "Replicating").await;
    place.done();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_sas_token() {
    let place = Place::new("sas").await;
    place.source.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    let container = "e2e-sas";
    let address = kubectl(&["get", "service", "azurite", "-n", SERVERS, "-o", "jsonpath={.spec.clusterIP}"]);
    azurite::create_container_at(&format!("http://{}:10000/{}", address.trim(), azurite::ACCOUNT), container).await;
    let token = |expiry: jiff::SignedDuration| {
        place.apply(&format!(
            "{{apiVersion: v1, kind: Secret, metadata: {{name: sas}}, stringData: {{token: '{}'}}}}",
            azurite::sas(container, azurite::ALL, expiry)
        ));
    };
    token(jiff::SignedDuration::from_mins(-5));
    place.apply(&format!(
        "apiVersion: link-operator.io/v1alpha1
kind: LandingZone
metadata: {{name: blob}}
spec:
  azure:
    account: {}
    container: {container}
    folder: links-{}
    endpoint: http://{}:10000/{}
    auth: {{sasToken: {{secretKeyRef: {{name: sas, key: token}}}}}}
",
        azurite::ACCOUNT,
        // A folder of a run before belongs to a link that is no more, and is refused.
        jiff::Timestamp::now().as_second(),
        // By its address: Azurite takes the first word of a name for the account.
        address.trim(),
        azurite::ACCOUNT
    ));
    // While no worker runs: the zone's own probe finds it.
    let zone = place.object_is("lz/blob", "", "False", "CredentialExpired").await;
    has_remedy(&zone, &["expired", "SAS token"]);
    place.link_with(&["t"], "coreCount: 1, coresPerWorker: 1", "blob");
    let link = place.link_is("", "False", "CredentialExpired").await;
    has_remedy(&link, &["SAS token"]);

    token(jiff::SignedDuration::from_hours(1));
    place.link_is("Running", "True", "Replicating").await;
    let zone = place.object_is("lz/blob", "Ready", "True", "").await;
    assert!(zone["status"]["credentialExpiryTime"].is_string());
    place.source.batch_execute("INSERT INTO t SELECT generate_series(1, 1000)").await.unwrap();
    place.converged("t").await;
    place.done();
}
