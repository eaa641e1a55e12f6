//! A canary in every place of a topology that may hold a secret, and in each that should not, sings nowhere.

use std::collections::BTreeMap;

use serde::Deserialize;
use streamll::topology::{LoadOptions, Registry, Topology};
use streamll::{Event, ExposeSecret as _, Secret};

use super::kinds::Null;
use super::{folder, vars};

const CANARY: &str = "Zq9canary7";

#[derive(Deserialize)]
#[serde(untagged)]
enum Login {
    #[allow(dead_code, reason = "it is read, not used")]
    Pin { code: Secret },
    #[allow(dead_code, reason = "it is read, not used")]
    Name { name: String },
}

#[derive(Deserialize)]
struct More {
    #[serde(default, rename = "salt")]
    _salt: Option<Secret>,
}

#[derive(Deserialize)]
struct Inner {
    #[serde(rename = "grain")]
    _grain: Secret,
}

/// Secrets whose keys say nothing.
#[derive(Deserialize)]
struct Hook {
    pin: Secret,
    #[serde(default, rename = "codes")]
    _codes: Vec<Secret>,
    #[serde(default, rename = "by_team")]
    _by_team: BTreeMap<String, Secret>,
    #[serde(rename = "inner")]
    _inner: Option<Inner>,
    #[serde(rename = "login")]
    _login: Option<Login>,
    #[serde(flatten)]
    _more: More,
    #[serde(default)]
    size: u32,
    #[serde(default)]
    target: String,
}

#[derive(Deserialize)]
struct Seal {
    #[serde(rename = "grain")]
    _grain: Secret,
}

fn kinds() -> Registry {
    Registry::default()
        .try_sink("hook", |config: Hook| match (config.size, config.target.as_str()) {
            (9, _) => Err(format!(
                "pin: `{}` is too short; write `{}0`",
                config.pin.expose_secret(),
                config.pin.expose_secret()
            )),
            (8, _) => Err(format!("no hook takes {} and {}", config.pin.expose_secret(), config.target)),
            _ => Ok(Null),
        })
        .processor("seal", |_: Seal| Some::<Event>)
}

/// All that is shown of a topology: what is wrong, or how it is printed.
fn shown(text: &str, environment: &[(&str, &str)]) -> String {
    let dir = folder(&[("env", text)]);
    let mut all = String::new();
    for allow_unset in [false, true] {
        let options = LoadOptions { vars: vars(environment), allow_unset };
        match Topology::load_with(dir.path(), "env", &kinds(), &options) {
            Ok(loaded) => {
                all += &format!("{}{:?}{loaded:?}{options:?}", loaded.render(), loaded.warnings());
            }
            Err(error) => all += &format!("{error}{error:?}{}{:?}", error.to_json(), error.problems),
        }
    }
    all
}

#[track_caller]
fn assert_silent(text: &str, environment: &[(&str, &str)]) -> String {
    let shown = shown(text, environment);
    for piece in ["Zq9can", "canary7", "q9canar"] {
        assert!(!shown.contains(piece), "{piece} shows of\n{text}\n{shown}");
    }
    shown
}

/// Everything of a kind's own is a secret by its type alone.
const TYPED: &str = "processors:
  - seal: { grain: CANARY }
