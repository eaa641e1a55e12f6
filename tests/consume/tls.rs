//! TLS: whoever has a certificate of the authority that is named is read from, and nobody else.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use streamll::ErrorClass;
use streamll::consume::Consumer;

use crate::servers::{RedisServer, free_port};
use crate::{Running, STREAM, Seen, add_numbers, run, wait_for};

#[test]
fn a_consumer_reads_over_tls_from_whom_it_is_told_to_trust_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let mut about = CertificateParams::new(Vec::new()).unwrap();
    about.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let [ca, other] =
        [(); 2].map(|()| CertifiedIssuer::self_signed(about.clone(), KeyPair::generate().unwrap()).unwrap());
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
    for (name, pem) in [
        ("ca.pem", ca.pem()),
        ("other.pem", other.pem()),
        ("own.pem", own.pem()),
        ("key.pem", key.serialize_pem()),
    ] {
        std::fs::write(path(name), pem).unwrap();
    }
    let port = free_port();
    let server = RedisServer::start_with(&[
        "--tls-port",
        &port.to_string(),
        "--tls-auth-clients",
        "no",
        "--tls-cert-file",
        &path("own.pem"),
        "--tls-key-file",
        &path("key.pem"),
        "--tls-ca-cert-file",
        &path("ca.pem"),
    ]);
    add_numbers(&server, 0..2000);
    run(async {
        let consumer = |ca: &str| {
            Consumer::connect(format!("rediss://localhost:{port}"), STREAM).group("g").ca_file(path(ca))
        };
        let seen = Seen::default();
        let running = Running::start(consumer("ca.pem").on("token", seen.handler()));
        wait_for("all", || seen.len() == 2000).await;
        running.stop().await;
        let wary = Running::start(consumer("other.pem").on("token", |_| ()));
        wary.until("it says so", |status| status.class == Some(ErrorClass::Misconfigured)).await;
        assert_eq!(wary.stop().await.connections, 0);
    });
}
