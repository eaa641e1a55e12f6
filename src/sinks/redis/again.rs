//! Looks at a server again while it is connected: what will hurt may have been set since.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tracing::warn;

use super::look::{questions, read};
use super::sink::{Reach, RedisSink};
use crate::brokers::redis::cluster::several;
use crate::brokers::redis::connect::Link;
use streamll_actors::sink::SinkContext;

/// Between two looks.
pub(super) const LOOK: Duration = Duration::from_secs(60);
/// How long one may take.
const ANSWER: Duration = Duration::from_secs(1);

impl RedisSink {
    /// Looks again, where there is a connection; what cannot be known is as it was found before.
    pub(super) async fn look_again(&mut self) {
        self.looked_at = Instant::now();
        let entry = &self.settings.entry;
        let (key, expires) = (entry.keys.one(), entry.expire.is_some());
        let looked = async {
            Some(match self.reach.as_mut()? {
                Reach::Server(link) => look(link, key, expires).await?,
                Reach::Cluster(cluster) => {
                    let mut found = Vec::new();
                    for (node, link) in cluster.links() {
                        let findings = look(link, None, expires).await?;
                        found.extend(findings.iter().map(|finding| format!("node {node}: {finding}")));
                    }
                    found
                }
            })
        };
        if let Ok(Some(findings)) = timeout(ANSWER, looked).await {
            self.tell(findings);
        }
    }

    /// Publishes what a look found, and logs what is new.
    pub(super) fn tell(&mut self, findings: Vec<String>) {
        let name = self.ctx.as_ref().map_or("", SinkContext::name);
        for finding in findings.iter().filter(|finding| !self.told.contains(finding)) {
            warn!(sink = %name, server = %several(&self.settings.addresses), "{finding}");
        }
        self.told.clone_from(&findings);
        if let Some(ctx) = &self.ctx {
            ctx.warnings(findings);
        }
    }
}

async fn look(link: &mut Link, key: Option<&str>, expires: bool) -> Option<Vec<String>> {
    let answers = link.ask(&questions(key, expires)).await.ok()?;
    read(&answers, key, expires).ok().map(|look| look.findings)
}
