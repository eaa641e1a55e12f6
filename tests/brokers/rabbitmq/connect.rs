//! Connecting: refused, frozen, to something else, over several addresses, by TLS; and what is left behind.

use super::*;
use crate::alone::{Holdings, Logs, alone};
use crate::machine::Machine;
use crate::proxy::Proxy;
use crate::servers::free_port;

#[tokio::test]
async fn nobody_there_is_unavailable_and_named() {
    let error = refused(&sinks::rabbitmq(format!("amqp://ann:{CANARY}@127.0.0.1:{}", free_port()))).await;
    says(&error, ErrorClass::Unavailable, &["cannot connect to 127.0.0.1:", "refused"]);
    let error = refused(&sinks::rabbitmq(format!("amqp://ann:{CANARY}@no-such-host.invalid"))).await;
    says(&error, ErrorClass::Unavailable, &["no-such-host.invalid"]);
}

#[tokio::test]
async fn another_service_behind_the_port_is_said() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mute = listener.local_addr().unwrap();
    let error = refused(&sinks::rabbitmq(format!("amqp://{mute}"))).await;
    says(&error, ErrorClass::Unavailable, &["does not answer in AMQP within 3s", "another service"]);
    let chatty = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = chatty.local_addr().unwrap();
    std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        while let Ok((mut stream, _)) = chatty.accept() {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
            let _ = stream.read(&mut [0; 64]);
        }
    });
    let error = refused(&sinks::rabbitmq(format!("amqp://{address}"))).await;
    says(&error, ErrorClass::Misconfigured, &["does not speak AMQP"]);
    drop(listener);
}

/// Nothing is accepted, and the queue of those who wait for it is full.
#[tokio::test]
async fn a_host_that_gives_no_answer_at_all_cannot_be_reached() {
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let silent = listener.local_addr().unwrap().as_socket().unwrap();
    let queued = (0..8)
        .map(|_| tokio::time::timeout(Duration::from_millis(50), tokio::net::TcpStream::connect(silent)));
    let _queued = futures_util::future::join_all(queued).await;
    let error = refused(&sinks::rabbitmq(format!("amqp://ann:{CANARY}@{silent}"))).await;
    says(&error, ErrorClass::Unavailable, &[&silent.to_string(), "cannot be reached: timed out", "firewall"]);
}

#[tokio::test]
async fn the_next_address_is_tried_and_the_one_that_worked_is_tried_first() {
    let room = Room::shared();
    let (first, second) = (Proxy::to(room.node.port()), Proxy::to(room.node.port()));
    let dead = format!("amqp://ann:{CANARY}@127.0.0.1:{}", free_port());
    let [one, two] = [&first, &second].map(|proxy| room.url_at(proxy.port()));
    let config = sinks::rabbitmq(format!("{dead},{one},{two}")).bind("all", QueueConfig::bound(["#"]));
    let mut sink = opened(&config).await;
    sink.deliver(&mut batch([1])).await.unwrap();
    assert_eq!([first.connections(), second.connections()], [1, 0]);
    first.reset_peers();
    first.blackhole();
    let mut events = batch([2]);
    while sink.deliver(&mut events).await.is_err() {
        events = again(&events);
        let _ = sink.open(&SinkContext::detached("records")).await;
    }
    assert_eq!(second.connections(), 1, "the frozen one is passed by");
    first.heal();
    // What was held back reaches the broker now.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = first.connections();
    second.reset_peers();
    let mut events = batch([3]);
    while sink.deliver(&mut events).await.is_err() {
        events = again(&events);
    }
    assert_eq!(
        [first.connections(), second.connections()],
        [before, 2],
        "the one that worked last goes first"
    );
    let mut arrived = room.numbers("all");
    arrived.dedup();
    assert_eq!(arrived, [1, 2, 3]);
}

