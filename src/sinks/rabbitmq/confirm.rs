//! What was sent and whose outcome was not read yet: confirms under way, and answers that nobody has asked for so far.
//!
//! The client hands a message that came back to whichever confirm it completes next. So a return counts for the message
//! that it names, and outcomes are read only once nothing is under way any more: by then every return has been seen.
//! This outlives a delivery that failed while its connection goes on: an event that is handed over again is not sent
//! again, but waited for.

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use lapin::{Confirmation, ErrorKind};
use streamll_actors::event::{Delivery, Event, EventId};
use tokio::time::Instant;

use crate::brokers::rabbitmq::error::is_vague;

/// Most answers to keep that nobody asks for: their events may have been shed.
const KEPT: usize = 1 << 16;

/// A message under way.
pub(super) type Publish = Pin<Box<dyn Future<Output = Answer>>>;

/// How sending a message ended.
pub(super) enum Answer {
    Acked(Option<Returned>),
    Nacked(Option<Returned>),
    /// The message never left.
    Unsent(lapin::Error),
    /// The message left, and the channel ended before its confirm.
    Lost(lapin::Error),
}

/// The id and the key of a message that came back.
pub(super) type Returned = (String, String);

impl From<Confirmation> for Answer {
    fn from(confirmation: Confirmation) -> Answer {
        let named = |message: lapin::message::BasicReturnMessage| {
            let id = message.properties.message_id().as_ref().map(ToString::to_string);
            (id.unwrap_or_default(), message.routing_key.to_string())
        };
        match confirmation {
            Confirmation::Ack(returned) => Answer::Acked(returned.map(named)),
            Confirmation::Nack(returned) => Answer::Nacked(returned.map(named)),
            Confirmation::NotRequested => Answer::Acked(None),
        }
    }
}

/// What is known of a message.
enum State {
    Flying(Publish),
    /// `carried` the return of a message, perhaps another.
    Acked {
        carried: bool,
    },
    Nacked,
    Returned,
    Unsent,
    Lost,
}

/// What a message came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Delivered,
    /// No queue took it.
    Returned,
    /// A queue refused it.
    Nacked,
    Unsent,
    /// The message may have arrived.
    Unknown,
}

struct Sent {
    event: Event,
    key: Box<str>,
    state: State,
    is_read: bool,
}

/// How a channel stands when nothing is under way on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChannelEnd {
    Open,
    /// It failed, and a return may have ended with it.
    Cut,
}

/// Everything that was sent and whose outcome was not read.
#[derive(Default)]
pub(super) struct Outstanding {
    sent: VecDeque<Sent>,
    /// Nothing before this is flying.
    first: usize,
    flying: usize,
    /// Messages that came back.
    returned: HashSet<Returned>,
    /// Why sending failed, and whether anything was under way.
    failure: Option<lapin::Error>,
    /// Since when no answer came to what is under way.
    quiet_since: Option<Instant>,
}

impl Outstanding {
    pub(super) fn flying(&self) -> usize {
        self.flying
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    pub(super) fn take_failure(&mut self) -> Option<lapin::Error> {
        self.failure.take()
    }

    pub(super) fn quiet_since(&self) -> Option<Instant> {
        self.quiet_since
    }

    /// Which of these events were sent before: their numbers here. Events are compared as a whole, because
    /// several may have one id.
    pub(super) fn claim(
        &self,
        events: &[Delivery],
        key: impl Fn(&Delivery) -> Box<str>,
    ) -> Vec<Option<usize>> {
        if self.sent.is_empty() {
            return Vec::new();
        }
        let mut known: HashMap<&EventId, VecDeque<usize>> = HashMap::new();
        for (number, sent) in self.sent.iter().enumerate() {
            known.entry(sent.event.id()).or_default().push_back(number);
        }
        let claim = |delivery: &Delivery| {
            let numbers = known.get_mut(delivery.event.id())?;
            let is_it = |number: &usize| {
                self.sent.get(*number).is_some_and(|sent| {
                    sent.key == key(delivery) && sent.event.json() == delivery.event.json()
                })
            };
            let at = numbers.iter().position(is_it)?;
            numbers.remove(at)
        };
        events.iter().map(claim).collect()
    }

    /// Takes in a message and hands it to the client. Returns its number.
    pub(super) fn send(&mut self, event: Event, key: Box<str>, mut publish: Publish) -> usize {
        if self.flying == 0 {
            self.quiet_since = Some(Instant::now());
        }
        // Waiting looks at the oldest; a wake for each message that was written would only cost.
        let polled = publish.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        self.sent.push_back(Sent { event, key, state: State::Flying(publish), is_read: false });
        self.flying += 1;
        let number = self.sent.len() - 1;
        if let Poll::Ready(answer) = polled {
            self.answer(number, answer);
        }
        number
    }

    /// Ready once at most so many are under way, or one has failed.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<()> {
        while self.flying > most && self.failure.is_none() {
            match self.sent.get_mut(self.first).map(|sent| &mut sent.state) {
                Some(State::Flying(publish)) => match publish.as_mut().poll(cx) {
                    Poll::Ready(answer) => self.answer(self.first, answer),
                    Poll::Pending => return Poll::Pending,
                },
                Some(_) => self.first += 1,
                None => break,
            }
        }
        Poll::Ready(())
    }

