//! Access tokens of Microsoft Entra ID for Azure SQL.
//!
//! Tokens are kept until shortly before they expire, and fetched by one session while others wait. A token, a client secret or
//! what the directory answers beside its codes never stands in an error.
//!
//! Protocols: [client credentials](https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow), also with
//! a federated credential, and the [metadata service](https://learn.microsoft.com/entra/identity/managed-identities-azure-resources/how-to-use-vm-token).

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

use reqwest::{Client, RequestBuilder, header};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use url::form_urlencoded;

use crate::{
    api::{
        database::SqlServerAuth,
        plan::{IDENTITY_DIR, IDENTITY_FILE},
    },
    connect::{ConnectError, chain},
    secrets::Secrets,
};

/// Longest time for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A token is renewed when it is valid for no longer than this.
const MARGIN: Duration = Duration::from_mins(5);

/// A token for the way to log in that the spec names, and whose it is.
pub async fn of(auth: &SqlServerAuth, secrets: &Secrets) -> Result<(String, String), ConnectError> {
    Directory::of_environment().token(auth, secrets).await
}

/// Where tokens come from.
#[derive(Clone, Debug)]
struct Directory {
    /// Of Entra ID: another one in a sovereign cloud.
    authority: String,
    /// The machine's metadata service.
    metadata: String,
    /// The ServiceAccount's token, which the directory trusts.
    token_file: PathBuf,
}

/// Who asks, and a digest of what proves it: after a rotation a token is asked for anew.
type Asker = (String, Vec<u8>);

#[derive(Clone)]
struct Token {
    text: String,
    expires: Instant,
}

type Slot = Arc<tokio::sync::Mutex<Option<Token>>>;
static TOKENS: LazyLock<Mutex<HashMap<Asker, Slot>>> = LazyLock::new(Mutex::default);

/// What the directory or the metadata service answers.
#[derive(Deserialize)]
struct Answer {
    access_token: Option<String>,
    /// Seconds: a number from the directory, a text from the metadata service.
    expires_in: Option<serde_json::Value>,
    error: Option<String>,
    #[serde(default)]
    error_codes: Vec<u32>,
}

impl Directory {
    /// By the variables of Azure's own libraries, which its webhook for workload identities sets as well.
    fn of_environment() -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let own_token = || Path::new(IDENTITY_DIR).join(IDENTITY_FILE);
        Self {
            authority: variable("AZURE_AUTHORITY_HOST").unwrap_or_else(|| "https://login.microsoftonline.com".to_owned()),
            metadata: variable("AZURE_POD_IDENTITY_AUTHORITY_HOST").unwrap_or_else(|| "http://169.254.169.254".to_owned()),
            token_file: variable("AZURE_FEDERATED_TOKEN_FILE").map_or_else(own_token, PathBuf::from),
        }
    }

    /// What a token is for: Azure SQL, in the cloud of the directory.
    fn resource(&self) -> &'static str {
        if self.authority.contains("chinacloudapi.cn") {
            "https://database.chinacloudapi.cn/"
        } else if self.authority.contains("microsoftonline.us") {
            "https://database.usgovcloudapi.net/"
        } else {
            "https://database.windows.net/"
        }
    }

    async fn token(&self, auth: &SqlServerAuth, secrets: &Secrets) -> Result<(String, String), ConnectError> {
        if let Some(principal) = &auth.service_principal {
            let key = &principal.client_secret.secret_key_ref;
            let secret = secrets.read(&key.name, &key.key).await?;
            let who = format!("application {}", principal.client_id);
            let asker = (format!("{} {} {who}", self.authority, principal.tenant_id), Sha256::digest(secret.expose()).to_vec());
            let proof = [("client_secret", secret.expose())];
            let ask = || self.credentials(&principal.tenant_id, &principal.client_id, &proof);
            return Ok((cached(asker, &who, ask).await?, who));
        }
        if let Some(identity) = &auth.workload_identity {
            let who = format!("workload identity {}", identity.client_id);
            let asker = (format!("{} {} {who}", self.authority, identity.tenant_id), Vec::new());
            let ask = async || {
                // Read for each token: the kubelet renews it.
                let read = tokio::fs::read_to_string(&self.token_file).await;
                let assertion = read.map_err(|error| {
                    let file = self.token_file.display();
                    ConnectError::AuthenticationFailed(format!("{who}: the ServiceAccount's token cannot be read from {file}: {error}"))
                })?;
                let kind = ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
                let proof = [kind, ("client_assertion", assertion.trim())];
                self.credentials(&identity.tenant_id, &identity.client_id, &proof).await
            };
            return Ok((cached(asker, &who, ask).await?, who.clone()));
        }
        if let Some(identity) = &auth.managed_identity {
            let who =
                identity.client_id.as_ref().map_or_else(|| "the machine's identity".to_owned(), |id| format!("managed identity {id}"));
            let asker = (format!("{} {} {who}", self.metadata, self.resource()), Vec::new());
            let ask = || self.managed(identity.client_id.as_deref());
            return Ok((cached(asker, &who, ask).await?, who));
        }
        Err(ConnectError::Other("no way to log in is given".to_owned()))
    }

    /// Asks the directory.
    async fn credentials(&self, tenant: &str, client: &str, proof: &[(&str, &str)]) -> Result<Token, ConnectError> {
        let place = self.authority.trim_end_matches('/');
        let scope = format!("{}.default", self.resource());
        let body = form_urlencoded::Serializer::new(String::new())
            .extend_pairs([("grant_type", "client_credentials"), ("client_id", client), ("scope", &scope)])
            .extend_pairs(proof)
            .finish();
        let request = http(Client::builder())?
            .post(format!("{place}/{tenant}/oauth2/v2.0/token"))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(body);
        ask(request, &format!("Entra ID at {place}, directory {tenant}, application {client}")).await
    }

    /// Asks the machine's metadata service, which is never behind a proxy.
    async fn managed(&self, client: Option<&str>) -> Result<Token, ConnectError> {
        let url = format!("{}/metadata/identity/oauth2/token", self.metadata.trim_end_matches('/'));
        let mut query = vec![("api-version", "2018-02-01"), ("resource", self.resource())];
        query.extend(client.map(|id| ("client_id", id)));
        let request = http(Client::builder().no_proxy())?.get(url).query(&query).header("Metadata", "true");
        ask(request, &format!("the metadata service at {}", self.metadata)).await
    }
}