#[tokio::test]
async fn with_several_addresses_each_says_why_and_what_a_person_must_mend_decides() {
    let room = Room::shared();
    let dead = format!("amqp://ann:{CANARY}@127.0.0.1:{}", free_port());
    let wrong = room.url().replace("guest:guest", &format!("ann:{CANARY}"));
    for url in [format!("{dead},{wrong}"), format!("{wrong},{dead}")] {
        let error = refused(&sinks::rabbitmq(url)).await;
        says(&error, ErrorClass::Misconfigured, &["cannot connect to", "login refused", "; "]);
    }
}

#[test]
fn connecting_to_a_frozen_broker_ends_in_time_and_leaves_nothing_behind() {
    alone("rabbitmq::connect::connecting_to_a_frozen_broker_ends_in_time_and_leaves_nothing_behind", || {
        let node = RabbitNode::start();
        let room = Room::on(&node);
        run(async {
            // What is made once for the whole process.
            opened(&room.sink()).await.close().await;
            let ctx = SinkContext::detached("records");
            tokio::time::sleep(Duration::from_secs(1)).await;
            let before = Holdings::now();
            node.freeze();
            for _ in 0..3 {
                let error = refused(&room.sink()).await;
                says(&error, ErrorClass::Unavailable, &["does not answer in AMQP within 3s", "frozen"]);
            }
            for _ in 0..20 {
                let mut sink = room.sink().build().unwrap();
                let dropped = tokio::time::timeout(Duration::from_millis(50), sink.open(&ctx)).await;
                assert!(dropped.is_err(), "it hangs, so it was dropped");
            }
            before.are_back();
            node.thaw();
        });
    });
}

#[test]
fn sinks_that_are_dropped_without_a_word_leave_nothing_behind() {
    alone("rabbitmq::connect::sinks_that_are_dropped_without_a_word_leave_nothing_behind", || {
        let node = RabbitNode::start();
        let room = Room::on(&node);
        run(async { opened(&room.sink()).await.close().await });
        std::thread::sleep(Duration::from_secs(1));
        let before = Holdings::now();
        for _ in 0..10 {
            // The runtime ends with the sink, in the middle of a delivery.
            run(async {
                let mut sink = opened(&room.sink().window(10)).await;
                let mut events = batch(0..2000);
                let _ = tokio::time::timeout(Duration::from_millis(5), sink.deliver(&mut events)).await;
            });
        }
        before.are_back();
        // A broker that freezes and one that blocks are no different.
        run(async {
            let mut sink = opened(&room.sink()).await;
            node.ctl(&["set_vm_memory_high_watermark", "0.0000001"]);
            fails(&mut sink).await;
            let other = opened(&room.sink()).await;
            node.freeze();
            drop((sink, other));
        });
        before.are_back();
        node.thaw();
    });
}

#[test]
fn nothing_that_is_logged_holds_a_payload_or_a_password() {
    alone("rabbitmq::connect::nothing_that_is_logged_holds_a_payload_or_a_password", || {
        let logs = Logs::keep();
        let room = Room::shared();
        let url = room.user("logged", [".*", ".*", ".*"]);
        run(async {
            let mut sink = opened(&sinks::rabbitmq(url)).await;
            // It comes back, with its body.
            let event = event(1).with("question", "canary-question");
            sink.deliver(&mut Deliveries::new(vec![Delivery::new(event, "ai.no".into())])).await.unwrap();
            room.node.ctl(&["delete_user", &format!("logged-{}", room.vhost)]);
            fails(&mut sink).await;
            sink.open(&SinkContext::detached("records")).await.unwrap_err();
        });
        let lines = logs.lines();
        // The client prints the body of a message as numbers.
        let numbers = format!("{:?}", b"canary-question");
        let is_payload =
            |line: &String| line.contains("canary") || line.contains(numbers.trim_matches(['[', ']']));
        assert!(!lines.iter().any(is_payload), "{lines:#?}");
        // `cargo test` shows standard error of this process when this fails.
        assert!(!lines.iter().any(|line| line.contains("panicked")), "{lines:#?}");
    });
}