    /// Looks at everything under way, whatever its place.
    pub(super) fn sweep(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        for number in self.first..self.sent.len() {
            if let Some(State::Flying(publish)) = self.sent.get_mut(number).map(|sent| &mut sent.state)
                && let Poll::Ready(answer) = publish.as_mut().poll(&mut cx)
            {
                self.answer(number, answer);
            }
        }
    }

    fn answer(&mut self, number: usize, answer: Answer) {
        let state = match answer {
            Answer::Nacked(returned) => {
                self.returned.extend(returned);
                State::Nacked
            }
            Answer::Acked(returned) => {
                let carried = returned.is_some();
                self.returned.extend(returned);
                State::Acked { carried }
            }
            Answer::Unsent(error) => {
                self.fail(error);
                State::Unsent
            }
            Answer::Lost(error) => {
                self.fail(error);
                State::Lost
            }
        };
        if let Some(sent) = self.sent.get_mut(number) {
            sent.state = state;
        }
        self.flying -= 1;
        self.quiet_since = (self.flying > 0).then(Instant::now);
    }

    /// Keeps the error that says most.
    fn fail(&mut self, error: lapin::Error) {
        let says = |error: &lapin::Error| match error.kind() {
            ErrorKind::ProtocolError(_) if !is_vague(error) => 2,
            _ => u8::from(!is_vague(error)),
        };
        if self.failure.as_ref().is_none_or(|known| says(known) < says(&error)) {
            self.failure = Some(error);
        }
    }

    /// Once nothing is under way: says which messages came back.
    pub(super) fn conclude(&mut self) {
        self.conclude_at(ChannelEnd::Open);
    }

    fn conclude_at(&mut self, end: ChannelEnd) {
        for sent in &mut self.sent {
            let State::Acked { carried } = sent.state else { continue };
            let is_back = !self.returned.is_empty()
                && self.returned.contains(&(sent.event.id().to_string(), sent.key.to_string()));
            sent.state = match carried {
                _ if is_back => State::Returned,
                true if end == ChannelEnd::Cut => State::Lost,
                _ => State::Acked { carried: false },
            };
        }
        self.returned.clear();
    }

    /// Whether others than these were lost.
    pub(super) fn has_lost_others(&self, these: &[(usize, usize)]) -> bool {
        let these: HashSet<usize> = these.iter().map(|(_, number)| *number).collect();
        self.sent
            .iter()
            .enumerate()
            .any(|(number, sent)| matches!(sent.state, State::Lost) && !these.contains(&number))
    }

    /// What became of a message; it is forgotten with the next [`forget_read`](Self::forget_read).
    pub(super) fn take_outcome(&mut self, number: usize) -> Outcome {
        let Some(sent) = self.sent.get_mut(number) else { return Outcome::Unknown };
        sent.is_read = true;
        match sent.state {
            State::Acked { .. } => Outcome::Delivered,
            State::Returned => Outcome::Returned,
            State::Nacked => Outcome::Nacked,
            State::Unsent => Outcome::Unsent,
            State::Flying(_) | State::Lost => Outcome::Unknown,
        }
    }

    /// Forgets messages whose outcome was read; numbers are no longer valid.
    pub(super) fn forget_read(&mut self) {
        self.sent.retain(|sent| !sent.is_read);
        if self.sent.len() > KEPT {
            self.sent.retain(|sent| matches!(sent.state, State::Flying(_)));
        }
        self.first = 0;
    }

    /// The channel is gone: gives up what is under way. What was confirmed before stays known.
    pub(super) fn abandon(&mut self) {
        // Twice: what completed while the first one looked may carry the return of one that it saw confirmed.
        self.sweep();
        self.sweep();
        for sent in &mut self.sent {
            if let State::Flying(_) = sent.state {
                sent.state = State::Lost;
            }
        }
        self.flying = 0;
        self.quiet_since = None;
        self.conclude_at(ChannelEnd::Cut);
        self.failure = None;
    }

    /// After [`abandon`](Self::abandon), with no delivery under way: forgets what is to be sent anew.
    pub(super) fn forget_lost(&mut self) {
        self.sent.retain(|sent| matches!(sent.state, State::Acked { .. } | State::Returned));
        self.first = 0;
    }
}
