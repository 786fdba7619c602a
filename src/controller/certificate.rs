//! The certificate and token of a link's worker API: made by the controller, kept in the link's Secret, mounted into its
//! workers. Nobody else signs or trusts them, so each pair brings an authority of its own whose key is thrown away.

use aws_lc_rs::rand;
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};

use crate::api::plan::API_SERVER_NAME;

/// How long a certificate is valid.
const VALID: SignedDuration = SignedDuration::from_hours(90 * 24);
/// Age at which it is replaced.
const RENEW: SignedDuration = SignedDuration::from_hours(60 * 24);

/// What the API's Secret holds. Has no `Debug`: key and token never reach a log.
pub struct Credentials {
    /// What the controller needs of it.
    pub trust: Trust,
    /// The workers' certificate, PEM.
    pub certificate: String,
    /// Its private key, PEM.
    pub key: String,
}

/// By what the controller knows workers, and they know it. Has no `Debug` either.
#[derive(Clone, PartialEq, Eq)]
pub struct Trust {
    /// Authorities to trust, PEM: the newest first, then the one before it, so that both sides may change at different
    /// times.
    pub authorities: String,
    /// The bearer token.
    pub token: String,
    /// When to replace the certificate.
    pub renew_at: Timestamp,
}

/// Why no certificate could be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The library refused.
    #[error("the worker API's certificate cannot be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// No randomness or no calendar.
    #[error("the worker API's token cannot be made")]
    Token,
}

impl Credentials {
    /// Makes new ones that are valid from now; `before` keeps its token and stays trusted.
    pub fn issue(now: Timestamp, before: Option<&Trust>) -> Result<Self, Error> {
        let (authority, certificate, key) = certificate(now)?;
        let authorities = match before {
            Some(before) => format!("{authority}{}", first_certificate(&before.authorities)),
            None => authority,
        };
        let token = match before {
            Some(before) => before.token.clone(),
            None => token()?,
        };
        Ok(Self { trust: Trust { authorities, token, renew_at: now + RENEW }, certificate, key })
    }
}

impl Trust {
    /// Whether the certificate should be replaced.
    pub fn is_due(&self, now: Timestamp) -> bool {
        now >= self.renew_at
    }
}

fn certificate(now: Timestamp) -> Result<(String, String, String), Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = common_name("link-operator worker API authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    valid(&mut params, now);
    let authority_key = KeyPair::generate()?;
    let authority = params.self_signed(&authority_key)?;
    let issuer = Issuer::new(params, authority_key);

    let mut params = CertificateParams::new(vec![API_SERVER_NAME.to_owned()])?;
    params.distinguished_name = common_name(API_SERVER_NAME);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    valid(&mut params, now);
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    Ok((authority.pem(), certificate.pem(), key.serialize_pem()))
}

fn valid(params: &mut CertificateParams, now: Timestamp) {
    // Clocks of nodes differ: valid since yesterday.
    let [from, until] = [now - SignedDuration::from_hours(24), now + VALID].map(|time| {
        let date = time.to_zoned(TimeZone::UTC).date();
        date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs())
    });
    (params.not_before, params.not_after) = (from, until);
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn first_certificate(bundle: &str) -> &str {
    const END: &str = "-----END CERTIFICATE-----";
    bundle.find(END).map_or("", |at| &bundle[..at + END.len()])
}

fn token() -> Result<String, Error> {
    let mut bytes = [0_u8; 32];
    rand::fill(&mut bytes).map_err(|_| Error::Token)?;
    Ok(hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_keeps_the_token_and_one_older_authority() {
        let now = Timestamp::now();
        let first = Credentials::issue(now, None).unwrap();
        assert!(!first.trust.is_due(now + SignedDuration::from_hours(59 * 24)));
        assert!(first.trust.is_due(now + SignedDuration::from_hours(60 * 24)));

        let second = Credentials::issue(now, Some(&first.trust)).unwrap();
        assert_eq!(second.trust.token, first.trust.token);
        assert!(second.certificate != first.certificate);
        assert!(second.trust.authorities.contains(first_certificate(&first.trust.authorities)));

        let third = Credentials::issue(now, Some(&second.trust)).unwrap();
        assert_eq!(third.trust.authorities.matches("BEGIN CERTIFICATE").count(), 2);
        assert!(third.trust.authorities.starts_with("-----BEGIN CERTIFICATE-----"));
        assert!(!third.trust.authorities.contains(first_certificate(&first.trust.authorities)));
    }
}
