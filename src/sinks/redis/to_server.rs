//! A batch to one server: in one transaction or, pipelined, in several, of which two are under way.

use std::ops::Range;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use redis::{Pipeline, RedisError, Value};
use streamll_actors::sink::Deliveries;

use super::advice::topic;
use super::read_replies::{Concern, Read, Refused, Undone, conclude};
use super::settings::Ordering;
use super::transaction::{Verdict, read};
use super::writer::Writer;
use crate::brokers::redis::connect::Link;
use crate::brokers::redis::error::{Failure, wrong_type};

/// Events in one transaction where two are under way.
const PIECE: usize = 256;

/// How far a batch has come.
#[derive(Default)]
struct Progress {
    /// The first event that is not sent.
    next: usize,
    failed: Vec<Undone>,
    /// A key barred a transaction. Its other events are sent again, before anything behind them.
    is_barred: bool,
}

impl Writer {
    /// Sends a batch. Also returns the connection, if it is good for another batch.
    pub(super) async fn send_to_server(
        &mut self,
        mut link: Link,
        batch: &mut Deliveries,
    ) -> (Option<Link>, Result<(), Undone>) {
        if let Err(failure) = self.set_expiry(&link).await {
            let link = Some(link).filter(|_| failure.keep);
            return (link, Err(Undone::of(unsent(batch, failure))));
        }
        let mut progress = self.send_pieces(&link, batch).await;
        if progress.failed.is_empty()
            && let Err(failure) = self.set_expiry(&link).await
        {
            // The events have arrived: none of them may be sent again for this.
            progress.failed.push(Undone::of(failure));
        }
        let Progress { next, mut failed, .. } = progress;
        if failed.first().is_some_and(|first| first.unwritten) {
            return (None, Err(failed.swap_remove(0)));
        }
        (next..batch.len()).for_each(|i| batch.unsent(i));
        // The first is the cause, the next its consequence.
        let Some((mut undone, keep)) = conclude(batch, failed) else {
            return (Some(link), Ok(()));
        };
        if let Some(key) = &undone.wrong_type
            && let Some(failure) = name_the_type(&mut link, key).await
        {
            undone.failure = failure;
        }
        (Some(link).filter(|_| keep), Err(undone))
    }

    /// Sends transactions until all of the batch is sent, or one has failed.
    async fn send_pieces(&mut self, link: &Link, batch: &mut Deliveries) -> Progress {
        let size = match self.settings.ordering {
            Ordering::Strict => batch.len(),
            Ordering::Pipelined => PIECE,
        };
        let (mut progress, mut under_way) = (Progress::default(), FuturesOrdered::new());
        loop {
            while progress.may_go_on(batch) && under_way.len() < 2 {
                let range = progress.next..batch.len().min(progress.next + size);
                progress.next = range.end;
                let mut commands = Pipeline::with_capacity(range.len() + 2);
                self.settings.entry.pack(&mut commands, batch.as_slice()[range.clone()].iter());
                let (mut connection, before) = (link.connection(), link.wire().written());
                under_way.push_back(async move {
                    let replies = connection.send_packed_commands(&commands, 0, commands.len()).await;
                    (range, before, replies)
                });
            }
            let Some((range, before, replies)) = under_way.next().await else { return progress };
            match replies {
                Ok(replies) => self.read_piece(link, range, &replies, batch, &mut progress).await,
                Err(error) => progress.failed.push(self.lost_piece(link, range, &error, before)),
            }
        }
    }

    async fn read_piece(
        &mut self,
        link: &Link,
        range: Range<usize>,
        replies: &[Value],
        batch: &mut Deliveries,
        progress: &mut Progress,
    ) {
        let (events, verdict): (Vec<_>, _) = (range.collect(), read(replies));
        progress.is_barred |= matches!(verdict, Verdict::Barred(_));
        let concern = match &verdict {
            Verdict::Partly(refused) | Verdict::Barred(refused) => {
                let refused = Refused { transactions: &[(&events, refused)], has_arrived: false };
                self.concern(refused, batch, Some(link.connection())).await
            }
            _ => Concern::AllEvents,
        };
        let Read { undone, .. } = self.read_replies(events, verdict, batch, concern);
        progress.failed.extend(undone);
    }

    fn lost_piece(&self, link: &Link, range: Range<usize>, error: &RedisError, before: u64) -> Undone {
        let is_first = range.start == 0;
        let undone = self.lost(range.collect(), error, link.wire(), before);
        Undone { unwritten: undone.unwritten && is_first, ..undone }
    }
}

impl Progress {
    fn may_go_on(&self, batch: &Deliveries) -> bool {
        self.failed.is_empty() && !self.is_barred && self.next < batch.len()
    }
}

/// Marks all events as never sent, for this failure.
pub(super) fn unsent(batch: &mut Deliveries, failure: Failure) -> Failure {
    (0..batch.len()).for_each(|i| batch.unsent(i));
    failure
}

/// What a key holds that should be a stream.
async fn name_the_type(link: &mut Link, key: &str) -> Option<Failure> {
    let mut ask = Pipeline::new();
    ask.cmd("TYPE").arg(key);
    match link.ask(&ask).await.ok()?.first()? {
        Value::SimpleString(kind) => Some(wrong_type(Some(kind), topic(key))),
        _ => None,
    }
}