fn http(builder: reqwest::ClientBuilder) -> Result<Client, ConnectError> {
    let client = builder.timeout(TIMEOUT).redirect(reqwest::redirect::Policy::none()).build();
    client.map_err(|error| ConnectError::Other(format!("no HTTP client: {}", chain(&error))))
}

async fn ask(request: RequestBuilder, whom: &str) -> Result<Token, ConnectError> {
    let unreachable = |error: reqwest::Error| ConnectError::Unreachable(format!("{whom}: {}", chain(&error.without_url())));
    let asked = Instant::now();
    let response = request.send().await.map_err(unreachable)?;
    let status = response.status();
    let body = response.bytes().await.map_err(unreachable)?;
    let answer: Option<Answer> = serde_json::from_slice(&body).ok();
    if status.is_server_error() || matches!(status.as_u16(), 404 | 410 | 429) {
        return Err(ConnectError::Unreachable(format!("{whom} answers {status}")));
    }
    let Some(answer) = answer else { return Err(ConnectError::AuthenticationFailed(format!("{whom} answers {status}, and no JSON"))) };
    let seconds = answer.expires_in.as_ref().and_then(|value| value.as_u64().or_else(|| value.as_str()?.parse().ok()));
    match (answer.access_token, seconds) {
        (Some(text), Some(seconds)) if status.is_success() => Ok(Token { text, expires: asked + Duration::from_secs(seconds) }),
        _ => Err(ConnectError::AuthenticationFailed(format!(
            "{whom} refuses a token: {}{}",
            answer.error.as_deref().unwrap_or_else(|| status.as_str()),
            explained(&answer.error_codes)
        ))),
    }
}

/// The directory's codes, and what cures those that are often met
/// (<https://learn.microsoft.com/entra/identity-platform/reference-error-codes>).
fn explained(codes: &[u32]) -> String {
    let cure = |code: &u32| match code {
        7_000_215 => ": the client secret is wrong: put its value, not its id, into the Secret",
        7_000_222 => ": the client secret has expired: make another one and put it into the Secret",
        700_016 => ": the directory has no such application: correct clientId or tenantId",
        90_002 | 900_023 => ": there is no such directory: correct tenantId",
        70_021 | 700_211 | 700_212 | 700_213 => {
            ": no federated credential of the identity fits: it needs the cluster's issuer, the subject \
             system:serviceaccount:<namespace>:link-worker and the audience api://AzureADTokenExchange"
        }
        700_024 => ": the ServiceAccount's token has expired: compare the clocks of cluster and directory",
        _ => "",
    };
    codes.iter().fold(String::new(), |text, code| text + ", AADSTS" + &code.to_string() + cure(code))
}

/// The token that was kept, or a new one.
async fn cached<F>(asker: Asker, who: &str, ask: impl FnOnce() -> F) -> Result<String, ConnectError>
where
    F: Future<Output = Result<Token, ConnectError>>,
{
    let slot = TOKENS.lock().unwrap_or_else(PoisonError::into_inner).entry(asker).or_default().clone();
    // Whoever comes second waits for the first one's.
    let mut kept = slot.lock().await;
    let now = Instant::now();
    if let Some(token) = kept.as_ref().filter(|token| token.expires > now + MARGIN) {
        return Ok(token.text.clone());
    }
    match ask().await {
        Ok(token) => Ok(kept.insert(token).text.clone()),
        // The old one will do for some minutes yet.
        Err(error @ ConnectError::Unreachable(_)) => match kept.as_ref().filter(|token| token.expires > now) {
            Some(token) => {
                tracing::warn!(identity = who, error = %error, "an access token could not be renewed");
                Ok(token.text.clone())
            }
            None => Err(error),
        },
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
