//! What is gone before it was read, and what consumers left behind that are gone themselves.

use std::collections::HashMap;

use redis::Value;
use streamll_actors::sink::DeliveryError;

use super::replies::{deliveries, id, listed};
use super::{READ, RedisSource, WARY};
use crate::consume::source::{Entry, Ticket};
use crate::consume::window::Window;

impl RedisSource {
    /// Whether the last look found that entries are gone that nobody has read; told once for each.
    pub(super) fn tell_gap(&mut self) {
        let position = match self.place.group {
            Some(_) => self.standing.delivered,
            None => self.cursor,
        };
        let Some(position) = position else { return };
        let read = if self.place.group.is_some() { self.standing.read } else { self.read };
        let gone = self.standing.gone(position, read).filter(|(upto, _)| *upto > self.told);
        if let Some((upto, missed)) = gone {
            self.told = upto;
            if self.standing.begins_behind(position) {
                // Where it goes on now is counted from there.
                self.read = self.standing.in_front();
            }
            self.shared.gap(
                missed,
                &format!("the stream `{}` was trimmed before all of it was read", self.place.key),
            );
        }
    }

    /// Takes over what consumers have in hand that are gone, where it is time and there is room.
    pub(super) async fn claim(&mut self, window: &Window) -> Result<(), DeliveryError> {
        let mut from = Ticket::entry(0, 0);
        while self.is_claiming {
            let ready: usize = self.ready.iter().map(Vec::len).sum();
            let room = self.prefetch.saturating_sub(window.len() + self.suspects.len() + ready);
            if room == 0 {
                // Nothing is read until there is some.
                return Ok(());
            }
            let most = room.min(self.most);
            let mut replies = self.ask(&self.place.claim(self.claim_after, from, most)).await?;
            self.check(&replies)?;
            let Some(Value::Array(mut claimed)) = replies.pop() else { break };
            // The next place, the entries, and since Redis 7 the ids of those that are gone.
            let gone = if claimed.len() > 2 { claimed.pop() } else { None };
            if let Some(Value::Array(gone)) = gone {
                // What is in our own hand is handled all the same.
                let lost = |name: &Value| match name {
                    Value::BulkString(name) => id(name).is_some_and(|ticket| !window.contains(ticket)),
                    _ => false,
                };
                match gone.iter().filter(|name| lost(name)).count() {
                    0 => {}
                    lost => self
                        .shared
                        .gap(lost as u64, "entries were trimmed while another consumer had them in hand"),
                }
            }
            let mut taken = claimed.pop().map(listed).unwrap_or_default();
            taken.retain(|entry| !window.contains(entry.ticket));
            if let Some(first) = taken.first() {
                tracing::info!(entries = taken.len(), "took over what another consumer had in hand");
                let counts = self.ask(&self.place.in_hand(first.ticket, READ)).await?;
                self.take_over(taken, &deliveries(counts.first())).await?;
            }
            from = match claimed.pop() {
                Some(Value::BulkString(next)) => id(&next).unwrap_or(Ticket::entry(0, 0)),
                _ => Ticket::entry(0, 0),
            };
            if from == Ticket::entry(0, 0) {
                break;
            }
        }
        self.is_claiming = false;
        Ok(())
    }

    /// Sorts out what may have ended the consumer that had it: delivered several times, to no end.
    async fn take_over(
        &mut self,
        taken: Vec<Entry>,
        counts: &HashMap<Ticket, u64>,
    ) -> Result<(), DeliveryError> {
        let times = |entry: &Entry| counts.get(&entry.ticket).copied().unwrap_or(0);
        let (mut suspects, others): (Vec<_>, Vec<_>) =
            taken.into_iter().partition(|entry| times(entry) > WARY);
        if !others.is_empty() {
            self.ready.push_back(others);
        }
        if suspects.is_empty() {
            return Ok(());
        }
        for suspect in &mut suspects {
            suspect.deliveries = times(suspect) - 1;
        }
        // Taking over counts as delivering. Until its turn comes, none of them counts for more than a suspect, lest it be
        // judged by what its neighbours do.
        let tickets: Vec<_> = suspects.iter().map(|suspect| suspect.ticket).collect();
        let counted = self.ask(&self.place.keep(&tickets, Some(WARY))).await?;
        self.check(&counted)?;
        for suspect in suspects {
            self.suspects.entry(suspect.ticket).or_insert(suspect);
        }
        Ok(())
    }
}
