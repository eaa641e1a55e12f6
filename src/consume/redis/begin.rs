//! Where reading begins after each connection.

use redis::Value;
use streamll_actors::sink::DeliveryError;

use super::reading::Phase;
use super::replies::{Standing, deliveries, id, is_missing, is_no_permission};
use super::server::BATCH;
use super::source::{LAST, RedisSource};
use crate::brokers::redis::error::Failure;
use crate::consume::entry::Ticket;
use crate::consume::settings::Start;
use crate::consume::window::Window;

impl RedisSource {
    pub(super) async fn begin(&mut self, window: &mut Window) -> Result<(), DeliveryError> {
        if self.is_group() { self.begin_group(window).await } else { self.begin_reader(window).await }
    }

    /// Makes the group if it is missing, and finds what this consumer has in hand.
    async fn begin_group(&mut self, window: &Window) -> Result<(), DeliveryError> {
        let from = match &self.plan.start {
            _ if self.has_begun => self.group_begins_again().await?,
            Start::Begin => "0".to_owned(),
            Start::Now => "$".to_owned(),
            Start::After(id) => id.clone(),
        };
        let make = self.server.place.make_group(&from, self.plan.missing_stream);
        let made = self.server.ask(&make).await?;
        match made.first() {
            Some(Value::ServerError(error)) if error.code() == "BUSYGROUP" => {}
            Some(Value::ServerError(error))
                if error.details().is_some_and(|said| said.contains("requires the key to exist")) =>
            {
                let key = &self.server.place.key;
                let why = format!("there is no stream `{key}`: is that its name? It is looked for again");
                return Err(Failure::misconfigured(why).at(self.server.shown()));
            }
            _ => self.server.check(&made)?,
        }
        self.takeover.reset();
        self.find_own(window).await
    }

    /// Where a group continues that was there before and is gone: after what it was given, unless the stream is another one.
    async fn group_begins_again(&mut self) -> Result<String, DeliveryError> {
        let look = self.server.place.look();
        let look = self.server.ask(&look).await?;
        let last = Standing::of(&look, None).last;
        let delivered = self.look.standing.delivered.filter(|delivered| last >= Some(*delivered));
        Ok(delivered.map_or("0".to_owned(), |delivered| delivered.to_string()))
    }

    /// Finds the first entry that this consumer has in hand at its server and not here, and how often such entries were
    /// delivered. To read one of them again counts as a delivery.
    async fn find_own(&mut self, window: &Window) -> Result<(), DeliveryError> {
        let mut after = Ticket::START;
        self.reading.phase = Phase::New;
        loop {
            let look = self.server.place.in_hand(after, BATCH);
            let in_hand = self.server.ask_well(&look).await?;
            let mut in_hand: Vec<_> = deliveries(in_hand.first()).into_iter().collect();
            in_hand.retain(|(ticket, _)| *ticket > after);
            in_hand.sort_unstable();
            let known = in_hand.iter().take_while(|(ticket, _)| window.contains(*ticket)).count();
            if let Some((last, _)) = in_hand[..known].last() {
                after = *last;
            }
            let others = in_hand.iter().filter(|(ticket, _)| !window.contains(*ticket));
            self.reading.most_deliveries = others.map(|(_, times)| *times).max().unwrap_or(0);
            if known < in_hand.len() {
                self.reading.phase = Phase::Pending(after);
            }
            if known < in_hand.len() || in_hand.is_empty() {
                return Ok(());
            }
        }
    }

    /// Finds the place of a reader without a group.
    async fn begin_reader(&mut self, window: &mut Window) -> Result<(), DeliveryError> {
        let standing = self.look_at_stream().await?;
        self.place_cursor(standing.as_ref(), window)?;
        // Later on, the status follows what is handled.
        if !self.has_begun && self.plan.start != Start::Begin {
            let cursor = self.cursor.at.map(|at| at.to_string());
            self.shared.change(|status| status.cursor = cursor);
        }
        self.look.says_missing = false;
        // Entries that were read and are not taken yet are read again.
        self.reading.phase = Phase::New;
        Ok(())
    }

    /// How the stream stands. `None` if the consumer may not look, but may read.
    async fn look_at_stream(&mut self) -> Result<Option<Standing>, DeliveryError> {
        let look = self.server.place.look();
        let look = self.server.ask(&look).await?;
        if is_no_permission(look.first()) {
            // A read after everything shows only whether the consumer may read.
            let read = self.server.place.read_new(LAST, 1, None);
            let tried = self.server.ask(&read).await?;
            self.server.check(tried.get(tried.len().saturating_sub(1)..).unwrap_or_default())?;
            return Ok(None);
        }
        // A stream that is missing may still come.
        if !is_missing(look.first()) {
            self.server.check(&look)?;
        }
        Ok(Some(Standing::of(&look, None)))
    }

    fn place_cursor(
        &mut self,
        standing: Option<&Standing>,
        window: &mut Window,
    ) -> Result<(), DeliveryError> {
        let last = standing.and_then(|standing| standing.last).unwrap_or(Ticket::START);
        let is_known = standing.is_some();
        let (in_front, added) =
            standing.map_or((None, None), |standing| (standing.in_front(), standing.added()));
        let cursor = &mut self.cursor;
        if cursor.at.is_none() && self.plan.start == Start::Now && !is_known {
            return Err(Failure::misconfigured(format!(
                "only `+xinfo` tells where `{}` ends now: allow it, or set `start` to the beginning or to an id to begin after",
                self.server.place.key
            ))
            .at(self.server.shown()));
        }
        if cursor.until == Some(LAST) && is_known {
            cursor.until = Some(last);
        }
        match (cursor.at, &self.plan.start) {
            (None, Start::Begin) => (cursor.at, cursor.read) = (Some(Ticket::START), in_front),
            (None, Start::Now) => (cursor.at, cursor.read) = (Some(last), added),
            (None, Start::After(text)) => cursor.at = id(text.as_bytes()),
            (Some(at), _) if is_known && last < at => {
                // The server has lost entries: it began anew, or it is a replica that was late.
                (cursor.at, cursor.read) = (Some(last), added);
                self.shared.change(|status| status.cursor = Some(last.to_string()));
                window.forget_before(LAST);
            }
            _ => {}
        }
        Ok(())
    }
}