/// A node with a TLS port whose certificate, for `localhost`, was signed by a throw-away CA.
struct Sealed {
    node: RabbitNode,
    port: u16,
    folder: tempfile::TempDir,
}

impl Sealed {
    fn start() -> Sealed {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca =
            rcgen::CertifiedIssuer::self_signed(params.clone(), rcgen::KeyPair::generate().unwrap()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "another");
        let other = rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let own = rcgen::CertificateParams::new(vec!["localhost".to_owned()])
            .unwrap()
            .signed_by(&key, &ca)
            .unwrap();
        for (name, pem) in [
            ("ca.pem", ca.pem()),
            ("other.pem", other.pem()),
            ("own.pem", own.pem()),
            ("key.pem", key.serialize_pem()),
        ] {
            std::fs::write(path(name), pem).unwrap();
        }
        let port = free_port();
        let node = RabbitNode::start_with(&format!(
            "listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {}\nssl_options.certfile = {}\n\
             ssl_options.keyfile = {}\nssl_options.verify = verify_none",
            path("ca.pem").display(),
            path("own.pem").display(),
            path("key.pem").display()
        ));
        Sealed { node, port, folder }
    }
}

#[tokio::test]
async fn tls_trusts_whom_it_is_told_to_trust_and_nobody_else() {
    let sealed = Sealed::start();
    let room = Room::on(&sealed.node);
    let ca = |name: &str| sealed.folder.path().join(name);
    let url = |host: &str, port: u16| format!("amqps://guest:guest@{host}:{port}/{}", room.vhost);
    let good = sinks::rabbitmq(url("localhost", sealed.port))
        .ca_file(ca("ca.pem"))
        .bind("all", QueueConfig::bound(["#"]));
    opened(&good).await.deliver(&mut batch(0..2000)).await.unwrap();
    assert_eq!(room.numbers("all"), (0..2000).collect::<Vec<_>>());
    for (config, words) in [
        (
            sinks::rabbitmq(url("localhost", sealed.port)).ca_file(ca("other.pem")),
            &["not signed by a trusted authority", "ca_file"][..],
        ),
        (sinks::rabbitmq(url("localhost", sealed.port)), &["certificate", "ca_file"]),
        (
            sinks::rabbitmq(url("127.0.0.1", sealed.port)).ca_file(ca("ca.pem")),
            &["its certificate is for another host"],
        ),
        (
            sinks::rabbitmq(url("localhost", sealed.node.port())).ca_file(ca("ca.pem")),
            &["does not speak TLS"],
        ),
        (
            sinks::rabbitmq(url("localhost", sealed.port)).ca_file(ca("missing.pem")),
            &["missing.pem", "ca_file"],
        ),
        (sinks::rabbitmq(url("localhost", sealed.port)).ca_file(ca("key.pem")), &["no certificate in it"]),
    ] {
        says(&refused(&config).await, ErrorClass::Misconfigured, words);
    }
    let plain = url("localhost", sealed.port).replace("amqps", "amqp");
    let error = refused(&sinks::rabbitmq(plain)).await;
    assert!([ErrorClass::Misconfigured, ErrorClass::Unavailable].contains(&error.class()), "{error}");
}

#[test]
fn what_is_wrong_although_it_works_stands_in_its_status() {
    let room = Room::shared();
    let wrong = room.url().replace("guest:guest", &format!("ann:{CANARY}"));
    let url = format!("url: \"{wrong},{}\"", room.url());
    let mut machine = Machine::start(&["type: rabbitmq", &url, "durable: false", "queues: { all: [\"#\"] }"]);
    machine.emit("One");
    machine.settles();
    let warnings = machine.status().warnings;
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("login refused for user `ann`"), "{warnings:?}");
    assert!(warnings[1].contains("set durable: true"), "{warnings:?}");
    assert!(!format!("{warnings:?}").contains(CANARY));
    assert_eq!(machine.ends(), []);
}