sinks:
  hook:
    type: hook
    pin: CANARY
    codes: [CANARY, \"CANARY\"]
    by_team: { search: CANARY }
    inner: { grain: CANARY }
    login: { code: CANARY }
    salt: CANARY
    processors:
      - seal: { grain: CANARY }
";

#[test]
fn what_its_type_says_is_secret_shows_nowhere() {
    let text = TYPED.replace("CANARY", CANARY);
    let printed = assert_silent(&text, &[]);
    let dir = folder(&[("env", &text)]);
    let loaded = Topology::load_with(dir.path(), "env", &kinds(), &LoadOptions::default()).expect("loads");
    assert!(!format!("{:#?}", loaded.plan()).contains(CANARY));
    assert!(printed.contains("pin: \"***\"") && printed.contains("type: hook"), "{printed}");
    let variables = TYPED.replace("CANARY", "\"${PIN}\"").replace("\"\"${PIN}\"\"", "\"${PIN}\"");
    let printed = assert_silent(&variables, &[("PIN", CANARY)]);
    assert!(printed.contains("pin: \"${PIN}\""), "{printed}");
    let defaults = variables.replace("${PIN}", &format!("${{PIN:-{CANARY}}}"));
    assert_silent(&defaults, &[]);
    assert_silent(&TYPED.replace("CANARY", "x"), &[("STREAMLL__SINKS__HOOK__PIN", CANARY)]);
}

#[test]
fn beside_any_mistake_a_typed_secret_shows_nowhere() {
    let lines: Vec<String> = TYPED.replace("CANARY", CANARY).lines().map(str::to_owned).collect();
    for at in 0..=lines.len() {
        for wrong in [
            "    colour: red",
            "    size: many",
            "    size: 9",
            "    size: 8",
            "    deliver_timeout: 3",
            "\tx",
            "    pin: [",
            "    - x",
            "    inner: 5",
        ] {
            let mut text = lines.clone();
            text.insert(at, wrong.to_owned());
            assert_silent(&text.join("\n"), &[]);
        }
    }
    // the mistake stands in the line of the secret
    for line in [
        "pin: CANARY, size: many",
        "pin: CANARY, colour: red",
        "pin: \"CANARY",
        "pin: [CANARY]",
        "pin: { a: CANARY }",
        "pni: CANARY",
        "pin: CANARY, type: hok",
        "\"pin\":\"CANARY\", size: many",
        "pin: 'CANARY' x",
        "pin: *CANARY",
        "pin: CANARY, login: { code: 5 }",
    ] {
        let flow = format!("sinks:\n  hook: {{ type: hook, {line} }}\n").replace("CANARY", CANARY);
        assert_silent(&flow, &[]);
        let block = format!("sinks:\n  hook:\n    type: hook\n    {line}\n").replace("CANARY", CANARY);
        assert_silent(&block, &[]);
    }
    assert_silent(
        &format!("sinks:\n  hook:\n    type: hook\n    pin: |\n      {CANARY}\n    size: many\n"),
        &[],
    );
    assert_silent(&format!("sinks:\n  hook:\n    type: hok\n    pin:\n      {CANARY}\n      - x\n"), &[]);
}

#[test]
fn a_number_in_the_place_of_a_secret_is_one() {
    for line in ["pin: 47114711", "pin: 4711.4711", "codes: [47114711]", "token: 47114711"] {
        let shown = shown(&format!("sinks:\n  hook:\n    type: hook\n    {line}\n"), &[]);
        assert!(!shown.contains("4711"), "{shown}");
    }
    for kind in ["redis", "rabbitmq"] {
        let shown = shown(&format!("sinks:\n  a:\n    type: {kind}\n    url: 47114711\n"), &[]);
        assert!(!shown.contains("4711") && shown.contains("expected an address such as"), "{shown}");
    }
}

#[test]
fn a_secret_in_the_wrong_place_shows_nowhere() {
    let addresses = [
        "redis://user:CANARY@host/0",
        "amqp://CANARY:x@host",
        "redis://:CANARY@a,redis://:CANARY@b",
        "rediss://u:CANARY",
        "redis://u:x@CANARY:CANARY@host",
        "https://hooks.example.com/services/T0/CANARY",
        "https://host/?token=CANARY",
    ];
    for address in addresses {
        for place in [
            "service: \"ADDRESS\"\nsinks: { a: { type: terminal } }\n",
            "extends: \"ADDRESS\"\nsinks: { a: { type: terminal } }\n",
            "routing_key: \"ADDRESS\"\nsinks: { a: { type: terminal } }\n",
            "data_dir: \"ADDRESS\"\nsinks: { a: { type: terminal } }\n",
            "dead_letter: \"ADDRESS\"\nsinks: { a: { type: terminal } }\n",
            "alert_after: \"ADDRESS\"\nsinks: { a: { type: terminal } }\n",
            "\"ADDRESS\": x\nsinks: { a: { type: terminal } }\n",
            "tags: { \"ADDRESS\": x }\nsinks: { a: { type: terminal } }\nx: 1\n",
            "classes: { audit: [\"ADDRESS\"] }\nsinks: { a: { type: terminal } }\n",
            "processors: [\"ADDRESS\"]\nsinks: { a: { type: terminal } }\n",
            "processors: [{ \"ADDRESS\": {} }]\nsinks: { a: { type: terminal } }\n",
            "processors: \"ADDRESS\"\nsinks: { a: { type: terminal } }\n",
            "sinks: \"ADDRESS\"\n",
            "sinks: { \"ADDRESS\": { type: terminal } }\n",
            "sinks: { a: \"ADDRESS\" }\n",
            "sinks: { a: { type: \"ADDRESS\" } }\n",
            "sinks: { a: { type: terminal, \"ADDRESS\": 1 } }\n",
            "sinks: { a: { type: terminal, topics: [\"ADDRESS\"] } }\n",
            "sinks: { a: { type: terminal, enabled: \"ADDRESS\" } }\n",
            "sinks: { a: { type: terminal, poison_after: \"ADDRESS\" } }\n",
            "sinks: { a: { type: terminal, buffer: \"ADDRESS\" } }\n",
            "sinks: { a: { type: terminal, buffer: { when_full: \"ADDRESS\" } } }\n",
            "sinks: { a: { type: terminal, buffer: { \"ADDRESS\": 1 } } }\n",
            "sinks: { a: { type: terminal, color: \"ADDRESS\" } }\n",
            "sinks: { a: { type: terminal, circuit_breaker: { on_open: { fallback: \"ADDRESS\" } } } }\n",
            "sinks: { a: { type: file, path: \"ADDRESS\" }, b: 1 }\n",
            "sinks: { a: { type: redis, url: redis://h, stream_key: \"ADDRESS\", max_len: x } }\n",
            "sinks: { a: { type: redis, url: redis://h, ordering: \"ADDRESS\" } }\n",
            "sinks: { a: { type: redis, url: redis://h, max_len: \"ADDRESS\" } }\n",
            "sinks: { a: { type: redis, url: redis://h, ca_file: \"ADDRESS\" } }\n",
            "sinks: { a: { type: rabbitmq, url: amqp://h, exchange: \"ADDRESS\", queue: \"ADDRESS\" } }\n",
            "sinks: { a: { type: rabbitmq, url: amqp://h, queues: { \"ADDRESS\": x } } }\n",
            "sinks: { a: { type: rabbitmq, url: amqp://h, queues: { q: { arguments: { \"ADDRESS\": 1 } } } } }\n",
            "sinks: { a: { type: hook, pin: x, target: \"ADDRESS\", size: 8 } }\n",
            "sinks: { a: { type: terminal } }\n# ADDRESS\n\tx\n",
            "sinks: { a: { type: terminal, x: 1 } } # ADDRESS\n",
            "sinks: { a: { type: terminal } }\n\"ADDRESS\": 1\n\"ADDRESS\": 2\n",
        ] {
            let text = place.replace("ADDRESS", &address.replace("CANARY", CANARY));
            assert_silent(&text, &[]);
        }
        let value = address.replace("CANARY", CANARY);
        for variable in [
            "STREAMLL__SINKS__A__TYPE",
            "STREAMLL__SINKS__A__COLOR",
            "STREAMLL__SERVICE",
            "STREAMLL__NOTHING",
            "X",
        ] {
            let text = "extends: ~\nsinks: { a: { type: terminal, poison_after: \"${X:-3}\" } }\n";
            assert_silent(text, &[(variable, &value)]);
        }
    }
}

#[test]
fn a_password_without_an_address_around_it_shows_nowhere() {
    for url in [
        "CANARY",
        "\"${URL}\"",
        "\"${URL:-CANARY}\"",
        "[CANARY]",
        "redis//:CANARY@host",
        "redis:CANARY@host",
        "u:CANARY@host",
        "user@CANARY",
        "CANARY@host",
        "{ a: CANARY }",
    ] {
        for kind in ["redis", "rabbitmq", "hook"] {
            let text = format!("sinks:\n  a:\n    type: {kind}\n    url: {url}\n").replace("CANARY", CANARY);
            let said = assert_silent(&text, &[("URL", CANARY)]);
            assert!(
                kind == "hook" || url.contains('{') || said.contains("://user:password@host"),
                "{url}: {said}"
            );
        }
        let text =
            format!("sinks:\n  a: {{ type: redis, url: {url}, max_len: many }}\n").replace("CANARY", CANARY);
        assert_silent(&text, &[("URL", CANARY)]);
    }
    for key in
        ["password", "pasword", "api-key", "apiKey", "DB_PASSWORD", "auth", "secrt", "tokn", "credentails"]
    {
        assert_silent(&format!("sinks:\n  a: {{ type: terminal, {key}: {CANARY} }}\n"), &[]);
        assert_silent(
            &format!("sinks:\n  a:\n    type: redis\n    url: redis://h\n    {key}: {CANARY}\n"),
            &[],
        );
        assert_silent(
            &format!("sinks:\n  a: {{ type: hook, pin: x, {key}: {{ a: {CANARY} }}, size: x }}\n"),
            &[],
        );
    }
}

#[test]
fn a_url_from_a_variable_is_told_the_form_to_use() {
    for (kind, form) in
        [("redis", "redis://user:password@host:6379/0"), ("rabbitmq", "amqp://user:password@host:5672/vhost")]
    {
        for url in [
            "redis//:pw@host",
            "amqp//u:pw@host",
            "host:6379",
            "user:password@host",
            "http://user:password@host",
            "write",
        ] {
            let shown =
                shown(&format!("sinks:\n  a:\n    type: {kind}\n    url: ${{URL}}\n"), &[("URL", url)]);
            assert!(shown.contains(form), "{url}: {shown}");
        }
    }
    let shown = shown("alert_after: ${T}\nsinks: { a: { type: terminal } }\n", &[("T", "10")]);
    assert!(shown.contains("a duration needs a unit"), "{shown}");
}

#[test]
fn what_says_why_a_variable_is_needed_is_shown_as_it_stands() {
    let why = "the Redis of the dashboards, such as rediss://rag:<password>@redis:6379/0";
    let text = format!("sinks:\n  a:\n    type: redis\n    url: \"${{REDIS_URL:?{why}}}\"\n");
    let shown = shown(&text, &[]);
    assert_eq!(shown.matches(why).count(), shown.matches("rediss://").count(), "{shown}");
    assert!(shown.contains(&format!("${{REDIS_URL:?{why}}}")), "{shown}");
    assert_silent(&text.replace("<password>", CANARY), &[]);
}

#[test]
fn control_characters_of_a_topology_reach_nobody() {
    for sign in ["\\u009b31m", "\\u009d0;x", "\\e[31m", "\\u202e", "\\u0007", "\\u007f", "\\u2066"] {
        for place in [
            "\"SIGNX\": 1\nsinks: { a: { type: terminal } }\n",
            "service: \"SIGN/\"\nsinks: { a: { type: terminal } }\n",
            "sinks: { \"SIGN\": { type: \"SIGN\" } }\n",
            "sinks: { a: { type: terminal, \"SIGN\": 1, topics: [\"SIGN\", \"a..SIGN\"] } }\n",
            "tags: { \"SIGN\": \"SIGN\" }\nsinks: { a: { type: terminal } }\n",
            "dead_letter: \"SIGN\"\nsinks: { a: { type: terminal } }\n",
            "sinks: { a: { type: hook, pin: x, size: 8, target: \"SIGN\" } }\n",
        ] {
            let shown = shown(&place.replace("SIGN", sign), &[]);
            let acts = |c: char| (c.is_control() && c != '\n') || ('\u{202a}'..='\u{2069}').contains(&c);
            assert!(!shown.contains(acts), "{sign} in {place}: {shown:?}");
        }
    }
    // as they are, in a comment behind a mistake, in a variable, and in the name that is asked for
    for sign in ["\u{9b}31m", "\u{202e}"] {
        let text = format!("sinks: {{ a: {{ type: terminal, x: 1 }} }} # {sign}\n");
        let shown = shown(&text, &[("STREAMLL__X\u{9b}31m", "1")]);
        assert!(!shown.contains(['\u{9b}', '\u{202e}']), "{shown:?}");
        let error = super::load(folder(&[]).path(), sign, &[]).expect_err("no name").to_string();
        assert!(!error.contains(['\u{9b}', '\u{202e}']), "{error:?}");
    }
}

#[test]
fn what_a_kind_says_comes_with_everything_else() {
    let shown =
        shown("sinks:\n  a:\n    type: redis\n    url: http://h\n    max_len: many\n    colour: red\n", &[]);
    for says in ["must begin with `redis://`", "found the text `many`", "unknown key `colour`"] {
        assert!(shown.contains(says), "{says}: {shown}");
    }
}

#[test]
fn of_thousands_of_secrets_none_shows_and_none_takes_long() {
    let lines = |begin: &str| {
        (0..5_000).map(|n| format!("{begin}{n}: \"https://h/{CANARY}{n}\"\n")).collect::<String>()
    };
    let text = format!("sinks: {{ a: {{ type: terminal }} }}\n{}tags:\n{}", lines("x"), lines("  t"));
    let dir = folder(&[("env", &text)]);
    let error =
        Topology::load_with(dir.path(), "env", &kinds(), &LoadOptions::default()).expect_err("unknown keys");
    assert_eq!(error.problems.len(), 5_000);
    assert!(!error.to_string().contains(CANARY));
}
