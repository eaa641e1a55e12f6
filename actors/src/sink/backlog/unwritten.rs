//! What is to be written to the disk behind a buffer.

use super::super::disk::{HEADER, Kind, Record};
use crate::event::{Delivery, Receipt};

/// What is to be written.
#[derive(Debug, Clone)]
pub(in crate::sink) struct Unwritten {
    pub(super) number: u64,
    pub(super) kind: Kind,
    pub(super) delivery: Delivery,
    pub(super) size: usize,
}

impl Unwritten {
    pub(super) fn new(number: u64, kind: Kind, delivery: Delivery) -> Unwritten {
        let size = delivery.event.size() + HEADER;
        Unwritten { number, kind, delivery, size }
    }

    pub(in crate::sink) fn record(&self) -> Record {
        let Delivery { event, .. } = &self.delivery;
        let key = self.delivery.own_key().map(str::to_owned);
        let json = event.json().clone();
        Record {
            number: self.number,
            kind: self.kind,
            class: event.class(),
            system: event.is_system(),
            key,
            json,
        }
    }

    pub(super) fn is_event(&self) -> bool {
        self.kind == Kind::Event
    }

    /// Whoever waits to hear that it is written.
    pub(super) fn receipt(&self) -> Option<&Receipt> {
        self.delivery.event.receipt().filter(|_| self.is_event()).map(|receipt| &**receipt)
    }
}
