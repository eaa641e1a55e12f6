//! A thread for actors, made when first needed and made again when it is lost.

use std::sync::{Mutex, PoisonError};

use actix_rt::Arbiter;

/// Where some actors run: on their own arbiter, or on the calling thread.
#[derive(Debug)]
pub(crate) struct Place {
    own: bool,
    arbiter: Mutex<Option<Arbiter>>,
}

impl Place {
    pub(crate) fn new(own: bool) -> Place {
        Place { own, arbiter: Mutex::default() }
    }

    /// Runs `start` on that thread. Call it on a thread of the graph's `System`.
    pub(crate) fn run(&self, start: impl FnOnce() + Send + 'static) {
        if !self.own {
            return start();
        }
        let mut arbiter = self.arbiter.lock().unwrap_or_else(PoisonError::into_inner);
        let mut start = Some(start);
        if let Some(living) = arbiter.as_ref().filter(|arbiter| arbiter.handle().spawn_fn(|| {})) {
            living.spawn_fn(move || {
                if let Some(start) = start.take() {
                    start();
                }
            });
            return;
        }
        let fresh = Arbiter::new();
        fresh.spawn_fn(move || {
            if let Some(start) = start.take() {
                start();
            }
        });
        *arbiter = Some(fresh);
    }

    /// Leaves a stuck thread alone. The next actor gets a fresh thread.
    pub(crate) fn abandon(&self) {
        self.close();
    }

    /// Ends the thread as soon as it moves.
    pub(crate) fn close(&self) {
        if let Some(arbiter) = self.arbiter.lock().unwrap_or_else(PoisonError::into_inner).take() {
            arbiter.stop();
        }
    }
}
