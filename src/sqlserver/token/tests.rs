//! Tokens from a directory that the test plays.

use axum::{
    Router,
    extract::{Path as UrlPath, Query, State},
    http::{HeaderMap, StatusCode},
    routing::{get, post},
};
use serde_json::{Value, json};

use super::*;

/// What the directory was asked, and what it answers.
#[derive(Default)]
struct Play {
    asked: Vec<HashMap<String, String>>,
    answer: Vec<(u16, Value)>,
}

type Stage = Arc<Mutex<Play>>;

fn answered(stage: &Stage, asked: HashMap<String, String>) -> (StatusCode, axum::Json<Value>) {
    let mut play = stage.lock().unwrap();
    play.asked.push(asked);
    let at = (play.asked.len() - 1).min(play.answer.len() - 1);
    let (status, body) = play.answer[at].clone();
    (StatusCode::from_u16(status).unwrap(), axum::Json(body))
}

/// A directory with these answers in order, the last for ever.
async fn directory(answer: Vec<(u16, Value)>) -> (Directory, Stage, tempfile::TempDir, Secrets) {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let stage = Stage::new(Mutex::new(Play { answer, ..Default::default() }));
    let token = async |State(stage): State<Stage>, UrlPath(tenant): UrlPath<String>, body: String| {
        // Slow enough that many sessions ask at once.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut asked: HashMap<String, String> = form_urlencoded::parse(body.as_bytes()).into_owned().collect();
        asked.insert("tenant".into(), tenant);
        answered(&stage, asked)
    };
    let metadata = async |State(stage): State<Stage>, Query(mut asked): Query<HashMap<String, String>>, headers: HeaderMap| {
        asked.insert("Metadata".into(), headers.get("metadata").map_or_else(String::new, |value| value.to_str().unwrap().to_owned()));
        answered(&stage, asked)
    };
    let router = Router::new()
        .route("/{tenant}/oauth2/v2.0/token", post(token))
        .route("/metadata/identity/oauth2/token", get(metadata))
        .with_state(stage.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("app")).unwrap();
    std::fs::write(folder.path().join("app/secret"), "s3cret&=\n").unwrap();
    let secrets = Secrets::new(folder.path());
    (Directory { authority: format!("{url}/"), metadata: url, token_file: folder.path().join("token") }, stage, folder, secrets)
}

fn good(text: &str, seconds: u64) -> (u16, Value) {
    (200, json!({"token_type": "Bearer", "expires_in": seconds, "access_token": text}))
}

fn auth(auth: Value) -> SqlServerAuth {
    serde_json::from_value(auth).unwrap()
}

fn principal() -> SqlServerAuth {
    let key = json!({"secretKeyRef": {"name": "app", "key": "secret"}});
    auth(json!({"servicePrincipal": {"tenantId": "contoso.com", "clientId": "c-1", "clientSecret": key}}))
}

fn asked(stage: &Stage) -> Vec<HashMap<String, String>> {
    stage.lock().unwrap().asked.clone()
}

#[tokio::test]
async fn a_principal_asks_once_for_many_sessions_and_again_after_a_rotation() {
    let (directory, stage, folder, secrets) = directory(vec![good("first", 3600), good("second", 3600)]).await;
    let auth = principal();
    let many = futures::future::join_all((0..5).map(|_| directory.token(&auth, &secrets))).await;
    for token in many {
        assert_eq!(token.unwrap(), ("first".to_owned(), "application c-1".to_owned()));
    }
    let expected = [
        ("tenant", "contoso.com"),
        ("client_id", "c-1"),
        ("grant_type", "client_credentials"),
        ("scope", "https://database.windows.net/.default"),
        ("client_secret", "s3cret&="),
    ];
    assert_eq!(asked(&stage), [expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into()]);

    std::fs::write(folder.path().join("app/secret"), "rotated").unwrap();
    assert_eq!(directory.token(&auth, &secrets).await.unwrap().0, "second");
    assert_eq!(asked(&stage)[1]["client_secret"], "rotated");
}

#[tokio::test]
async fn a_token_is_renewed_before_it_expires_and_the_old_one_serves_meanwhile() {
    let down = (503, json!({}));
    let (directory, stage, _folder, secrets) = directory(vec![good("first", 299), down.clone(), good("second", 3600), down]).await;
    let auth = principal();
    for (times, token) in [(1, "first"), (2, "first"), (3, "second"), (3, "second")] {
        assert_eq!(directory.token(&auth, &secrets).await.unwrap().0, token);
        assert_eq!(asked(&stage).len(), times);
    }
}

