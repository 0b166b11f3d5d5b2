//! Which certificates receivers may have.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use crate::target::TargetError;

/// Most bytes of a file of CAs.
const CA_BYTES_MAX: u64 = 4 << 20;

/// TLS 1.2 and 1.3 with the CAs of the file alone, or with those of the web: the system's store may be absent in
/// a container, and a page must go out of one.
pub(crate) fn config(ca_file: Option<&Path>) -> Result<ClientConfig, TargetError> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(path) => {
            let pem = read(path)?;
            let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
            let (usable, _) = roots.add_parsable_certificates(found.unwrap_or_default());
            if usable == 0 {
                let message = format!("{} holds no certificate in PEM", path.display());
                return Err(wrong(message));
            }
        }
    }
    // One provider, given here: no state of the process decides which cryptography is used.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(format!("TLS cannot be used: {error}")))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn read(path: &Path) -> Result<Vec<u8>, TargetError> {
    let failed = |error| wrong(format!("failed to read {}: {error}", path.display()));
    let bytes = std::fs::metadata(path).map_err(failed)?.len();
    if bytes > CA_BYTES_MAX {
        let message = format!(
            "{} has {bytes} bytes, more than {CA_BYTES_MAX}",
            path.display()
        );
        return Err(wrong(message));
    }
    std::fs::read(path).map_err(failed)
}

fn wrong(message: String) -> TargetError {
    TargetError {
        field: "ca_file",
        message,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_file_without_certificates_is_named() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "nothing").unwrap();
        let error = config(Some(file.path())).unwrap_err().to_string();
        assert!(
            error.starts_with("ca_file: ") && error.contains("no certificate"),
            "{error}"
        );
        let error = config(Some(Path::new("/no/such.pem")))
            .unwrap_err()
            .to_string();
        assert!(error.contains("/no/such.pem"), "{error}");
        assert!(config(None).is_ok());
    }
}
