//! The fields and rules of SQL Server sources and targets, and of authorities in ConfigMaps.

use super::{refused::assert_refused, *};

fn sql_link() -> Value {
    let database = |host: &str| json!({"host": host, "database": "shop", "auth": {"password": {"secretRef": {"name": "app"}}}});
    with(link(), &[("/spec/source", json!({"sqlServer": database("db")})), ("/spec/target", json!({"sqlServer": database("dw")}))])
}

/// With a value at a place of the source.
fn source(place: &str, value: Value) -> Value {
    with(sql_link(), &[(&format!("/spec/source/sqlServer/{place}"), value)])
}

fn named(name: &str, mut manifest: Value) -> Value {
    manifest["metadata"]["name"] = json!(name);
    manifest
}

#[tokio::test]
async fn server_completes_the_minimal_link() {
    let server = ApiServer::shared().await;
    let (client, namespace) = (server.client(), server.namespace().await);
    create(&client, &namespace, &sql_link()).await.unwrap();
    let link = Api::<LinkConnection>::namespaced(client, &namespace).get("shop").await.unwrap();
    let database = |host: &str| {
        json!({
            "host": host, "port": 1433, "database": "shop", "tls": {"mode": "VerifyFull"},
            "auth": {"password": {"secretRef": {"name": "app"}, "usernameKey": "username", "passwordKey": "password"}}
        })
    };
    let (mut source, mut target) = (database("db"), database("dw"));
    (source["captureMode"], target["onExistingTable"]) = (json!("ChangeTracking"), json!("Fail"));
    assert_eq!(serde_json::to_value(&link.spec.source).unwrap(), json!({"sqlServer": source}));
    assert_eq!(serde_json::to_value(&link.spec.target).unwrap(), json!({"sqlServer": target}));
}

#[tokio::test]
async fn server_accepts_each_way_to_log_in_and_to_trust() {
    let server = ApiServer::shared().await;
    let (client, namespace) = (server.client(), server.namespace().await);
    let identity = json!({"tenantId": "contoso.onmicrosoft.com", "clientId": "6a3f0c1e-0000-0000-0000-000000000000"});
    let with_secret = with(identity.clone(), &[("/clientSecret", json!({"secretKeyRef": {"name": "app", "key": "secret"}}))]);
    let config_map = json!({"ca": {"configMapKeyRef": {"name": "authorities", "key": "ca.crt"}}});
    for manifest in [
        named("principal", source("auth", json!({"servicePrincipal": with_secret}))),
        named("managed", source("auth", json!({"managedIdentity": {}}))),
        named("assigned", source("auth", json!({"managedIdentity": {"clientId": "0"}}))),
        named("workload", source("auth", json!({"workloadIdentity": identity}))),
        named("captured", source("captureMode", json!("ChangeDataCapture"))),
        named("strict", source("tls", json!({"mode": "Strict", "serverName": "db"}))),
        named("authorities", source("tls", config_map.clone())),
        named("open", source("tls", json!({"mode": "Disable"}))),
        named("replacing", with(sql_link(), &[("/spec/target/sqlServer/onExistingTable", json!("Recreate"))])),
        named("postgresql", with(link(), &[("/spec/source/postgresql/tls", config_map)])),
    ] {
        if let Err(error) = create(&client, &namespace, &manifest).await {
            panic!("{manifest:#}\n{error}");
        }
    }
}

#[tokio::test]
async fn server_refuses_what_is_wrong_and_says_why() {
    let key = json!({"name": "ca", "key": "ca.crt"});
    let identity = json!({"tenantId": "t", "clientId": "c"});
    let both = json!({"password": {"secretRef": {"name": "a"}}, "workloadIdentity": identity});
    let open =
        [("/spec/source/sqlServer/tls", json!({"mode": "Disable"})), ("/spec/source/sqlServer/auth", json!({"managedIdentity": {}}))];
    let postgresql = link()["spec"]["source"]["postgresql"].clone();
    assert_refused(vec![
        ("two sources", with(sql_link(), &[("/spec/source/postgresql", postgresql)]), "set exactly one source: postgresql or sqlServer"),
        ("instance in the host", source("host", json!("db\\SQLEXPRESS")), "without scheme, instance, user or path"),
        ("no way to log in", source("auth", json!({})), "set exactly one way to log in: password, servicePrincipal"),
        ("two ways to log in", source("auth", both), "set exactly one way to log in: password, servicePrincipal"),
        ("principal without a secret", source("auth", json!({"servicePrincipal": identity})), "clientSecret: Required value"),
        ("tenant with a path", source("auth", json!({"workloadIdentity": {"tenantId": "a/b", "clientId": "c"}})), "tenantId"),
        ("token in the clear", with(sql_link(), &open), "a token is never sent without encryption"),
        ("authorities nowhere", source("tls", json!({"ca": {}})), "set exactly one place of the certificate authorities"),
        (
            "authorities in two places",
            source("tls", json!({"ca": {"secretKeyRef": key, "configMapKeyRef": key}})),
            "set exactly one place of the certificate authorities",
        ),
        (
            "authorities in two places, PostgreSQL",
            with(link(), &[("/spec/source/postgresql/tls", json!({"ca": {"secretKeyRef": key, "configMapKeyRef": key}}))]),
            "set exactly one place of the certificate authorities",
        ),
        (
            "key that leaves the folder",
            source("tls", json!({"ca": {"configMapKeyRef": {"name": "ca", "key": "../x"}}})),
            "configMapKeyRef.key",
        ),
        (
            "authority that nothing verifies",
            source("tls", json!({"mode": "Require", "ca": {"configMapKeyRef": key}})),
            "no certificate is verified: remove ca",
        ),
        ("other ways to capture", source("captureMode", json!("Triggers")), "\"ChangeTracking\", \"ChangeDataCapture\""),
        (
            "strict PostgreSQL",
            with(link(), &[("/spec/source/postgresql/tls", json!({"mode": "Strict"}))]),
            "tls.mode Strict is for SQL Server",
        ),
    ])
    .await;
}

#[tokio::test]
async fn server_refuses_to_change_what_a_link_is() {
    let server = ApiServer::shared().await;
    let (client, namespace) = (server.client(), server.namespace().await);
    create(&client, &namespace, &sql_link()).await.unwrap();
    let postgresql = link()["spec"]["source"]["postgresql"].clone();
    for (spec, words) in [
        (json!({"source": {"sqlServer": {"database": "other"}}}), "sqlServer.database and sqlServer.captureMode are immutable"),
        (
            json!({"source": {"sqlServer": {"captureMode": "ChangeDataCapture"}}}),
            "sqlServer.database and sqlServer.captureMode are immutable",
        ),
        (json!({"target": {"sqlServer": {"database": "other"}}}), "sqlServer.database is immutable"),
        (json!({"source": {"sqlServer": null, "postgresql": postgresql}}), "the kind of source is immutable"),
        (json!({"target": {"sqlServer": null, "postgresql": postgresql}}), "the kind of target is immutable"),
    ] {
        let refused = change(&client, &namespace, "LinkConnection", "shop", &json!({"spec": spec})).await.err();
        assert!(refused.as_ref().is_some_and(|message| message.contains(words)), "{spec}: {refused:?}");
    }
    let moved = json!({"host": "db-2", "port": 1434, "tls": {"mode": "Strict"}, "auth": {"password": null, "managedIdentity": {}}});
    change(&client, &namespace, "LinkConnection", "shop", &json!({"spec": {"source": {"sqlServer": moved}}})).await.unwrap();
}