#[tokio::test]
async fn a_token_that_has_expired_is_not_used() {
    let (directory, _, _folder, secrets) = directory(vec![good("first", 0), (503, json!({}))]).await;
    directory.token(&principal(), &secrets).await.unwrap();
    let error = directory.token(&principal(), &secrets).await.unwrap_err();
    assert!(matches!(&error, ConnectError::Unreachable(words) if words.contains("503")), "{error}");
}

#[tokio::test]
async fn a_refusal_names_the_directorys_code_and_no_secret() {
    let words = "AADSTS7000222: The provided client secret s3cret&= has expired";
    let refusal = (401, json!({"error": "invalid_client", "error_description": words, "error_codes": [7_000_222]}));
    let (directory, _, _folder, secrets) = directory(vec![refusal, good("later", 3600)]).await;
    let error = directory.token(&principal(), &secrets).await.unwrap_err();
    let said = error.to_string();
    assert!(matches!(error, ConnectError::AuthenticationFailed(_)), "{said}");
    assert!(said.contains("invalid_client, AADSTS7000222: the client secret has expired") && !said.contains("s3cret"), "{said}");
    // It is not kept.
    assert_eq!(directory.token(&principal(), &secrets).await.unwrap().0, "later");

    let absent = auth(json!({"servicePrincipal": {"tenantId": "t", "clientId": "c",
        "clientSecret": {"secretKeyRef": {"name": "absent", "key": "secret"}}}}));
    assert!(matches!(directory.token(&absent, &secrets).await, Err(ConnectError::SecretMissing(_))));
}

#[tokio::test]
async fn a_workload_shows_the_token_of_its_service_account() {
    let (directory, stage, _folder, secrets) = directory(vec![good("first", 3600)]).await;
    let auth = auth(json!({"workloadIdentity": {"tenantId": "t-1", "clientId": "c-1"}}));
    let error = directory.token(&auth, &secrets).await.unwrap_err();
    assert!(
        matches!(&error, ConnectError::AuthenticationFailed(words) if words.contains("ServiceAccount's token cannot be read")),
        "{error}"
    );
    std::fs::write(&directory.token_file, "ey.J.0\n").unwrap();
    assert_eq!(directory.token(&auth, &secrets).await.unwrap(), ("first".to_owned(), "workload identity c-1".to_owned()));
    let asked = &asked(&stage)[0];
    assert_eq!((asked["client_assertion"].as_str(), asked["tenant"].as_str()), ("ey.J.0", "t-1"));
    assert_eq!(asked["client_assertion_type"], "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
    assert!(!asked.contains_key("client_secret"));
}

#[tokio::test]
async fn a_managed_identity_comes_from_the_machine() {
    // The metadata service writes numbers as texts.
    let answer = (200, json!({"access_token": "machine", "expires_in": "3600", "token_type": "Bearer"}));
    let (directory, stage, _folder, secrets) = directory(vec![answer]).await;
    let (token, who) = directory.token(&auth(json!({"managedIdentity": {}})), &secrets).await.unwrap();
    assert_eq!((token.as_str(), who.as_str()), ("machine", "the machine's identity"));
    directory.token(&auth(json!({"managedIdentity": {"clientId": "c-2"}})), &secrets).await.unwrap();
    let asked = asked(&stage);
    assert_eq!((asked[0]["Metadata"].as_str(), asked[0]["resource"].as_str()), ("true", "https://database.windows.net/"));
    assert!(!asked[0].contains_key("client_id"));
    assert_eq!(asked[1]["client_id"], "c-2");
}

#[test]
fn other_clouds_have_other_resources() {
    let directory = |authority: &str| Directory { authority: authority.to_owned(), ..Directory::of_environment() };
    assert_eq!(directory("https://login.chinacloudapi.cn").resource(), "https://database.chinacloudapi.cn/");
    assert_eq!(directory("https://login.microsoftonline.us/").resource(), "https://database.usgovcloudapi.net/");
    assert_eq!(directory("https://login.microsoftonline.com").resource(), "https://database.windows.net/");
}
