//! The whole way: a service writes, another process puts one conversation together, a third reacts to errors, and the
//! broker between them is killed and comes back in the middle.

use std::io::{BufRead as _, BufReader, Lines};
use std::process::{ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::Process;
use crate::servers::{RabbitNode, RedisServer};

/// The answer that the example's service gives in the conversation that is read.
const ANSWER: &str =
    "When Sun and Moon line up their pulls add: that is a spring tide. «Größe» 🌊 matters, too.";

struct Role {
    process: Process,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Role {
    fn start(url: &str, role: &str) -> Role {
        let mut command = Command::new(support::built("two_services"));
        let mut child =
            command.args([url, role]).env("PACE_MS", "150").stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Role { process: Process(child), lines }
    }

    fn line(&mut self) -> String {
        self.lines.next().expect("another line").expect("text")
    }

    fn ends(mut self) -> String {
        let rest = self.lines.by_ref().map_while(Result::ok).collect::<Vec<_>>().join("\n");
        assert!(self.process.0.wait().unwrap().success(), "{rest}");
        rest
    }
}

fn survives(url: &str, kill: impl Fn(), restart: impl Fn()) {
    let (mut chat, mut alerts) = (Role::start(url, "chat"), Role::start(url, "alerts"));
    assert_eq!((chat.line(), alerts.line()), ("chat: ready".to_owned(), "alerts: ready".to_owned()));
    let service = Role::start(url, "rag");
    // An answer takes more than two seconds; the broker goes away in its middle.
    thread::sleep(Duration::from_millis(900));
    kill();
    thread::sleep(Duration::from_millis(800));
    restart();
    assert_eq!(service.ends(), "rag: everything arrived: true");
    let (chat, alerts) = (chat.ends(), alerts.ends());
    assert!(chat.starts_with(&format!("{ANSWER}\nchat: conv_2 is complete: true\n")), "{chat}");
    assert!(
        alerts.starts_with("alerts: opened a ticket: Calculator failed: \"upstream took 30 s\"\n"),
        "{alerts}"
    );
    assert!(
        chat.ends_with("chat: the numbers balance: true")
            && alerts.ends_with("alerts: the numbers balance: true")
    );
}

#[test]
fn a_conversation_arrives_exactly_while_redis_is_killed_in_its_middle() {
    let server = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    survives(&server.url(), || server.kill9(), || server.restart());
}

#[test]
fn a_conversation_arrives_exactly_while_rabbitmq_is_killed_in_its_middle() {
    let node = RabbitNode::start();
    survives(&node.url(&node.vhost()), || node.kill9(), || node.restart());
}
