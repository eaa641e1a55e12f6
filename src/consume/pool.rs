//! The workers of a consumer: they get jobs by key, and report what became of each.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use streamll_actors::event::Event;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

use super::filter::Key;
use super::status::Shared;
use super::worker::{Finished, Job, Work, work};

/// Workers, each with a queue of jobs.
#[derive(Debug)]
pub(super) struct Pool {
    key: Key,
    hasher: RandomState,
    jobs: Vec<UnboundedSender<Vec<Job>>>,
    finished: UnboundedReceiver<Vec<Finished>>,
    // They end when it is dropped.
    tasks: JoinSet<()>,
}

impl Pool {
    pub(super) fn new(work_of_all: &Arc<Work>, workers: usize, key: Key, shared: &Arc<Shared>) -> Pool {
        let (report_to, finished) = unbounded_channel();
        let mut tasks = JoinSet::new();
        let jobs = (0..workers.max(1)).map(|_| {
            let (jobs, inbox) = unbounded_channel();
            tasks.spawn(work(work_of_all.clone(), shared.clone(), inbox, report_to.clone()));
            jobs
        });
        let jobs = jobs.collect();
        Pool { key, hasher: RandomState::new(), jobs, finished, tasks }
    }

    /// Hands jobs to the workers of their keys.
    pub(super) fn hand_out(&self, jobs: Vec<Job>) {
        if let ([only], false) = (&self.jobs[..], jobs.is_empty()) {
            let _ = only.send(jobs);
            return;
        }
        let mut by_worker: Vec<Vec<Job>> = self.jobs.iter().map(|_| Vec::new()).collect();
        for job in jobs {
            if let Some(jobs) = by_worker.get_mut(self.worker_of(&job.event)) {
                jobs.push(job);
            }
        }
        for (worker, jobs) in self.jobs.iter().zip(by_worker).filter(|(_, jobs)| !jobs.is_empty()) {
            let _ = worker.send(jobs);
        }
    }

    /// Events with one value of the key go to one worker. Events without the key go there by their run.
    fn worker_of(&self, event: &Event) -> usize {
        let hash = self.key.look(event, |value| self.hasher.hash_one(&*value.text()));
        let hash = hash.unwrap_or_else(|| self.hasher.hash_one(&*event.step().parts().execution_id));
        usize::try_from(hash % self.jobs.len().max(1) as u64).unwrap_or(0)
    }

    /// Waits until something is finished. `None` when all workers have ended.
    pub(super) async fn finished(&mut self) -> Option<Vec<Finished>> {
        self.finished.recv().await
    }

    /// What is finished already.
    pub(super) fn finished_now(&mut self) -> Option<Vec<Finished>> {
        self.finished.try_recv().ok()
    }

    /// Ends the workers, whatever they have in hand.
    pub(super) async fn end(&mut self) {
        self.jobs.clear();
        self.tasks.shutdown().await;
    }
}
