//! Certificates by which programs on this machine know the API server, and until when they are good.

use std::sync::Arc;

use kube::client::ConfigExt as _;
use manx_facts::host::Certificate;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::shell::events::chain;

/// Where pods have what signs the API server's certificate.
const SIGNER: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";
/// The port of HTTPS.
const HTTPS: u16 = 443;

/// Those that the API server shows, and those that sign them.
///
/// # Errors
/// Why the API server shows none, in words.
pub(super) async fn look() -> Result<Vec<Certificate>, String> {
    let mut found = signers();
    let config = kube::Config::infer().await.map_err(|error| chain(&error))?;
    let host = config.cluster_url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = config.cluster_url.port_u16().unwrap_or(HTTPS);
    let tls = config.rustls_client_config().map_err(|error| chain(&error))?;
    let name = config.tls_server_name.clone().unwrap_or_else(|| host.clone());
    let name = ServerName::try_from(name).map_err(|error| chain(&error))?;
    let stream = TcpStream::connect((host.as_str(), port)).await.map_err(|error| chain(&error))?;
    let stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await;
    let stream = stream.map_err(|error| chain(&error))?;
    let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
    found.extend(shown.iter().filter_map(|shown| of("the API server", shown)));
    Ok(found)
}

fn signers() -> Vec<Certificate> {
    let Ok(text) = std::fs::read(SIGNER) else { return Vec::new() };
    let signers = CertificateDer::pem_slice_iter(&text).flatten();
    signers.filter_map(|signer| of("who signs the API server's certificate", &signer)).collect()
}

fn of(whose: &str, der: &CertificateDer<'_>) -> Option<Certificate> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let until = certificate.validity().not_after.timestamp();
    Some(Certificate { of: format!("{whose} ({})", certificate.subject()), until })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `openssl req -x509 -newkey ec:… -subj /CN=apiserver -days 3650`
    const PEM: &str = "-----BEGIN CERTIFICATE-----
MIIBfjCCASOgAwIBAgIUWdsqmOZhidaB4wOAwkCk4gw2WuEwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJYXBpc2VydmVyMB4XDTI2MTEyMjE3NDYyOVoXDTM2MTExOTE3
NDYyOVowFDESMBAGA1UEAwwJYXBpc2VydmVyMFkwEwYHKoZIzj0CAQYIKoZIzj0D
AQcDQgAEYoUs+0DvsPOwCSuHMUI3KOtyrYXXQNB5CLsi2c/1J1AYKRO+2SZzi099
NK66JN2zrXvsy3fMz3ZW8xLp22HlraNTMFEwHQYDVR0OBBYEFM16cY4yN/uneT+e
eCAUONv3YDmiMB8GA1UdIwQYMBaAFM16cY4yN/uneT+eeCAUONv3YDmiMA8GA1Ud
EwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDSQAwRgIhAMq9Gg0vqSHM17OGW7FeCF2r
Z2FkocD1t9Do6XKNnywiAiEArYszqKPp+Y1djAP6n1H8ydEnu80V2v4im7/IjQLx
bOk=
-----END CERTIFICATE-----
";

    #[test]
    fn a_certificate_tells_whose_it_is_and_until_when() {
        let der = CertificateDer::from_pem_slice(PEM.as_bytes()).expect("a certificate");
        let expected = Certificate { of: "the API server (CN=apiserver)".to_owned(), until: 2_110_729_589 };
        assert_eq!(of("the API server", &der), Some(expected));
    }
}
