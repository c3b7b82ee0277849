//! The authorities that this system trusts, for a connection whose configuration names none.
//!
//! The released binary has an OpenSSL of its own, which knows no system's places; so they are looked for, at each connection:
//! Debian's, Fedora's and Alpine's bundles and whatever `SSL_CERT_FILE` and `SSL_CERT_DIR` name. ClickHouse's client looks in
//! the same way.

use std::path::PathBuf;

use openssl::error::ErrorStack;
use openssl::ssl::SslContextBuilder;
use openssl_probe::{ProbeResult, probe};
use ureq::tls::{RootCerts, TlsConfig, TlsProvider};

/// Makes a client trust the system's authorities.
///
/// # Errors
/// OpenSSL's, if a file holds no certificates.
pub fn trust_system(client: &mut SslContextBuilder) -> Result<(), ErrorStack> {
    let ProbeResult { cert_file, cert_dir } = probe();
    if let Some(file) = cert_file {
        client.load_verify_locations(Some(&file), None)?;
    }
    cert_dir.iter().try_for_each(|folder| client.load_verify_locations(None, Some(folder)))
}

/// The one place for a client that takes no more: the bundle, or else the folder.
#[must_use]
pub fn location() -> Option<PathBuf> {
    let ProbeResult { cert_file, cert_dir } = probe();
    cert_file.or_else(|| cert_dir.into_iter().next())
}

/// The same for an HTTP client, whose TLS library looks in these places itself.
#[must_use]
pub fn system_tls() -> TlsConfig {
    TlsConfig::builder().provider(TlsProvider::NativeTls).root_certs(RootCerts::PlatformVerifier).build()
}
