//! A secret in the configuration of a running topology shows nowhere: not in `Debug`, status, errors or print.

use serde::Deserialize;
use streamll::topology::LoadOptions;
use streamll::{Deliveries, DeliveryError, Event, Registry, Sink, SinkContext, Topology};

use super::{LONG, block_on};

const CANARY: &str = "canary-7f3a9";

#[derive(Deserialize)]
struct HookConfig {
    url: String,
    token: String,
}

/// A sink whose other side is never there.
struct Hook(HookConfig);

impl Sink for Hook {
    async fn open(&mut self, _: &SinkContext) -> Result<(), DeliveryError> {
        assert!(
            self.0.url.contains(CANARY) && self.0.token == CANARY,
            "the sink itself gets the whole value"
        );
        Err(DeliveryError::unavailable("connection refused"))
    }

    async fn deliver(&mut self, _: &mut Deliveries) -> Result<(), DeliveryError> {
        Ok(())
    }
}

const RIGHT: &str = "
service: rag-api
data_dir: ${DATA}
sinks:
  hook:
    type: hook
    url: https://user:${SECRET}@hooks.example.com/in
    token: ${SECRET}
";

#[test]
fn a_secret_shows_in_nothing_that_people_or_logs_read() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("right.yaml"), RIGHT).unwrap();
    std::fs::write(
        folder.path().join("wrong.yaml"),
        RIGHT.to_owned() + "    tokn: 5\n    deliver_timeout: 3\n",
    )
    .unwrap();
    std::fs::write(folder.path().join("literal.yaml"), RIGHT.replace("${SECRET}", CANARY) + "    tokn: 5\n")
        .unwrap();
    let kinds = Registry::default().sink("hook", Hook);
    let options = LoadOptions {
        vars: [("SECRET", CANARY), ("DATA", folder.path().to_str().unwrap())]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        allow_unset: false,
    };
    let load = |name: &str| Topology::load_with(folder.path(), name, &kinds, &options);
    let mut shown = Vec::new();
    for wrong in ["wrong", "literal"] {
        let error = load(wrong).unwrap_err();
        assert!(error.to_string().contains("tokn"), "{error}");
        shown.extend([error.to_string(), format!("{error:?}"), format!("{error:#?}")]);
    }
    let topology = load("right").unwrap();
    shown.extend([format!("{topology:#?}"), format!("{options:#?}"), format!("{kinds:?}")]);
    shown.extend([topology.render().to_owned(), format!("{:#?}", topology.plan())]);
    let handle = topology.start().unwrap();
    handle.emit(Event::new(&streamll::step("Chat"), "start"));
    // The sink opens eagerly, fails, and is open; the event waits behind it.
    assert_eq!(block_on(handle.flush()), 1);
    let status = handle.status();
    let sink = status.sink("hook").unwrap();
    assert_eq!(sink.reason.as_deref(), Some("connection refused"));
    shown.extend([format!("{handle:#?}"), format!("{status:#?}"), sink.to_string()]);
    let drained = handle.shutdown_blocking(LONG / 600);
    assert!(drained.status.balances() && !drained.complete);
    shown.push(format!("{drained:#?}"));
    for text in shown {
        assert!(!text.contains(CANARY), "a secret shows: {text}");
    }
}
