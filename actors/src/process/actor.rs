//! The actor that works on a line: it makes the processors, and calls them and their timers.

use std::sync::Arc;

use actix::prelude::{
    Actor, ActorContext as _, ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _,
};

use super::Stage;
use super::hand::Method;
use super::line::{Line, Source, Superseded, Turn};
use crate::ingress::Tally;
use crate::supervise::{DeathWatch, Exit};

/// One incarnation of the actor.
pub(crate) struct LineActor<S: Source> {
    line: Arc<Line<S>>,
    stages: Vec<Stage>,
    incarnation: u64,
    watch: DeathWatch,
}

impl<S: Source> LineActor<S> {
    pub(crate) fn new(line: Arc<Line<S>>, incarnation: u64, watch: DeathWatch) -> LineActor<S> {
        LineActor { line, stages: Vec::new(), incarnation, watch }
    }

    fn begin(&mut self, ctx: &mut Context<Self>) -> Result<(), Superseded> {
        for place in 0..self.line.len() {
            self.stages.extend(self.line.make(self.incarnation, place)?);
        }
        for (place, stage) in self.stages.iter().enumerate() {
            self.line.begin(self.incarnation, place, Method::Interval)?;
            let interval = stage.interval();
            self.line.end(self.incarnation)?;
            if let Some(interval) = interval {
                ctx.run_interval(interval, move |actor, ctx| {
                    if actor.tick(place).is_err() {
                        ctx.stop();
                    }
                });
            }
        }
        Ok(())
    }

    fn tick(&mut self, place: usize) -> Result<(), Superseded> {
        if !self.line.source.has_room() {
            return Ok(());
        }
        self.line.begin(self.incarnation, place, Method::Tick)?;
        self.aside(place, Stage::tick)?;
        self.advance().map(|_| ())
    }

    fn aside(
        &mut self,
        place: usize,
        call: impl FnOnce(&mut Stage, &mut Tally) -> Vec<crate::event::Event>,
    ) -> Result<(), Superseded> {
        let Some(stage) = self.stages.get_mut(place) else { return Ok(()) };
        let mut tally = Tally::default();
        let events = call(stage, &mut tally);
        self.line.came_aside(self.incarnation, place, stage, events, tally)
    }

    /// Processes the current events to the end of the line. Returns whether they were the last.
    fn advance(&mut self) -> Result<bool, Superseded> {
        while let Some(turn) = self.line.turn(self.incarnation)? {
            match turn {
                Turn::Process { stage: place, inputs, next, pulse } => {
                    if let Some(stage) = self.stages.get_mut(place) {
                        self.line.process(self.incarnation, place, stage, &inputs, next, &pulse)?;
                    }
                }
                Turn::Finish { stage } => self.aside(stage, Stage::finish)?,
                Turn::Through { last: true } => return Ok(true),
                Turn::Through { last: false } => {}
            }
        }
        Ok(false)
    }

    fn turn(&mut self, ctx: &mut Context<Self>) {
        // What a predecessor had in hand comes first.
        let ended = self
            .advance()
            .and_then(|ended| Ok(ended || (self.line.take(self.incarnation)? && self.advance()?)));
        match ended {
            Err(Superseded) => ctx.stop(),
            Ok(true) => {
                self.watch.because(Exit::Stopped);
                ctx.stop();
            }
            Ok(false) => {
                let line = self.line.clone();
                let ready = async move {
                    // Timers must not starve while there is always something to do.
                    tokio::task::yield_now().await;
                    line.source.ready().await;
                };
                ctx.spawn(ready.into_actor(self).map(|(), actor, ctx| actor.turn(ctx)));
            }
        }
    }
}

impl<S: Source> Actor for LineActor<S> {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        match self.begin(ctx) {
            Ok(()) => self.turn(ctx),
            Err(Superseded) => ctx.stop(),
        }
    }
}

impl<S: Source> Drop for LineActor<S> {
    fn drop(&mut self) {
        for (place, stage) in std::mem::take(&mut self.stages).into_iter().enumerate() {
            // Who hangs here holds nothing up, but is to be known.
            let _ = self.line.begin(self.incarnation, place, Method::Drop);
            drop(stage);
            let _ = self.line.end(self.incarnation);
        }
        self.line.gone(self.incarnation);
    }
}
