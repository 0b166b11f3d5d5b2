//! TLS towards the server: which certificates to trust, and who we are.
//!
//! Files are read at each connection, so that a renewed certificate is taken without a restart. Every
//! error says which file or host it is about and what to do.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, Error, InconsistentKeys, RootCertStore,
};

use super::file::{self, FileError};

/// Section `[tls]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Certificates that may sign the server's; the system's if not set.
    pub ca: Option<PathBuf>,
    /// Our certificate and its key, if the server asks for one.
    pub identity: Option<Identity>,
    /// The name in the server's certificate, if it is not the host that is connected to.
    pub server_name: Option<String>,
    /// Protocols offered by ALPN; some servers tell MQTT from HTTP on one port by it.
    pub alpn: Vec<String>,
}

/// A client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate, then those between it and the CA.
    pub cert: PathBuf,
    /// Its private key: PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
}

/// Why no TLS connection can be tried.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file of the configuration cannot be used.
    #[error("tls.{0}")]
    File(#[from] FileError),
    /// There is no trust store where systems have one.
    #[error(
        "this system has no file of trusted certificates ({}); \
         install its package ca-certificates, or set tls.ca to the server's CA",
        SYSTEM_STORES.join(", ")
    )]
    NoSystemStore,
    /// A host that no certificate can be for.
    #[error("{0:?} is no name that a certificate can have; set tls.server_name to the one it has")]
    Name(String),
    /// The library refuses the configuration.
    #[error("TLS cannot be used")]
    Config(#[source] Error),
}

/// Where systems keep the certificates that they trust, as one PEM file: Debian, Raspberry Pi OS, Arch,
/// Alpine; Fedora, RHEL; openSUSE; OpenWrt, Yocto, the BSDs.
const SYSTEM_STORES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Most bytes of a file of certificates: ten times the store of a system.
const STORE_BYTES_MAX: u64 = 4 << 20;
/// Most bytes of a key: many times the largest in use.
const KEY_BYTES_MAX: u64 = 256 << 10;

impl Settings {
    /// Reads the files, and makes of them what a connection needs.
    ///
    /// **Errors**: a file is missing, holds nothing usable, or does not fit the other.
    pub fn load(&self) -> Result<Arc<ClientConfig>, TlsError> {
        // One provider, given here: no state of the process decides which cryptography is used.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Config)?
            .with_root_certificates(self.roots()?);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let chain = certificates("cert", &identity.cert)?;
                let key = private_key(&identity.key)?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|e| identity.unusable(&e))?
            }
        };
        config.alpn_protocols = self.alpn.iter().map(|p| p.clone().into_bytes()).collect();
        Ok(Arc::new(config))
    }

    /// The name that the certificate of `host` must have.
    ///
    /// **Errors**: it is neither a DNS name nor an address.
    pub fn name(&self, host: &str) -> Result<ServerName<'static>, TlsError> {
        let name = self.server_name.as_deref().unwrap_or(bare(host));
        ServerName::try_from(name.to_owned()).map_err(|_| TlsError::Name(name.to_owned()))
    }

    fn roots(&self) -> Result<RootCertStore, TlsError> {
        let path = match &self.ca {
            Some(path) => path.as_path(),
            None => SYSTEM_STORES
                .map(Path::new)
                .into_iter()
                .find(|p| p.is_file())
                .ok_or(TlsError::NoSystemStore)?,
        };
        let mut roots = RootCertStore::empty();
        let (usable, _) = roots.add_parsable_certificates(certificates("ca", path)?);
        if usable == 0 {
            let message = "holds no certificate that can be read as a CA; is it damaged?";
            return Err(FileError::new("ca", path, message).into());
        }
        Ok(roots)
    }

    /// What a failed handshake means, and what to do about it.
    pub(super) fn explain(&self, error: &Error, host: &str) -> String {
        let name = self.server_name.as_deref().unwrap_or(bare(host));
        let trusted = match &self.ca {
            Some(path) => format!("the CA in tls.ca = \"{}\"", path.display()),
            None => "a CA that this system trusts".to_owned(),
        };
        match error {
            Error::InvalidCertificate(error) => explain_certificate(error, name, &trusted),
            Error::AlertReceived(alert) => self.explain_alert(*alert),
            Error::InvalidMessage(_) => format!(
                "what {host} sends is no TLS; is this the port for TLS (8883), or is it mqtt://?"
            ),
            Error::PeerIncompatible(why) => {
                format!("{host} knows no TLS version or cipher of ours (TLS 1.2 or 1.3): {why:?}")
            }
            Error::NoApplicationProtocol => self.no_protocol(),
            other => format!("TLS with {host} failed: {other}"),
        }
    }

    fn explain_alert(&self, alert: AlertDescription) -> String {
        let ours = match &self.identity {
            None => "none is sent: set tls.cert and tls.key".to_owned(),
            Some(i) => format!("that of tls.cert = \"{}\" is sent", i.cert.display()),
        };
        match alert {
            AlertDescription::CertificateRequired | AlertDescription::NoCertificate => {
                format!("the server wants a client certificate, and {ours}")
            }
            AlertDescription::CertificateExpired => {
                format!(
                    "the server says that our client certificate has expired ({ours}); renew it"
                )
            }
            AlertDescription::CertificateRevoked => {
                format!("the server says that our client certificate is revoked ({ours})")
            }
            AlertDescription::UnknownCA => format!(
                "the server does not know the CA of our client certificate ({ours}); \
                 have it signed by the one that the server trusts"
            ),
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::AccessDenied => {
                format!("the server refuses our client certificate ({alert:?}; {ours})")
            }
            // OpenSSL answers so with TLS 1.2 when no certificate comes.
            AlertDescription::HandshakeFailure if self.identity.is_none() => format!(
                "the server refuses the TLS handshake; if it wants a client certificate: {ours}"
            ),
            AlertDescription::NoApplicationProtocol => self.no_protocol(),
            AlertDescription::UnrecognisedName => format!(
                "the server serves no such name; set tls.server_name{}",
                self.server_name
                    .as_ref()
                    .map(|n| format!(" to another than {n:?}"))
                    .unwrap_or_default()
            ),
            other => format!("the server ends the TLS handshake: {other:?}"),
        }
    }

    fn no_protocol(&self) -> String {
        format!(
            "the server speaks none of the protocols in tls.alpn ({}); ask its operator, or leave alpn out",
            self.alpn.join(", ")
        )
    }
}

