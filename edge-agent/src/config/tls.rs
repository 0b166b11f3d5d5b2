//! Section `[tls]`, and what else decides how the connection is protected.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::raw::Raw;
use crate::uplink::secret::{Password, Secret};
use crate::uplink::tls;

/// What can be set there.
pub(super) const KEYS: &[&str] = &["ca", "cert", "key", "server_name", "alpn"];
/// Of these the value is taken as it stands from the environment and from flags.
pub(super) const TEXTS: &[&str] = &["tls.ca", "tls.cert", "tls.key", "tls.server_name"];

/// Section `[tls]` as it is typed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    pub ca: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub server_name: Option<String>,
    pub alpn: Vec<String>,
}

/// What a server's address says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub host: String,
    pub port: u16,
    pub tls: bool,
}

/// Reads `mqtt://host:port` or `mqtts://host:port`.
pub(super) fn address(text: &str) -> Result<Address, ConfigError> {
    let error = |message: &str| Err(ConfigError::value("server", message));
    let (tls, rest) = match text.split_once("://") {
        Some(("mqtt" | "tcp", rest)) => (false, rest),
        Some(("mqtts" | "ssl" | "tls", rest)) => (true, rest),
        Some((scheme, _)) => {
            return error(&format!(
                "unknown scheme {scheme:?}; use mqtts:// (TLS) or mqtt://"
            ));
        }
        None => (false, text),
    };
    let rest = rest.trim_end_matches('/');
    if rest.is_empty() || rest.contains(['/', '@', ' ']) {
        return error(
            "must look like mqtts://host:8883 or mqtt://host:1883 (user and password are keys of their own)",
        );
    }
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => match port.parse() {
            Ok(port) if port != 0 => (host, port),
            _ => return error(&format!("{port:?} is not a port")),
        },
        _ => (rest, if tls { 8883 } else { 1883 }),
    };
    let host = host.to_owned();
    Ok(Address { host, port, tls })
}

/// The settings of TLS, if the server's address asks for it.
pub(super) fn settings(raw: &Tls, address: &Address) -> Result<Option<tls::Settings>, ConfigError> {
    if !address.tls {
        // A certificate in the configuration and a connection in the clear: somebody is mistaken.
        if *raw != Tls::default() {
            return Err(ConfigError::value(
                "tls",
                "is set, but server begins with mqtt://, which has no TLS; write mqtts://, or leave [tls] out",
            ));
        }
        return Ok(None);
    }
    let identity = match (&raw.cert, &raw.key) {
        (Some(cert), Some(key)) => Some(tls::Identity {
            cert: cert.clone(),
            key: key.clone(),
        }),
        (None, None) => None,
        (Some(_), None) => return Err(ConfigError::value("tls.key", "set it beside tls.cert")),
        (None, Some(_)) => return Err(ConfigError::value("tls.cert", "set it beside tls.key")),
    };
    // One byte of length each.
    if let Some(name) = raw.alpn.iter().find(|n| n.is_empty() || n.len() > 255) {
        let message = format!("{name:?} must have 1 to 255 bytes");
        return Err(ConfigError::value("tls.alpn", message));
    }
    let settings = tls::Settings {
        ca: raw.ca.clone(),
        identity,
        server_name: raw.server_name.clone(),
        alpn: raw.alpn.clone(),
    };
    let key = match settings.server_name {
        Some(_) => "tls.server_name",
        None => "server",
    };
    settings
        .name(&address.host)
        .map_err(|e| ConfigError::value(key, e))?;
    Ok(Some(settings))
}

/// Where the password is.
pub(super) fn password(raw: &Raw) -> Result<Password, ConfigError> {
    match (&raw.password, &raw.password_file) {
        (None, None) => Ok(Password::None),
        (Some(text), None) => Ok(Password::Text(Secret::new(text.as_str()))),
        (None, Some(path)) => Ok(Password::File(path.clone())),
        (Some(_), Some(_)) => Err(ConfigError::value(
            "password_file",
            "password is set, too; leave one of them out",
        )),
    }
}
