//! The fields and rules of Synapse targets.

use super::{refused::assert_refused, *};

fn pool() -> Value {
    json!({
        "host": "contoso.sql.azuresynapse.net", "database": "pool", "auth": {"password": {"secretRef": {"name": "app"}}},
        "copyAuth": {"managedIdentity": {}}
    })
}

fn synapse_link() -> Value {
    with(link(), &[("/spec/target", json!({"synapse": pool()}))])
}

fn in_target(place: &str, value: Value) -> Value {
    with(synapse_link(), &[(&format!("/spec/target/synapse/{place}"), value)])
}

fn of_table(target: Value) -> Value {
    with(table(), &[("/spec/target", target)])
}

fn named(name: &str, mut manifest: Value) -> Value {
    manifest["metadata"]["name"] = json!(name);
    manifest
}

#[tokio::test]
async fn server_completes_the_minimal_link_and_keeps_its_options() {
    let server = ApiServer::shared().await;
    let (client, namespace) = (server.client(), server.namespace().await);
    create(&client, &namespace, &synapse_link()).await.unwrap();
    let link = Api::<LinkConnection>::namespaced(client.clone(), &namespace).get("shop").await.unwrap();
    let mut complete = pool();
    (complete["port"], complete["tls"], complete["onExistingTable"]) = (json!(1433), json!({"mode": "VerifyFull"}), json!("Fail"));
    complete["auth"] = json!({"password": {"secretRef": {"name": "app"}, "usernameKey": "username", "passwordKey": "password"}});
    assert_eq!(serde_json::to_value(&link.spec.target).unwrap(), json!({"synapse": complete}));

    let target = json!({
        "schemaName": "dw",
        "distributionOptions": {"type": "Hash", "distributionColumn": "customer_id"},
        "structureOptions": {"type": "ClusteredIndex"}
    });
    create(&client, &namespace, &of_table(target.clone())).await.unwrap();
    let table = Api::<LinkTable>::namespaced(client.clone(), &namespace).get("shop-orders").await.unwrap();
    assert_eq!(serde_json::to_value(table.spec.target.unwrap()).unwrap(), target);
    let inline = with(synapse_link(), &[("/spec/tables", json!([{"schemaName": "public", "tableName": "orders", "target": target}]))]);
    create(&client, &namespace, &named("inline", inline)).await.unwrap();
    let token = json!({"sasToken": {"secretKeyRef": {"name": "zone", "key": "read-only"}}});
    create(&client, &namespace, &named("token", in_target("copyAuth", token))).await.unwrap();
}

#[tokio::test]
async fn server_refuses_what_is_wrong_and_says_why() {
    let token = json!({"secretKeyRef": {"name": "zone", "key": "read-only"}});
    let distribution = |options: Value| of_table(json!({"distributionOptions": options}));
    let both = with(synapse_link(), &[("/spec/target/postgresql", link()["spec"]["target"]["postgresql"].clone())]);
    let inline = json!([{"schemaName": "a", "tableName": "b", "target": {"distributionOptions": {"type": "Hash"}}}]);
    assert_refused(vec![
        ("two targets", both, "set exactly one target: postgresql, sqlServer or synapse"),
        ("no way to read the zone", in_target("copyAuth", Value::Null), "copyAuth: Required value"),
        ("an empty way to read the zone", in_target("copyAuth", json!({})), "set exactly one way for the pool to read the landing zone"),
        (
            "two ways to read the zone",
            in_target("copyAuth", json!({"managedIdentity": {}, "sasToken": token})),
            "set exactly one way for the pool to read the landing zone",
        ),
        ("an identity with words", in_target("copyAuth", json!({"managedIdentity": {"clientId": "x"}})), "unknown field"),
        ("a token in the clear", in_target("copyAuth", json!({"sasToken": {"value": "sv=1"}})), "unknown field"),
        ("hash of nothing", distribution(json!({"type": "Hash"})), "type Hash needs it"),
        ("hash of nothing, inline", with(synapse_link(), &[("/spec/tables", inline)]), "type Hash needs it"),
        (
            "column that spreads nothing",
            distribution(json!({"type": "RoundRobin", "distributionColumn": "id"})),
            "distributionColumn goes with type Hash",
        ),
        ("no distribution", distribution(json!({})), "distributionOptions.type: Required value"),
        ("the API's own spelling", distribution(json!({"type": "Round_RoBin"})), "\"Hash\", \"RoundRobin\", \"Replicate\""),
        (
            "unknown structure",
            of_table(json!({"structureOptions": {"type": "Columnstore"}})),
            "\"ClusteredColumnstoreIndex\", \"ClusteredIndex\", \"Heap\"",
        ),
    ])
    .await;
}

#[tokio::test]
async fn server_refuses_to_change_what_a_link_is() {
    let server = ApiServer::shared().await;
    let (client, namespace) = (server.client(), server.namespace().await);
    create(&client, &namespace, &synapse_link()).await.unwrap();
    create(&client, &namespace, &of_table(json!({"structureOptions": {"type": "Heap"}}))).await.unwrap();
    let mut sql_server = pool();
    sql_server.as_object_mut().unwrap().remove("copyAuth");
    for (kind, name, spec, words) in [
        ("LinkConnection", "shop", json!({"target": {"synapse": {"database": "other"}}}), "synapse.database is immutable"),
        ("LinkConnection", "shop", json!({"target": {"synapse": null, "sqlServer": sql_server}}), "the kind of target is immutable"),
        ("LinkTable", "shop-orders", json!({"target": {"structureOptions": {"type": "ClusteredIndex"}}}), "target is immutable"),
    ] {
        let refused = change(&client, &namespace, kind, name, &json!({"spec": spec})).await.err();
        assert!(refused.as_ref().is_some_and(|message| message.contains(words)), "{spec}: {refused:?}");
    }
    let moved = json!({"host": "other.sql.azuresynapse.net", "copyAuth": {"managedIdentity": null, "sasToken": {"secretKeyRef": {"name": "z", "key": "t"}}}});
    change(&client, &namespace, "LinkConnection", "shop", &json!({"spec": {"target": {"synapse": moved}}})).await.unwrap();
}
