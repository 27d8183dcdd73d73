use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use ureq::Agent;

use super::*;
use crate::hub::environment::HubEnv;

/// A server of one answer, and its certificate, which only itself vouches for.
pub(crate) fn server() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    let config = Arc::new(config);
    thread::spawn(move || {
        for socket in listener.incoming() {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(connection, socket.unwrap());
            // Who does not trust the certificate hangs up.
            if stream.read(&mut [0; 4096]).is_ok() {
                stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").ok();
            }
        }
    });
    (address, certificate.pem())
}

fn variables<'a>(set: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<OsString> + 'a {
    |name| set.iter().find(|(own, _)| *own == name).map(|(_, value)| value.into())
}

#[test]
fn a_server_is_trusted_by_the_file_that_a_variable_names_and_by_no_other() {
    let (address, certificate) = server();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("own.pem").display().to_string();
    let other = folder.path().join("other.pem").display().to_string();
    std::fs::write(&path, format!("# ours\n{certificate}")).unwrap();
    std::fs::write(&other, server().1).unwrap();
    let ask = |set: &[(&str, &str)]| {
        let config = trust(&CLIENT_VARIABLES, &variables(set)).unwrap();
        let agent: Agent = Agent::config_builder().tls_config(config).proxy(None).build().into();
        agent.get(&address).call().map(|answer| answer.status().as_u16()).map_err(|error| error.to_string())
    };
    let refusal = ask(&[]).unwrap_err();
    assert!(refusal.contains("certificate"), "{refusal}");
    assert_eq!(ask(&[("SSL_CERT_FILE", &path)]), Ok(204));
    assert_eq!(ask(&[("REQUESTS_CA_BUNDLE", &path), ("SSL_CERT_FILE", &other)]), Ok(204));
    assert!(ask(&[("REQUESTS_CA_BUNDLE", &other), ("SSL_CERT_FILE", &path)]).is_err());
}

#[test]
fn a_file_without_certificates_is_named_with_its_variable() {
    let folder = tempfile::tempdir().unwrap();
    let told = |content: &str| {
        let path = folder.path().join("ca.pem");
        std::fs::write(&path, content).unwrap();
        let error = trust(&["SSL_CERT_FILE"], &variables(&[("SSL_CERT_FILE", path.to_str().unwrap())])).unwrap_err();
        error.to_string().replace(&folder.path().display().to_string(), "f")
    };
    let way_out = "name a file of certificates (PEM), or unset SSL_CERT_FILE";
    assert_eq!(told("nothing"), format!("SSL_CERT_FILE is f/ca.pem: no certificate is in it; {way_out}"));
    assert!(told("-----BEGIN CERTIFICATE-----\n%%\n-----END CERTIFICATE-----\n").ends_with(way_out));
    let missing = trust(&["SSL_CERT_FILE"], &variables(&[("SSL_CERT_FILE", "nowhere.pem")])).unwrap_err().to_string();
    assert!(missing.contains("cannot read nowhere.pem"), "{missing}");
}

/// It answers that there is nothing, which no hub does: but it is heard.
#[test]
fn the_hub_is_trusted_by_that_file() {
    let (address, certificate) = server();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("own.pem").display().to_string();
    std::fs::write(&path, certificate).unwrap();
    let cache = folder.path().join("cache").display().to_string();
    let told = |bundle: &str| {
        let set = [("HF_ENDPOINT", address.as_str()), ("HF_HUB_CACHE", &cache), ("REQUESTS_CA_BUNDLE", bundle)];
        let environment = HubEnv::from_variables(&variables(&set));
        crate::hub::resolve("org/model", &environment, &mut |_| ()).unwrap_err().to_string()
    };
    assert!(told("").contains("certificate"), "{}", told(""));
    assert!(!told(&path).contains("certificate"), "{}", told(&path));
    assert!(told("nowhere.pem").starts_with("REQUESTS_CA_BUNDLE is nowhere.pem"), "{}", told("nowhere.pem"));
}
