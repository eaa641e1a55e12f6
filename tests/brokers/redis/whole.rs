//! The sink in a whole topology: what an operator orders.

use streamll::topology::IntoSink as _;

use crate::orders;
use crate::proxy::Proxy;

use super::*;

#[test]
fn closed_by_hand_it_is_no_storm() {
    let (port, connections) = orders::ends_every_connection();
    let spec = sinks::redis(format!("redis://127.0.0.1:{port}")).into_sink("live");
    orders::closed_by_hand_it_is_no_storm(spec, &connections);
}

#[test]
fn while_open_events_are_shed_where_that_is_wanted() {
    let server = RedisServer::start();
    let proxy = Proxy::to(server.port());
    let spec = sinks::redis(format!("redis://127.0.0.1:{}", proxy.port())).into_sink("live");
    orders::while_open_events_are_shed(spec, &proxy, || {
        let entries = entries(&server, "ai_events");
        entries.iter().map(|fields| serde_json::from_str(&fields[0].1).unwrap()).collect()
    });
}
