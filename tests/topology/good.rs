//! The topologies in the tree load, and say what they seem to say.

use std::path::Path;
use std::time::Duration;

use streamll::topology::{LoadOptions, Registry, Topology, environments};
use streamll_actors::event::Class;
use streamll_actors::graph::SinkSpec;
use streamll_actors::sink::breaker::BreakerPolicy;
use streamll_actors::sink::{BatchPolicy, BufferPolicy, Fsync, OnOpen, WhenFull};
use streamll_actors::supervise::RestartPolicy;

use super::{kinds::Null, plan, topology};

const TREE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/topologies");

#[test]
fn every_topology_in_the_tree_loads_without_a_warning() {
    let names = environments(TREE);
    assert_eq!(names, ["development", "production", "reference", "staging"]);
    for name in names {
        let urls =
            [("REDIS_URL", "redis://localhost"), ("RABBITMQ_URL", "amqp://localhost"), ("HOME", "/home/u")];
        let vars = urls.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let options = LoadOptions { vars, ..LoadOptions::default() };
        let loaded = Topology::load_with(TREE, &name, &Registry::default(), &options);
        let loaded = loaded.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(loaded.warnings(), [], "{name}");
        let plan = loaded.plan().expect("complete");
        assert_eq!((plan.environment.as_str(), plan.service.as_str()), (name.as_str(), "rag-api"));
        assert!(!plan.sinks.is_empty(), "{name}");
    }
}

/// Those that are to be refused are elsewhere, and have tests of their own.
#[test]
fn every_yaml_in_the_tree_can_be_read() {
    let (mut open, mut read) = (vec![Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()], Vec::new());
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let is_yaml = path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml");
            if path.is_dir() && !["target", ".git", "bad"].contains(&&*name.to_string_lossy()) {
                open.push(path);
            } else if is_yaml {
                let text = std::fs::read_to_string(&path).expect("UTF-8");
                for event in saphyr_parser::Parser::new_from_str(&text) {
                    event.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                }
                read.push(name.to_string_lossy().into_owned());
            }
        }
    }
    assert!(
        read.contains(&"compose.yaml".to_owned()) && read.contains(&"production.yaml".to_owned()),
        "{read:?}"
    );
}

#[test]
fn what_is_tried_with_docker_is_on_the_loopback_and_has_a_version() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/compose.yaml");
    let text = std::fs::read_to_string(file).expect("compose.yaml");
    let images: Vec<_> = text.lines().filter(|line| line.contains("image: ")).collect();
    assert_eq!(images.len(), 2, "{text}");
    assert!(images.iter().all(|image| image.contains(|c: char| c.is_ascii_digit())), "{images:?}");
    for port in ["6379", "5672", "15672"] {
        assert!(text.contains(&format!("\"127.0.0.1:{port}:{port}\"")), "{port}");
    }
}

#[test]
fn the_defaults_are_those_of_the_machine() {
    let plan = plan("sinks:\n  a: { type: terminal }\n", &[]);
    let [sink] = plan.sinks.as_slice() else { panic!("one sink") };
    let machine = SinkSpec::new("a", || Null);
    assert_eq!((sink.name.as_str(), &sink.topics, sink.except.len()), ("a", &None, 0));
    assert_eq!((sink.buffer, sink.breaker, sink.batch), (machine.buffer, machine.breaker, machine.batch));
    assert_eq!(
        (&sink.on_open, sink.restart, sink.poison_after),
        (&machine.on_open, machine.restart, machine.poison_after)
    );
    assert_eq!(sink.deliver_timeout, machine.deliver_timeout);
    let machine = streamll_actors::graph::Plan::new("streamll");
    assert_eq!(
        (&plan.service, &plan.routing_key, plan.alert_after),
        (&machine.service, &machine.routing_key, machine.alert_after)
    );
}

