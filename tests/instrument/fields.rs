//! `fields(…)`: ids and tags of everything below.

use serde::Serialize;
use streamll::{Event, emit, instrument, step};

use super::{record, record_async};

#[derive(Serialize)]
struct User {
    id: u64,
    tenant: String,
}

struct Chat {
    region: &'static str,
}

#[instrument(inputs = false, fields(conversation_id = format!("conv_{turn}"), user = user.id, tags.tenant = user.tenant))]
fn answer(user: &User, turn: u32) -> Vec<u64> {
    below();
    emit(Event::new(&step("Tool"), "progress"));
    emit(Event::token(&step("Tool"), "answer", "forty", 0));
    vec![user.id]
}

#[instrument]
fn below() {}

impl Chat {
    #[instrument(fields(tags.region = self.region, kind = r#type + 1))]
    async fn ask(&self, question: &str, r#type: u8) {
        tokio::task::yield_now().await;
        below();
    }
}

#[test]
fn every_event_of_the_call_and_below_carries_them() {
    let user = User { id: 7, tenant: "acme".into() };
    let (_, events) = record(|| {
        answer(&user, 3);
        below();
    });
    let (carrying, after) = events.split_at(events.len() - 2);
    assert_eq!(carrying.len(), 6);
    for event in carrying {
        assert_eq!(event["data"]["conversation_id"], "conv_3", "{event}");
        assert_eq!(event["data"]["user"], 7, "{event}");
        assert_eq!(event["tags"]["tenant"], "acme", "{event}");
    }
    for event in after {
        assert_eq!(event["data"]["user"], serde_json::Value::Null, "{event}");
        assert_eq!(event["tags"]["tenant"], serde_json::Value::Null, "{event}");
    }
}

#[test]
fn expressions_see_self_and_the_arguments_of_an_async_method() {
    let chat = Chat { region: "eu" };
    let ((), events) = record_async(chat.ask("why", 3));
    assert_eq!(events.len(), 4);
    for event in &events {
        assert_eq!(event["tags"]["region"], "eu", "{event}");
        assert_eq!(event["data"]["kind"], 4, "{event}");
    }
}
