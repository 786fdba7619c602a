//! TLS towards a database server, by the modes of [`TlsMode`]: whom a connection trusts.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};

use crate::api::database::TlsMode;

/// The TLS settings of a mode; none for `Disable`. `authorities`: PEM to trust instead of the system's. The error is a
/// sentence.
pub fn config(mode: TlsMode, authorities: Option<&str>) -> Result<Option<ClientConfig>, String> {
    // Named explicitly: a process-wide default may not be installed yet.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match mode {
        TlsMode::Disable => return Ok(None),
        TlsMode::Require => Arc::new(AnyCertificate(provider.clone())),
        TlsMode::VerifyCA | TlsMode::VerifyFull | TlsMode::Strict => {
            let given = given(authorities)?;
            let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots(given.as_deref())?), provider.clone())
                .build()
                .map_err(|error| error.to_string())?;
            Arc::new(Trusted { verifier, given: given.unwrap_or_default(), any_name: mode == TlsMode::VerifyCA })
        }
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(Some(config))
}

/// The certificates of the spec.
fn given(authorities: Option<&str>) -> Result<Option<Vec<CertificateDer<'static>>>, String> {
    let parsed = authorities.map(|pem| CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>()).transpose();
    parsed.map_err(|error| format!("the certificate authority is not valid PEM: {error}"))
}

/// Whom to trust: those given, else the system's.
fn roots(given: Option<&[CertificateDer<'static>]>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    match given {
        Some(given) => {
            for certificate in given {
                roots.add(certificate.clone()).map_err(|error| format!("the certificate authority cannot be used: {error}"))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err("there is no certificate authority to trust".to_owned());
    }
    Ok(roots)
}

/// `VerifyCA`, `VerifyFull`: a trusted chain, and for the latter the server's name.
#[derive(Debug)]
struct Trusted {
    verifier: Arc<WebPkiServerVerifier>,
    given: Vec<CertificateDer<'static>>,
    any_name: bool,
}

impl ServerCertVerifier for Trusted {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let mut verdict = self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        // A server that signed for itself: its certificate is an authority's, and it is the one given. All else was found good.
        if let Err(rustls::Error::InvalidCertificate(CertificateError::Other(error))) = &verdict
            && error.0.downcast_ref() == Some(&webpki::Error::CaUsedAsEndEntity)
            && self.given.contains(end_entity)
        {
            verdict = verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name).map(|()| ServerCertVerified::assertion());
        }
        // The name is compared last, after the chain was found good.
        match verdict {
            Err(rustls::Error::InvalidCertificate(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }))
                if self.any_name =>
            {
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

/// `Require`: encryption only.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
