//! TLS, with an authority of the tests' own: who is trusted, who is not, and that plain text is never tried instead.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use streamll::ErrorClass::Misconfigured;
use tempfile::TempDir;

use crate::servers::free_port;

use super::*;

/// An authority, and the files that it made.
pub(crate) struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Authority {
        let (folder, key) = (tempfile::tempdir().unwrap(), KeyPair::generate().unwrap());
        let mut about = CertificateParams::new(Vec::new()).unwrap();
        about.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        std::fs::write(folder.path().join("ca.pem"), about.self_signed(&key).unwrap().pem()).unwrap();
        Authority { folder, issuer: Issuer::new(about, key) }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A certificate for this host.
    pub(crate) fn certificate_for(&self, host: &str, expired: bool) -> Certificate {
        let key = KeyPair::generate().unwrap();
        let mut about = CertificateParams::new([host.to_owned()]).unwrap();
        // OpenSSL takes one that bears the name of its authority for signed by itself.
        about.distinguished_name.push(DnType::CommonName, host);
        if expired {
            (about.not_before, about.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(2001, 1, 1));
        }
        let certificate = about.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.file("server.pem"), certificate.pem()).unwrap();
        std::fs::write(self.file("server.key"), key.serialize_pem()).unwrap();
        Certificate(["server.pem", "server.key", "ca.pem"].map(|name| self.file(name).display().to_string()))
    }

    /// A server with a certificate for this host.
    fn server(&self, host: &str, expired: bool) -> Tls {
        let (certificate, port) = (self.certificate_for(host, expired), free_port());
        let port_args = ["--tls-port", &port.to_string()];
        Tls { server: RedisServer::start_with(&[&port_args[..], &certificate.args()].concat()), port }
    }
}

/// The files of a certificate, its key, and who signed it.
pub(crate) struct Certificate([String; 3]);

impl Certificate {
    /// What a server is told of them.
    pub(crate) fn args(&self) -> [&str; 8] {
        let [certificate, key, ca] = &self.0;
        [
            "--tls-cert-file",
            certificate,
            "--tls-key-file",
            key,
            "--tls-ca-cert-file",
            ca,
            "--tls-auth-clients",
            "no",
        ]
    }
}

struct Tls {
    server: RedisServer,
    port: u16,
}

impl Tls {
    fn sink(&self, host: &str, ca_file: &Path) -> RedisConfig {
        sinks::redis(format!("rediss://:{CANARY}@{host}:{}", self.port)).ca_file(ca_file)
    }
}

#[test]
fn a_server_with_a_certificate_of_a_trusted_authority_is_written_to() {
    let authority = Authority::new();
    let tls = authority.server("localhost", false);
    tls.server.cli(&["CONFIG", "SET", "requirepass", CANARY]);
    run(async {
        let mut sink = open(&tls.sink("localhost", &authority.file("ca.pem"))).await.unwrap();
        sink.deliver(&mut batch(0..1500)).await.unwrap();
        sink.deliver(&mut batch([1500])).await.unwrap();
    });
    assert_eq!(tls.server.cli(&["-a", CANARY, "--no-auth-warning", "XLEN", "ai_events"]), "1501");
}

#[test]
fn a_server_that_cannot_be_trusted_is_for_a_person_to_mend() {
    let (authority, other) = (Authority::new(), Authority::new());
    let ca = authority.file("ca.pem");
    run(async {
        let expired = authority.server("localhost", true);
        let refused = open(&expired.sink("localhost", &ca)).await.unwrap_err();
        assert_told(told(refused), Misconfigured, "its certificate has expired");
        let tls = authority.server("localhost", false);
        let system = sinks::redis(format!("rediss://localhost:{}", tls.port));
        for (config, words) in [
            (tls.sink("localhost", &other.file("ca.pem")), "not signed by a trusted authority"),
            (system, "not signed by a trusted authority"),
            (tls.sink("127.0.0.1", &ca), "its certificate is for another host"),
            (tls.sink("localhost", &authority.file("none.pem")), "none.pem` cannot be used"),
            (tls.sink("localhost", &authority.file("server.key")), "there is no certificate in it"),
        ] {
            assert_told(told(open(&config).await.unwrap_err()), Misconfigured, words);
        }
        let mut waiting = batch([1]);
        let mut sink = tls.sink("localhost", &other.file("ca.pem")).build().unwrap();
        assert_told(
            super::refused(&mut sink, &mut waiting).await,
            Misconfigured,
            "not signed by a trusted authority",
        );
        assert_eq!(marks(&waiting), "Unsent");
    });
}

#[test]
fn a_port_that_speaks_the_other_way_is_noticed_and_plain_text_never_tried() {
    let authority = Authority::new();
    let tls = authority.server("localhost", false);
    run(async {
        let to_plain = format!("rediss://:{CANARY}@localhost:{}", tls.server.port());
        let to_plain = sinks::redis(to_plain).ca_file(authority.file("ca.pem"));
        assert_told(told(open(&to_plain).await.unwrap_err()), Misconfigured, "does not speak TLS");
        assert!(!tls.server.cli(&["INFO", "commandstats"]).contains("cmdstat_auth"), "no password went out");
        let to_tls = sinks::redis(format!("redis://:{CANARY}@localhost:{}", tls.port));
        let (_, text) = told(open(&to_tls).await.unwrap_err());
        assert!(text.contains("`rediss://`"), "{text}");
    });
}

#[test]
fn a_server_that_wants_a_certificate_from_us_says_so() {
    let authority = Authority::new();
    let tls = authority.server("localhost", false);
    tls.server.cli(&["CONFIG", "SET", "tls-auth-clients", "yes"]);
    let refused = run(open(&tls.sink("localhost", &authority.file("ca.pem")))).unwrap_err();
    assert_told(told(refused), Misconfigured, "set tls-auth-clients no");
}
