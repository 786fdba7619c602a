//! What the server refuses to create.

use super::*;

/// What is wrong, the manifest, and what a person must read.
#[allow(clippy::too_many_lines)] // a table
fn bad() -> Vec<(&'static str, Value, &'static str)> {
    let long = |length: usize| json!("a".repeat(length));
    let entry = |schema: &str, table: &str| json!({"schemaName": schema, "tableName": table});
    let source = "/spec/source/postgresql";
    let in_source = |field: &str, value: Value| with(link(), &[(&format!("{source}/{field}"), value)]);
    let compute = |value: Value| with(link(), &[("/spec/compute", value)]);
    let protected = |value: Value| with(link(), &[("/spec/sourceProtection", value)]);
    let kept = |time: &str| with(azure_zone(), &[("/spec/retention", json!({"committedFiles": time}))]);
    let azure = |field: &str, value: Value| with(azure_zone(), &[(&format!("/spec/azure/{field}"), value)]);
    vec![
        // LinkConnection
        ("no source", with(link(), &[("/spec/source", Value::Null)]), "spec.source: Required value"),
        (
            "empty source",
            with(link(), &[("/spec/source", json!({}))]),
            "spec.source: Invalid value: \"object\": set exactly one source: postgresql",
        ),
        ("null source", with(link(), &[("/spec/source", json!({"postgresql": {}}))]), "spec.source.postgresql.host: Required value"),
        ("unknown source", with(link(), &[("/spec/source/oracle", json!({}))]), "unknown field \"spec.source.oracle\""),
        ("no target", with(link(), &[("/spec/target", Value::Null)]), "spec.target: Required value"),
        ("empty target", with(link(), &[("/spec/target", json!({}))]), "set exactly one target: postgresql"),
        ("no landing zone", with(link(), &[("/spec/landingZoneRef", Value::Null)]), "spec.landingZoneRef: Required value"),
        ("reference without a name", with(link(), &[("/spec/landingZoneRef", json!({}))]), "spec.landingZoneRef.name: Required value"),
        (
            "reference to nothing",
            with(link(), &[("/spec/landingZoneRef/name", json!(""))]),
            "spec.landingZoneRef.name: Invalid value: \"\"",
        ),
        ("reference that is no name", with(link(), &[("/spec/landingZoneRef/name", json!("other/zone"))]), "spec.landingZoneRef.name"),
        ("name of 41 characters", with(link(), &[("/metadata/name", long(41))]), "the name of a LinkConnection has at most 40 characters"),
        ("unknown state", with(link(), &[("/spec/state", json!("Started"))]), "supported values: \"Running\", \"Paused\", \"Stopped\""),
        ("unknown field", with(link(), &[("/spec/discovery", json!({}))]), "unknown field \"spec.discovery\""),
        ("patterns of nothing", with(link(), &[("/spec/discover", json!({"include": []}))]), "spec.discover.include"),
        (
            "pattern without a schema",
            with(link(), &[("/spec/discover", json!({"include": ["orders"]}))]),
            "spec.discover.include[0]: Invalid value: \"orders\"",
        ),
        ("empty host", in_source("host", json!("")), "spec.source.postgresql.host"),
        ("host with port", in_source("host", json!("http://db:5432/shop")), "host is a name or an address alone"),
        ("over-long host", in_source("host", long(254)), "spec.source.postgresql.host: Too long: may not be more than 253"),
        ("port zero", in_source("port", json!(0)), "should be greater than or equal to 1"),
        ("port beyond the last", in_source("port", json!(65536)), "should be less than or equal to 65535"),
        ("empty database", in_source("database", json!("")), "spec.source.postgresql.database"),
        ("no way to log in", in_source("auth", json!({})), "set exactly one way to log in: password"),
        ("secret without a name", in_source("auth", json!({"password": {"secretRef": {}}})), "secretRef.name: Required value"),
        ("password in the clear", in_source("auth", json!({"password": {"value": "x", "secretRef": {"name": "a"}}})), "unknown field"),
        (
            "key that leaves the folder",
            in_source("auth", json!({"password": {"secretRef": {"name": "a"}, "passwordKey": "../x"}})),
            "passwordKey",
        ),
        ("unknown TLS mode", in_source("tls", json!({"mode": "prefer"})), "\"VerifyFull\", \"VerifyCA\", \"Require\", \"Disable\""),
        (
            "authority that nothing verifies",
            in_source("tls", json!({"mode": "Disable", "serverName": "db"})),
            "no certificate is verified: remove ca",
        ),
        ("no core", compute(json!({"coreCount": 0})), "should be greater than or equal to 1"),
        ("too many cores", compute(json!({"coreCount": 260})), "should be less than or equal to 256"),
        (
            "cores that make no whole worker",
            compute(json!({"coreCount": 6})),
            "spec.compute.coreCount: Invalid value: \"object\": coreCount must be at most coresPerWorker (4 unless set) or a multiple of it",
        ),
        ("interval without a unit", compute(json!({"flushInterval": "1"})), "spec.compute.flushInterval"),
        ("interval too short", compute(json!({"flushInterval": "199ms"})), "flushInterval is a whole number of ms or s from 200ms to 60s"),
        ("interval too long", compute(json!({"flushInterval": "61s"})), "flushInterval is a whole number of ms or s from 200ms to 60s"),
        ("interval that is no text", compute(json!({"flushInterval": 1})), "spec.compute.flushInterval"),
        ("memory that is no quantity", compute(json!({"memoryPerCore": "2 GB"})), "memoryPerCore is a quantity from 256Mi to 64Gi"),
        ("memory too small", compute(json!({"memoryPerCore": "64Mi"})), "memoryPerCore is a quantity from 256Mi to 64Gi"),
        (
            "unknown policy",
            with(link(), &[("/spec/deletionPolicy", json!({"target": "Drop"}))]),
            "supported values: \"Retain\", \"Delete\"",
        ),
        ("link id with a slash", with(link(), &[("/spec/linkId", json!("eu/shop"))]), "spec.linkId"),
        (
            "two tables alike",
            with(link(), &[("/spec/tables", json!([entry("public", "orders"), entry("public", "orders")]))]),
            "spec.tables[1]: Duplicate value",
        ),
        (
            "table without a name",
            with(link(), &[("/spec/tables", json!([{"schemaName": "public"}]))]),
            "spec.tables[0].tableName: Required value",
        ),
        (
            "too many tables",
            with(link(), &[("/spec/tables", (0..501).map(|n| entry("public", &n.to_string())).collect())]),
            "at most 500 items",
        ),
        // LinkTable
        ("table of no link", with(table(), &[("/spec/linkConnectionRef", Value::Null)]), "spec.linkConnectionRef: Required value"),
        ("table without a source", with(table(), &[("/spec/source", Value::Null)]), "spec.source: Required value"),
        ("empty table name", with(table(), &[("/spec/source/tableName", json!(""))]), "spec.source.tableName"),
        ("over-long table name", with(table(), &[("/spec/source/tableName", long(129))]), "Too long: may not be more than 128"),
        ("empty target name", with(table(), &[("/spec/target", json!({"tableName": ""}))]), "spec.target.tableName"),
        // LandingZone
        ("zone nowhere", with(azure_zone(), &[("/spec/azure", Value::Null)]), "set exactly one of azure and persistentVolumeClaim"),
        (
            "zone in two places",
            with(azure_zone(), &[("/spec/persistentVolumeClaim", json!({"claimName": "staging"}))]),
            "set exactly one of azure and persistentVolumeClaim",
        ),
        ("account that cannot be", azure("account", json!("Contoso")), "spec.azure.account"),
        ("container too short", azure("container", json!("ab")), "spec.azure.container"),
        ("folder that begins with a slash", azure("folder", json!("/links")), "folder is a path such as links/shop"),
        ("retention too short", kept("59m"), "committedFiles is a whole number of m or h from 1h to 8760h"),
        ("retention in days", kept("7d"), "committedFiles is a whole number of m or h from 1h to 8760h"),
        ("added columns in other words", with(link(), &[("/spec/schemaChange", json!({"additive": "Ignore"}))]), "\"Propagate\", \"Fail\""),
        ("position lost in other words", with(link(), &[("/spec/onPositionLost", json!("Ignore"))]), "\"Fail\", \"Reseed\""),
        (
            "retained log of a few bytes",
            protected(json!({"maxRetainedLog": "1Mi"})),
            "maxRetainedLog is a quantity of bytes of 64Mi or more",
        ),
        ("retained log in thousandths", protected(json!({"maxRetainedLog": "5000m"})), "spec.sourceProtection.maxRetainedLog"),
        ("retained log that is a number", protected(json!({"maxRetainedLog": 1})), "spec.sourceProtection.maxRetainedLog"),
        ("retained log in words", protected(json!({"maxRetainedLog": "half the disk"})), "spec.sourceProtection.maxRetainedLog"),
        ("giving up in other words", protected(json!({"maxRetainedLog": "1Gi", "action": "Drop"})), "\"Alert\", \"Reseed\""),
        ("giving up of nothing", protected(json!({"action": "Reseed"})), "action Reseed needs maxRetainedLog"),
        ("four connections", protected(json!({"maxConnections": 4})), "should be greater than or equal to 5"),
        ("a snail's rate", protected(json!({"maxSnapshotRate": "1k"})), "maxSnapshotRate is a quantity of bytes per second of 1Mi or more"),
        ("unknown protection", protected(json!({"maxLag": "1h"})), "unknown field \"spec.sourceProtection.maxLag\""),
        ("schema change in other words", with(link(), &[("/spec/schemaChange", json!({"breaking": "Ignore"}))]), "\"Fail\", \"Reseed\""),
        ("folder that climbs", azure("folder", json!("links/../other")), "folder is a path such as links/shop"),
        ("endpoint with its token", azure("endpoint", json!("https://x.example/?sig=1")), "without a query: the token goes into a Secret"),
        ("endpoint that is no address", azure("endpoint", json!("contoso")), "endpoint is the blob service's address"),
        ("zone without a credential", azure("auth", json!({})), "set exactly one credential: sasToken"),
        ("claim without a name", with(claim_zone(), &[("/spec/persistentVolumeClaim", json!({}))]), "claimName: Required value"),
        // IntegrationRuntime
        ("runtime of no kind", with(runtime(), &[("/spec/kubernetes", Value::Null)]), "set exactly one kind of runtime: kubernetes"),
        (
            "labels that are the operator's",
            with(runtime(), &[("/spec/kubernetes", json!({"podLabels": {"link-operator.io/link": "x"}}))]),
            "podLabels must not begin with link-operator.io/",
        ),
    ]
}

#[tokio::test]
async fn server_refuses_what_is_wrong_and_says_why() {
    assert_refused(bad()).await;
}

/// Asks the server to create each, which must say these words.
pub async fn assert_refused(bad: Vec<(&'static str, Value, &'static str)>) {
    let server = ApiServer::shared().await;
    let (client, namespace) = (server.client(), server.namespace().await);
    let mut failures = Vec::new();
    for (what, manifest, words) in bad {
        match create(&client, &namespace, &manifest).await {
            Ok(object) => failures.push(format!("{what}: was accepted as {}", object.name_any())),
            Err(message) if !message.contains(words) => failures.push(format!("{what}: does not say {words:?} but {message}")),
            // A rule that itself breaks helps nobody.
            Err(message) if message.contains("evaluation error") || message.contains("compil") => {
                failures.push(format!("{what}: {message}"));
            }
            Err(_) => {}
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}