impl Identity {
    fn unusable(&self, error: &Error) -> TlsError {
        let message = match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => format!(
                "is not the key of tls.cert = \"{}\"; they must be made together",
                self.cert.display()
            ),
            // The library's text says what of the key it cannot use, not what is in it.
            other => format!("cannot be used: {other}"),
        };
        FileError::new("key", &self.key, message).into()
    }
}

fn explain_certificate(error: &CertificateError, name: &str, trusted: &str) -> String {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            let until = match error {
                CertificateError::ExpiredContext { not_after, .. } => {
                    format!(" on {}", day(not_after.as_secs()))
                }
                _ => String::new(),
            };
            format!(
                "the certificate of {name} has expired{until}; renew it on the server \
                 (if this machine's clock is right: it says {})",
                today()
            )
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            let from = match error {
                CertificateError::NotValidYetContext { not_before, .. } => {
                    format!(" before {}", day(not_before.as_secs()))
                }
                _ => String::new(),
            };
            format!(
                "the certificate of {name} is not valid{from}, and this machine's clock says {}; \
                 set the clock",
                today()
            )
        }
        CertificateError::NotValidForName => format!(
            "the server's certificate is not for {name}; \
             connect by the name in it, or set tls.server_name to that"
        ),
        CertificateError::NotValidForNameContext { presented, .. } => {
            // Written by the peer: shown short.
            let shown: Vec<String> = presented.iter().take(4).map(|n| shorten(n)).collect();
            let names = if shown.is_empty() {
                "no name at all (a subjectAltName is needed)".to_owned()
            } else {
                shown.join(", ")
            };
            format!(
                "the server's certificate is not for {name}, but for {names}; \
                 connect by the name in it, or set tls.server_name to that"
            )
        }
        CertificateError::UnknownIssuer => format!(
            "the certificate of {name} is not signed by {trusted}; \
             set tls.ca to the CA that signed it (somebody between us may also answer in its place)"
        ),
        CertificateError::Revoked => format!("the certificate of {name} is revoked"),
        CertificateError::BadSignature => {
            format!(
                "the certificate of {name} is not signed by {trusted}, though by one of the same name; \
                 if that CA was made anew, set tls.ca to the new one (else it is forged)"
            )
        }
        other => {
            let text = format!("{other:?}");
            let remedy = if text.contains("CaUsedAsEndEntity") {
                "it is a CA itself; give the server a certificate signed by that CA"
            } else if text.contains("UnsupportedCertVersion") {
                "it is an X.509 v1 certificate; make one of version 3 with a subjectAltName"
            } else {
                "make another"
            };
            format!("the certificate of {name} cannot be used: {other}; {remedy}")
        }
    }
}

/// The host without the brackets of an IPv6 address.
pub(super) fn bare(host: &str) -> &str {
    host.strip_prefix('[')
        .and_then(|h| h.strip_suffix(']'))
        .unwrap_or(host)
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

fn today() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    day(now.unwrap_or_default().as_secs())
}

fn day(secs: u64) -> String {
    i64::try_from(secs)
        .ok()
        .and_then(|s| chrono::DateTime::from_timestamp(s, 0))
        .map_or_else(
            || format!("second {secs}"),
            |t| t.format("%Y-%m-%d").to_string(),
        )
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = file::read(key, path, STORE_BYTES_MAX)?;
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|e| {
        let message = format!("is no PEM file that can be read: {e}");
        FileError::new(key, path, message)
    })?;
    if found.is_empty() {
        let message = "holds no certificate; it must be a PEM file (-----BEGIN CERTIFICATE-----)";
        return Err(FileError::new(key, path, message).into());
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = file::read("key", path, KEY_BYTES_MAX)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| {
        // The library's text may quote what is in the file.
        let encrypted = bytes.windows(9).any(|w| w == b"ENCRYPTED");
        let message = if encrypted {
            "is encrypted, and nobody is there to type its password; \
             write it without (openssl pkey -in … -out …), readable by this user only"
        } else {
            "holds no private key; it must be a PEM file (-----BEGIN PRIVATE KEY-----)"
        };
        FileError::new("key", path, message).into()
    })
}
