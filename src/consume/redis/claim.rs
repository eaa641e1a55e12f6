//! Taking over what consumers left in hand that are gone.

use std::collections::HashMap;

use streamll_actors::sink::DeliveryError;

use super::reading::SUSPECT;
use super::replies::{Claimed, deliveries};
use super::server::BATCH;
use super::source::RedisSource;
use crate::consume::entry::{Entry, Ticket};
use crate::consume::window::Window;

impl RedisSource {
    /// Takes over what consumers have in hand that are gone, if it is time and there is room.
    pub(super) async fn claim(&mut self, window: &Window) -> Result<(), DeliveryError> {
        let mut from = Ticket::START;
        while self.takeover.is_under_way() {
            let in_hand = window.len() + self.takeover.suspects.len() + self.reading.ready_len();
            let room = self.plan.prefetch.saturating_sub(in_hand);
            if room == 0 {
                // Nothing is read until there is some.
                return Ok(());
            }
            let most = room.min(self.server.most);
            let claim = self.server.place.claim(self.plan.claim_after, from, most);
            let mut replies = self.server.ask_well(&claim).await?;
            let Some(claimed) = replies.pop().and_then(Claimed::of) else { break };
            self.count_lost(&claimed.gone, window);
            let mut taken = claimed.entries;
            taken.retain(|entry| !window.contains(entry.ticket));
            if let Some(first) = taken.first() {
                tracing::info!(entries = taken.len(), "took over what another consumer had in hand");
                let look = self.server.place.in_hand(first.ticket, BATCH);
                let counts = self.server.ask(&look).await?;
                self.take_over(taken, &deliveries(counts.first())).await?;
            }
            from = claimed.next;
            if from == Ticket::START {
                break;
            }
        }
        self.takeover.pause();
        Ok(())
    }

    /// Counts entries that are gone. Those that this consumer has in hand are handled all the same.
    fn count_lost(&self, gone: &[Ticket], window: &Window) {
        match gone.iter().filter(|ticket| !window.contains(**ticket)).count() {
            0 => {}
            lost => {
                self.shared.gap(lost as u64, "entries were trimmed while another consumer had them in hand");
            }
        }
    }

    /// Sorts out entries that may have ended the consumer that had them: they were delivered several times, and never
    /// handled.
    async fn take_over(
        &mut self,
        taken: Vec<Entry>,
        counts: &HashMap<Ticket, u64>,
    ) -> Result<(), DeliveryError> {
        let times = |entry: &Entry| counts.get(&entry.ticket).copied().unwrap_or(0);
        let (mut suspects, others): (Vec<_>, Vec<_>) =
            taken.into_iter().partition(|entry| times(entry) > SUSPECT);
        self.reading.push(others);
        if suspects.is_empty() {
            return Ok(());
        }
        for suspect in &mut suspects {
            suspect.deliveries = times(suspect) - 1;
        }
        // To take over counts as a delivery. Until its turn comes, no suspect counts for more than one, so that it is not
        // judged by what its neighbours do.
        let tickets: Vec<_> = suspects.iter().map(|suspect| suspect.ticket).collect();
        let count = self.server.place.keep(&tickets, Some(SUSPECT));
        self.server.ask_well(&count).await?;
        for suspect in suspects {
            self.takeover.suspects.entry(suspect.ticket).or_insert(suspect);
        }
        Ok(())
    }
}
