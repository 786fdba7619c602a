//! What of a link may change, and what may not.

use super::*;

#[tokio::test]
async fn server_refuses_to_change_what_a_link_is() {
    let server = ApiServer::shared().await;
    let (client, namespace) = (server.client(), server.namespace().await);
    let inline = json!([{"schemaName": "public", "tableName": "orders", "target": {"schemaName": "shop"}}]);
    for manifest in [
        with(link(), &[("/spec/linkId", json!("eu.shop")), ("/spec/tables", inline)]),
        with(link(), &[("/metadata/name", json!("unnamed"))]),
        table(),
        azure_zone(),
        with(claim_zone(), &[("/metadata/name", json!("claim"))]),
    ] {
        create(&client, &namespace, &manifest).await.unwrap();
    }

    let database = json!({"postgresql": {"database": "other"}});
    let refused = [
        ("LinkConnection", "shop", json!({"source": database}), "postgresql.database is immutable: create another LinkConnection"),
        ("LinkConnection", "shop", json!({"target": database}), "postgresql.database is immutable: create another LinkConnection"),
        ("LinkConnection", "shop", json!({"landingZoneRef": {"name": "other"}}), "landingZoneRef is immutable"),
        ("LinkConnection", "shop", json!({"linkId": "other"}), "linkId is immutable"),
        ("LinkConnection", "shop", json!({"linkId": null}), "linkId is immutable"),
        ("LinkConnection", "unnamed", json!({"linkId": "other"}), "linkId is immutable"),
        (
            "LinkConnection",
            "shop",
            json!({"tables": [{"schemaName": "public", "tableName": "orders"}]}),
            "target is immutable: remove the table from the list and add it again",
        ),
        ("LinkConnection", "shop", json!({"compute": {"coreCount": 5}}), "coreCount must be at most coresPerWorker"),
        ("LinkTable", "shop-orders", json!({"linkConnectionRef": {"name": "other"}}), "linkConnectionRef is immutable"),
        ("LinkTable", "shop-orders", json!({"source": {"tableName": "other"}}), "source is immutable"),
        ("LinkTable", "shop-orders", json!({"target": {"tableName": "other"}}), "target is immutable"),
        (
            "LandingZone",
            "staging",
            json!({"azure": {"account": "fabrikam"}}),
            "azure.account, azure.container and azure.folder are immutable",
        ),
        ("LandingZone", "staging", json!({"azure": {"container": "other"}}), "azure.container and azure.folder are immutable"),
        ("LandingZone", "staging", json!({"azure": {"folder": null}}), "azure.folder are immutable"),
        ("LandingZone", "staging", json!({"azure": null, "persistentVolumeClaim": {"claimName": "c"}}), "the store is immutable"),
        ("LandingZone", "claim", json!({"persistentVolumeClaim": {"claimName": "other"}}), "persistentVolumeClaim.claimName"),
        ("LandingZone", "claim", json!({"persistentVolumeClaim": {"folder": "other"}}), "persistentVolumeClaim.folder are immutable"),
    ];
    let mut failures = Vec::new();
    for (kind, name, spec, words) in refused {
        match change(&client, &namespace, kind, name, &json!({"spec": spec})).await {
            Ok(_) => failures.push(format!("{kind} {name} {spec}: was accepted")),
            Err(message) if !message.contains(words) => {
                failures.push(format!("{kind} {name} {spec}: does not say {words:?} but {message}"));
            }
            Err(_) => {}
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));

    // How the same database is reached, how much works for it and what it shall do can change; so can spelling out a default.
    let accepted = [
        ("LinkConnection", "shop", json!({"source": {"postgresql": {"host": "shop-2", "port": 5433, "tls": {"mode": "Require"}}}})),
        ("LinkConnection", "shop", json!({"target": {"postgresql": {"auth": {"password": {"secretRef": {"name": "new"}}}}}})),
        ("LinkConnection", "shop", json!({"state": "Stopped", "compute": {"coreCount": 8, "coresPerWorker": 8}})),
        (
            "LinkConnection",
            "shop",
            json!({"tables": [{"schemaName": "public", "tableName": "orders", "target": {"schemaName": "shop"}},
                              {"schemaName": "public", "tableName": "items"}]}),
        ),
        ("LinkConnection", "shop", json!({"tables": []})),
        ("LinkTable", "shop-orders", json!({"target": null})),
        (
            "LandingZone",
            "staging",
            json!({"azure": {"endpoint": "https://private.example", "auth": {"sasToken": {"secretKeyRef": {"key": "b"}}}}}),
        ),
    ];
    for (kind, name, spec) in accepted {
        if let Err(error) = change(&client, &namespace, kind, name, &json!({"spec": spec})).await {
            panic!("{kind} {name} {spec}: {error}");
        }
    }
}
