//! What Redis does wrong, and what is done to it.

use super::*;

#[test]
fn it_appears_after_the_start() {
    let redis = Redis::start();
    redis.server.kill9();
    let outage = Outage::of(&[&redis]);
    outage.breaks("refused");
    redis.server.restart();
    outage.recovers();
    outage.ends(&NO_LOSS);
}

#[test]
fn it_is_killed_under_load() {
    let redis = Redis::start();
    let outage = Outage::of(&[&redis]);
    outage.flows();
    redis.server.kill9();
    outage.breaks("");
    outage.lasts(SECOND);
    redis.server.restart();
    outage.recovers();
    outage.ends(&ONE_LOSS);
}

#[test]
fn it_freezes() {
    let redis = Redis::start();
    let proxy = Proxy::to(redis.port());
    let outage = Outage::behind(proxy.port(), &redis, HASTY);
    outage.flows();
    let before = outage.beside_gets_in(2 * SECOND);
    redis.server.freeze();
    outage.breaks("");
    assert!(before > 100, "{before}");
    outage.beside_keeps_half(before, 2 * SECOND);
    outage.lasts(2 * SECOND);
    redis.server.thaw();
    outage.recovers();
    outage.ends(&losses(&proxy));
}

#[test]
fn the_network_swallows_everything() {
    super::the_network_swallows_everything(&Redis::start());
}

#[test]
fn the_network_resets_everything_again_and_again() {
    super::the_network_resets_everything_again_and_again(&Redis::start());
}

#[test]
fn the_network_cuts_inside_a_frame() {
    super::the_network_cuts_inside_a_frame(&Redis::start());
}

#[test]
fn the_network_is_slow() {
    super::the_network_is_slow(&Redis::start());
}

#[test]
fn it_is_out_of_memory() {
    let redis = Redis::start();
    let outage = Outage::of(&[&redis]);
    outage.flows();
    redis.cli("CONFIG SET maxmemory 1");
    outage.breaks("memory");
    outage.lasts(SECOND);
    redis.cli("CONFIG SET maxmemory 0");
    outage.recovers();
    outage.ends(&NO_LOSS);
}

#[test]
fn it_becomes_a_replica_for_a_while() {
    let redis = Redis::start();
    let outage = Outage::of(&[&redis]);
    outage.flows();
    redis.cli("REPLICAOF 127.0.0.1 1");
    outage.breaks("replica");
    outage.lasts(SECOND);
    redis.cli("REPLICAOF NO ONE");
    outage.recovers();
    outage.ends(&NO_LOSS);
}

#[test]
fn writing_is_paused() {
    let redis = Redis::start();
    let proxy = Proxy::to(redis.port());
    let outage = Outage::behind(proxy.port(), &redis, HASTY);
    outage.flows();
    redis.cli("CLIENT PAUSE 60000 WRITE");
    outage.breaks("");
    outage.lasts(SECOND);
    redis.cli("CLIENT UNPAUSE");
    outage.recovers();
    outage.ends(&losses(&proxy));
}

#[test]
fn it_kills_its_clients() {
    let redis = Redis::start();
    let outage = Outage::of(&[&redis]);
    outage.flows();
    for _ in 0..3 {
        redis.cli("CLIENT KILL TYPE normal");
        outage.flows();
    }
    outage.ends(&Expected { losses: 3, ..ONE_LOSS });
}

#[test]
fn it_forbids_to_write_for_a_while() {
    let redis = Redis::start();
    let outage = Outage::of(&[&redis]);
    outage.flows();
    redis.cli(&format!("ACL SETUSER {USER} -xadd"));
    outage.breaks("xadd");
    outage.lasts(SECOND);
    redis.cli(&format!("ACL SETUSER {USER} +xadd"));
    outage.recovers();
    outage.ends(&NO_LOSS);
}

#[test]
fn its_key_has_another_type_for_a_while() {
    let redis = Redis::start();
    let outage = Outage::of(&[&redis]);
    outage.flows();
    redis.cli("EVAL redis.call('RENAME','events','kept')redis.call('SET','events','x') 0");
    outage.breaks("string");
    outage.lasts(SECOND);
    redis.cli("EVAL redis.call('DEL','events')redis.call('RENAME','kept','events') 0");
    outage.recovers();
    outage.ends(&NO_LOSS);
}

/// Control characters are encoded in six bytes each: more than a Redis takes whose limit is 1 MiB.
fn odd(n: u64) -> Option<Odd> {
    match n % 100 {
        // It is as good as any other here.
        25 => Some(Odd::long_name()),
        50 => Some(Odd::too_long("\u{1}".repeat(200_000))),
        _ => None,
    }
}

#[test]
fn one_event_of_a_hundred_is_too_large_for_it() {
    let redis = Redis::start();
    redis.cli("CONFIG SET proto-max-bulk-len 1mb");
    let outage = Outage::poisoned(&redis, odd);
    let since = outage.since();
    (0..6).for_each(|_| outage.flows());
    outage.never_broke(&since);
    assert!(outage.ends(&NO_LOSS).len() >= 4);
}

#[test]
fn a_wrong_password_loses_nothing_and_fills_no_log() {
    alone("faults::redis::a_wrong_password_loses_nothing_and_fills_no_log", || {
        let redis = Redis::start();
        let password = |change: &str| redis.cli(&format!("ACL SETUSER {USER} {change}"));
        password(&format!("<{PASSWORD} >other"));
        super::a_wrong_password(&redis, || {
            password(&format!(">{PASSWORD}"));
        });
    });
}

#[test]
fn nothing_is_held_after_outages() {
    alone("faults::redis::nothing_is_held_after_outages", || {
        it_is_healthy(&Redis::start());
        let before = Holdings::now();
        it_is_killed_under_load();
        before.are_back();
        it_freezes();
        the_network_resets_everything_again_and_again();
        before.are_back();
    });
}