#[test]
fn what_is_said_reaches_the_plan() {
    let text = "service: s
tags: { team: search }
data_dir: /data
routing_key: \"x.{event_type}\"
classes: { audit: [\"x.pay\"], token: [\"x.part\"], lifecycle: [\"x.note\"] }
alert_after: 1m
dead_letter: b
shutdown: { timeout: 3s }
processors:
  - redact: { fields: [data.a] }
  - usage: { window: 1s }
sinks:
  a:
    type: terminal
    topics: [\"x.#\"]
    except: [\"x.part\"]
    routing_key: \"y.{module_name}\"
    processors: [{ coalesce: { window: 50ms } }]
    buffer: { max_size: 2MiB, max_events: 7, when_full: drop_newest }
    circuit_breaker: { failure_threshold: 2, recovery_timeout: 4s, recovery_max: 8s, on_open: { fallback: b } }
    restart: { max: 1, within: 2s }
    batch: { max_events: 8, max_size: 16KiB, linger: 5ms }
    deliver_timeout: 6s
    poison_after: 9
    dead_letter: c
  b: { type: terminal, circuit_breaker: { on_open: drop } }
  c: { type: terminal }
";
    let loaded = topology(&[("env", text)], &[]).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(loaded.shutdown_timeout(), Duration::from_secs(3));
    let plan = loaded.plan().expect("complete");
    assert_eq!((plan.service.as_str(), plan.environment.as_str()), ("s", "env"));
    assert_eq!(plan.tags, [("team".to_owned(), "search".to_owned())]);
    assert_eq!((plan.data_dir.to_str(), plan.dead_letter.as_deref()), (Some("/data"), Some("b")));
    assert_eq!((plan.routing_key.as_str(), plan.alert_after), ("x.{event_type}", Duration::from_secs(60)));
    let classes: Vec<_> = plan.classes.iter().map(|(pattern, class)| (pattern.as_str(), *class)).collect();
    assert_eq!(classes, [("x.pay", Class::Audit), ("x.part", Class::Token), ("x.note", Class::Lifecycle)]);
    assert_eq!(
        format!("{:?}", plan.stages),
        r#"[Stage { name: "redact", kind: "processor" }, Stage { name: "usage", kind: "actor" }]"#
    );
    let [a, b, c] = plan.sinks.as_slice() else { panic!("three sinks") };
    assert_eq!((a.name.as_str(), b.name.as_str(), c.name.as_str()), ("a", "b", "c"));
    assert_eq!(a.topics.as_ref().expect("topics")[0].as_str(), "x.#");
    assert_eq!(
        (a.except[0].as_str(), a.routing_key.as_ref().map(|key| key.as_str())),
        ("x.part", Some("y.{module_name}"))
    );
    assert_eq!(a.processors[0].0, "coalesce");
    assert_eq!(
        a.buffer,
        BufferPolicy { max_events: 7, max_size: 2 << 20, when_full: WhenFull::DropNewest, disk: None }
    );
    let [two, four, eight] = [2, 4, 8].map(Duration::from_secs);
    assert_eq!(
        a.breaker,
        BreakerPolicy { failure_threshold: 2, recovery_timeout: four, recovery_max: eight }
    );
    assert_eq!(
        (&a.on_open, &b.on_open, &c.on_open),
        (&OnOpen::Fallback("b".into()), &OnOpen::Drop, &OnOpen::Buffer)
    );
    assert_eq!(a.restart, RestartPolicy { max: 1, within: two });
    assert_eq!(a.batch, BatchPolicy { max_events: 8, max_size: 16 << 10, linger: Duration::from_millis(5) });
    assert_eq!(
        (a.deliver_timeout, a.poison_after, a.dead_letter.as_deref()),
        (Duration::from_secs(6), 9, Some("c"))
    );
}

#[test]
fn a_buffer_on_disk_has_room_for_a_long_outage_and_syncs_in_groups() {
    let text = "service: s\nsinks:\n  a: { type: terminal, buffer: { type: disk } }\n  \
                b: { type: terminal, buffer: { type: disk, max_size: 2MiB, max_events: 9, fsync: 100ms } }\n  \
                c: { type: terminal, buffer: { type: disk, fsync: never } }\n";
    let plan = plan(text, &[]);
    let [a, b, c] = plan.sinks.as_slice() else { panic!("three sinks") };
    assert_eq!(a.buffer, BufferPolicy::disk());
    assert_eq!((a.buffer.max_events, a.buffer.max_size), (usize::MAX, 1 << 30));
    assert_eq!((b.buffer.max_events, b.buffer.max_size), (9, 2 << 20));
    assert_eq!(b.buffer.disk, Some(Fsync::Every(Duration::from_millis(100))));
    assert_eq!(c.buffer.disk, Some(Fsync::Never));
}

#[test]
fn without_a_data_dir_it_is_the_users_state_directory() {
    let text = "service: s\nsinks:\n  a: { type: terminal }\n";
    for (environment, dir) in [
        (vec![("XDG_STATE_HOME", "/state"), ("HOME", "/home/u")], "/state/streamll/s"),
        (vec![("XDG_STATE_HOME", "relative"), ("HOME", "/home/u")], "/home/u/.local/state/streamll/s"),
        (vec![], "./streamll/s"),
    ] {
        assert_eq!(plan(text, &environment).data_dir.to_str(), Some(dir));
    }
}

#[test]
fn without_a_home_it_is_said_where_the_state_goes() {
    let text = "service: s\nsinks:\n  a: { type: terminal }\n";
    for (environment, count) in [
        (vec![], 1),
        (vec![("HOME", "")], 1),
        (vec![("HOME", "relative")], 1),
        (vec![("HOME", "/home/u")], 0),
    ] {
        let loaded = topology(&[("env", text)], &environment).expect("loads");
        assert_eq!(loaded.warnings().len(), count, "{environment:?}");
        for warning in loaded.warnings() {
            assert_eq!(warning.path, "data_dir");
            assert!(warning.to_string().contains("`./streamll`"), "{warning}");
        }
    }
    let text = format!("data_dir: /data\n{text}");
    assert_eq!(topology(&[("env", &text)], &[]).expect("loads").warnings(), []);
}

#[test]
fn a_pattern_for_a_module_that_is_not_in_snake_case_is_a_warning() {
    let wrong = |key: &str, pattern: &str| {
        let text = format!(
            "routing_key: \"{key}\"\nsinks: {{ a: {{ type: terminal, topics: [\"{pattern}\"] }} }}\n"
        );
        let loaded = topology(&[("env", &text)], &[("HOME", "/home/u")]).expect("loads");
        loaded.warnings().iter().map(|warning| warning.help.clone().unwrap_or_default()).collect::<Vec<_>>()
    };
    let key = "ai.{module_name}.{event_type}";
    for (pattern, meant) in [
        ("ai.RagPipeline.*", "ai.rag_pipeline.*"),
        ("ai.R.*", "ai.r.*"),
        ("#.RAGPipeline.start", "#.rag_pipeline.start"),
        ("ai.rag_Pipeline.#", "ai.rag_pipeline.#"),
    ] {
        let warnings = wrong(key, pattern);
        assert!(
            warnings.len() == 1 && warnings[0].contains(&format!("`{meant}`")),
            "{pattern}: {warnings:?}"
        );
    }
    for (key, pattern) in [
        (key, "ai.rag_pipeline.*"),
        (key, "ai.*.Start"),
        (key, "#.Start"),
        (key, "ai.a%2E.*"),
        ("ai.{event_type}.{module_name}", "ai.Start.*"),
        ("{data.a.b}.{module_name}", "Acme.*"),
        ("x{module_name}.{event_type}", "xA.*"),
        ("{tags.team}.{module_name}.{event_type}", "Search.*.end"),
    ] {
        assert!(wrong(key, pattern).is_empty(), "{key}: {pattern}");
    }
}

#[test]
fn a_folder_is_neither_empty_nor_begins_with_a_tilde() {
    for folder in ["\"\"", "~/x", "${NONE:-}", "~user"] {
        let text = format!("data_dir: {folder}\nsinks: {{ a: {{ type: terminal }} }}\n");
        assert!(super::errors(&text, &[]).contains("env.yaml:1:11"), "{folder}");
    }
    for path in ["\"\"", "~/x.ndjson"] {
        let text = format!("sinks:\n  a:\n    type: file\n    path: {path}\n");
        let folder = super::folder(&[("env", &text)]);
        let error = Topology::load_with(folder.path(), "env", &Registry::default(), &LoadOptions::default());
        assert!(error.expect_err(path).to_string().contains("env.yaml:4:11"), "{path}");
    }
    let built = Topology::builder("s").data_dir("~/x").sink("a", streamll::sinks::file("~/y")).build();
    assert_eq!(built.expect_err("two wrong paths").problems.len(), 2);
}

#[test]
fn a_file_that_ends_in_yml_is_a_topology_too() {
    let text = "sinks: { a: { type: terminal } }\n";
    let folder = super::folder(&[("dev", text)]);
    std::fs::write(folder.path().join("prod.yml"), format!("extends: base\n{text}")).expect("a file");
    std::fs::write(folder.path().join("base.yml"), "service: s\n").expect("a file");
    assert_eq!(environments(folder.path()), ["dev", "prod"]);
    let loaded = super::load(folder.path(), "prod", &[]).unwrap_or_else(|error| panic!("{error}"));
    assert!(loaded.render().contains("base.yml:1"), "{}", loaded.render());
    std::fs::write(folder.path().join("prod.yaml"), text).expect("a file");
    let error = super::load(folder.path(), "prod", &[]).expect_err("two files").to_string();
    assert!(error.contains("prod.yaml") && error.contains("prod.yml"), "{error}");
    let error = super::load(folder.path(), "stage", &[]).expect_err("no file").to_string();
    assert!(error.contains("`dev` and `prod`"), "{error}");
}

#[test]
fn what_is_printed_is_read_back_as_it_was() {
    let texts = [
        "NO",
        "yes",
        "On",
        "off",
        "y",
        "n",
        "True",
        "~",
        "null",
        "1_000",
        "12:30",
        "0x1f",
        "1e3",
        ".inf",
        " a",
        "",
        "a: b",
        "a #b",
        "\u{9b}31mX",
        "\u{202e}x",
        "\u{e0041}",
        "tab\there",
        "plain",
        "\"q\"",
        "*a",
        "&a",
        "!a",
        "${",
    ];
    let tags: String = texts
        .iter()
        .enumerate()
        .map(|(n, text)| format!("  t{n}: {}\n", serde_json::json!(text.replace("${", "$${"))))
        .collect();
    let text = format!("tags:\n{tags}sinks: {{ a: {{ type: terminal }} }}\n");
    let first = topology(&[("env", &text)], &[]).unwrap_or_else(|error| panic!("{error}"));
    for word in ["NO", "yes", "On", "y"] {
        assert!(
            first.render().contains(&format!("\"{word}\"")),
            "{word} stands without quotes: {}",
            first.render()
        );
    }
    assert!(!first.render().contains(['\u{9b}', '\u{202e}', '\u{e0041}']), "{}", first.render());
    let again = topology(&[("env", first.render())], &[]).unwrap_or_else(|error| panic!("{error}"));
    let tags = |topology: &Topology| {
        topology
            .plan()
            .expect("complete")
            .tags
            .iter()
            .map(|(_, value)| value.clone())
            .collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(tags(&first), texts.iter().map(|text| (*text).to_owned()).collect());
    assert_eq!(tags(&again), tags(&first));
}

#[test]
fn a_topology_built_in_code_is_checked_too() {
    let built =
        Topology::builder("s").tag("a", "b").sink("live", SinkSpec::new("", || Null)).build().expect("right");
    let plan = built.plan().expect("a plan");
    assert_eq!((plan.service.as_str(), plan.sinks[0].name.as_str()), ("s", "live"));
    let sink = || SinkSpec::new("", || Null);
    let wrong =
        Topology::builder("s").routing_key("{nothing}").sink("A", sink()).sink("b", sink()).sink("b", sink());
    let paths: Vec<_> =
        wrong.build().expect_err("wrong").problems.into_iter().map(|problem| problem.path).collect();
    assert_eq!(paths, ["routing_key", "sinks.A", "sinks.b"]);
    assert_eq!(
        Topology::builder("s").build().expect_err("no sinks").problems[0].message,
        "there are no sinks"
    );
}

#[test]
fn a_file_with_a_byte_order_mark_or_crlf_loads() {
    topology(&[("env", "\u{feff}sinks:\r\n  a:\r\n    type: terminal\r\n")], &[]).expect("loads");
    let error = super::errors("\u{feff}sinks:\r\n  a:\r\n    type: terminl\r\n", &[]);
    assert!(error.contains("env.yaml:3:11"), "{error}");
}

#[test]
fn a_pattern_that_can_never_match_is_a_warning() {
    let text = "routing_key: \"ai.{module_name}.{event_type}\"\nsinks:\n  a:\n    type: terminal\n    topics: [\"ai.#\", \"logs.#\"]\n    except: [\"ai.streamll.*\", \"ai.token\"]\n";
    let loaded = topology(&[("env", text)], &[("HOME", "/home/u")]).expect("loads");
    let warnings: Vec<_> =
        loaded.warnings().iter().map(|warning| (warning.path.as_str(), warning.message.as_str())).collect();
    assert_eq!(
        warnings,
        [
            ("sinks.a.topics[1]", "`logs.#` can never match"),
            ("sinks.a.except[1]", "`ai.token` can never match"),
        ]
    );
    assert!(loaded.warnings()[0].to_string().starts_with("warning: "));
}

#[test]
fn a_pattern_for_the_events_of_the_system_can_always_match() {
    let text = "routing_key: \"x.{event_type}\"\nsinks: { a: { type: terminal, topics: [\"ai.streamll.*\", \"x.#\"] } }\n";
    assert_eq!(topology(&[("env", text)], &[("HOME", "/home/u")]).expect("loads").warnings(), []);
}

#[test]
fn a_class_for_topics_that_never_come_is_a_warning() {
    let loaded =
        topology(&[("env", "classes: { audit: [payments] }\nsinks: { a: { type: terminal } }\n")], &[])
            .expect("loads");
    assert_eq!(loaded.warnings()[0].path, "classes.audit[0]");
}

#[test]
fn a_shared_dead_letter_sink_is_no_circle() {
    let text = "dead_letter: dead\nsinks:\n  a: { type: terminal }\n  dead: { type: terminal }\n";
    topology(&[("env", text)], &[]).expect("loads");
}

#[test]
fn a_default_gives_way_to_a_longer_recovery_timeout() {
    let text = "sinks:\n  a: { type: terminal, circuit_breaker: { recovery_timeout: 10m } }\n";
    topology(&[("env", text)], &[]).expect("loads");
}
