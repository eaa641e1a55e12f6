//! No name can forge a segment of a key, make it too long, or share it with another name.

use std::collections::HashMap;

use streamll::{Event, TopicPattern, Topology};

use super::{Kept, end};

/// Names as users, models and attackers make them.
fn hostile() -> Vec<String> {
    let mut names: Vec<String> = [
        "a.*.#",
        "#",
        "*",
        ".",
        "..",
        ".safe",
        "safe.",
        "safe.start",
        "x.safe",
        "safe.#",
        "safe\0",
        "\0",
        "safe\n",
        "new\nline",
        "tab\t",
        "🦀",
        "safe🦀",
        "👩‍👩‍👧‍👦",
        "%",
        "%2E",
        "safe%2E",
        "safe ",
        " safe",
        "\u{7f}",
        "\u{202e}efas",
        "{module_name}",
        "{{",
        "日本語",
        "\r\n",
    ]
    .map(str::to_owned)
    .into();
    names.extend(["M", "é", "🦀", ".", "a."].map(|piece| piece.repeat(300)));
    names.push("A".repeat(1 << 16));
    names
}

/// What every key keeps to, whoever made up the names in it.
#[track_caller]
fn assert_safe(key: &str, segments: usize) {
    assert!(key.len() <= 255, "{} bytes: {key}", key.len());
    assert_eq!(key.split('.').count(), segments, "{key}");
    assert!(key.split('.').all(|segment| !segment.is_empty()), "{key}");
    assert!(!key.contains(['*', '#', ' ']) && !key.contains(char::is_control), "{key:?}");
}

#[test]
fn no_module_or_event_name_reaches_the_subscriber_of_another() {
    let (all, safe) = (Kept::default(), Kept::default());
    let mut only_safe = safe.spec();
    only_safe.topics = Some(vec![TopicPattern::parse("ai.safe.*").unwrap()]);
    let handle =
        Topology::builder("rag-api").sink("all", all.spec()).sink("safe", only_safe).start().unwrap();
    for name in hostile() {
        handle.emit(Event::new(&streamll::step(name.as_str()), "start").with("name", name.as_str()));
        handle.emit(Event::new(&streamll::step("Other"), name.as_str()).with("name", name.as_str()));
        handle.emit(Event::new(&streamll::step(name.as_str()), name.as_str()).with("name", name.as_str()));
    }
    handle.emit(Event::new(&streamll::step("Safe"), "start"));
    handle.emit(Event::new(&streamll::step("Safe"), "a.*.#"));
    end(&handle);
    assert_eq!(all.arrivals().len(), 3 * hostile().len() + 2);
    for arrival in all.arrivals() {
        assert_safe(&arrival.key, 3);
        assert!(arrival.key.starts_with("ai."), "{}", arrival.key);
        assert!(!arrival.text.contains(['\n', '\0']), "one event is one line: {:?}", arrival.text);
    }
    // Its name is shown as it was given, whatever its key is.
    let names: Vec<_> = all.arrivals().iter().step_by(3).map(|a| a.json["data"]["name"].clone()).collect();
    assert_eq!(names[..hostile().len()], hostile());
    let modules: Vec<_> = safe.arrivals().iter().map(|a| a.json["module_name"].clone()).collect();
    assert_eq!(modules, ["Safe", "Safe"]);
}

#[test]
fn different_users_never_share_a_key() {
    let kept = Kept::default();
    let handle = Topology::builder("rag-api")
        .routing_key("ai.{data.user}.{event_type}.{tags.tenant:-none}")
        .sink("kept", kept.spec())
        .start()
        .unwrap();
    let mut users = hostile();
    users.extend(
        ["user.1", "user_1", "User_1", "user 1", "user%2E1", "user%2e1", "user\u{a0}1"].map(str::to_owned),
    );
    users.extend([format!("{}1", "u".repeat(300)), format!("{}2", "u".repeat(300))]);
    for user in &users {
        let step = streamll::step("Chat").context(&streamll::context! { user = user });
        handle.emit(Event::new(&step, "start"));
        handle.emit(Event::token(&step, "answer", "x", 0));
    }
    end(&handle);
    let mut keys: HashMap<String, String> = HashMap::new();
    for arrival in kept.arrivals() {
        assert_safe(&arrival.key, 4);
        let user = arrival.json["data"]["user"].as_str().unwrap().to_owned();
        if let Some(other) = keys.insert(arrival.key.clone(), user.clone()) {
            assert_eq!(other, user, "both are {}", arrival.key);
        }
    }
    assert_eq!(keys.len(), 2 * users.len());
    assert!(keys.contains_key("ai.user_1.start.none"));
}

#[test]
fn a_key_with_every_placeholder_overlong_is_still_one_key() {
    let kept = Kept::default();
    let template =
        "{module_name}.{event_type}.{operation}.{method_name}.{execution_id}.{tags.x}.{data.x}.{service}";
    let handle =
        Topology::builder("s".repeat(128)).routing_key(template).sink("kept", kept.spec()).start().unwrap();
    for end in ["1", "2"] {
        let long = "x".repeat(300) + end;
        let ids = streamll::context! { x = long, tags.x = long };
        let step = streamll::step(long.as_str()).operation(long.as_str()).method(long.as_str()).context(&ids);
        handle.emit(Event::new(&step, long.as_str()));
    }
    end(&handle);
    let keys: Vec<_> = kept.arrivals().into_iter().map(|arrival| arrival.key).collect();
    keys.iter().for_each(|key| assert_safe(key, 8));
    assert_ne!(keys[0], keys[1]);
}
