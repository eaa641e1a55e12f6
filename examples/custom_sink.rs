//! A sink of your own in under 25 lines, which YAML then names like a built-in one.

use std::net::UdpSocket;
use std::time::Duration;

use serde::Deserialize;
use streamll::{Deliveries, DeliveryError, Event, Registry, Sink, SinkContext, Topology};

#[derive(Deserialize)]
struct UdpConfig {
    address: String,
}

/// Sends every event as one datagram.
struct Udp {
    config: UdpConfig,
    socket: Option<UdpSocket>,
}

impl Sink for Udp {
    async fn open(&mut self, _: &SinkContext) -> Result<(), DeliveryError> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect(&self.config.address)?;
        self.socket = Some(socket);
        Ok(())
    }

    async fn deliver(&mut self, batch: &mut Deliveries) -> Result<(), DeliveryError> {
        let socket = self.socket.as_ref().ok_or_else(|| DeliveryError::unavailable("not open"))?;
        for i in 0..batch.len() {
            socket.send(batch.as_slice()[i].event.json())?; // an error: the rest is tried again, in order
            batch.delivered(i);
        }
        Ok(())
    }
}

const TOPOLOGY: &str = "
service: rag-api
sinks:
  dashboard:
    type: udp
    address: ${DASHBOARD}
    except: ['ai.*.token']
";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dashboard = UdpSocket::bind("127.0.0.1:0")?;
    dashboard.set_read_timeout(Some(Duration::from_secs(5)))?;

    let kinds = Registry::default().sink("udp", |config: UdpConfig| Udp { config, socket: None });
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("development.yaml"), TOPOLOGY)?;
    let options = streamll::topology::LoadOptions {
        vars: [("DASHBOARD".to_owned(), dashboard.local_addr()?.to_string())].into(),
        ..Default::default()
    };
    let handle = Topology::load_with(folder.path(), "development", &kinds, &options)?.start()?;

    let step = streamll::step("RagPipeline");
    for kind in ["start", "token", "docs_found", "end"] {
        handle.emit(Event::new(&step, kind));
    }
    let mut datagram = [0; 65_507];
    for _ in 0..3 {
        let length = dashboard.recv(&mut datagram)?;
        let event: serde_json::Value = serde_json::from_slice(&datagram[..length])?;
        println!("the dashboard got {}", event["topic"]);
    }
    let ended = handle.shutdown_blocking(Duration::from_secs(5));
    println!("everything arrived: {}", ended.complete);
    Ok(())
}
