//! The side of a buffer that its disk sees, and what is said of that disk.

use super::super::backlog::{Backlog, Work};
use super::super::counts::Counts;
use super::super::disk::{Disk, Recovered};
use super::super::window::Window;
use super::{Buffer, Moved};

impl Buffer {
    /// From now on it is on disk, too, behind what was found there. Before anybody leases from it.
    pub(in crate::sink) fn put_on_disk(&self, recovered: &Recovered, disk: Disk) {
        let mut queue = self.lock();
        queue.put_on_disk(recovered, &self.policy);
        let _ = self.disk.set(disk);
        self.publish(queue, Moved::Out);
        if let Some(disk) = self.disk.get() {
            disk.wake();
        }
    }

    /// Says why it is not on its disk yet, where that is no other process.
    pub(crate) fn cannot_be_written_yet(&self, why: Option<String>) {
        if let Some(memory) = self.lock().memory() {
            memory.cannot_be_written_yet(why);
        }
    }

    /// It cannot be put on its disk, and stays in memory: what it holds counts as held once it has left.
    pub(crate) fn stay_in_memory(&self, why: String) {
        if let Some(memory) = self.lock().memory() {
            memory.stay(why);
        }
    }

    /// Whether it is to be on a disk that another process still has, or that cannot be written yet.
    pub(crate) fn awaits_disk(&self) -> bool {
        self.lock().store.awaits_disk()
    }

    /// Whether what waits here survives the process.
    pub(crate) fn is_kept(&self) -> bool {
        let queue = self.lock();
        queue.store.is_kept(queue.first())
    }

    /// Why nothing can be written to its disk, while that is so.
    pub(crate) fn disk_trouble(&self) -> Option<String> {
        let queue = self.lock();
        queue.store.trouble(queue.first()).map(str::to_owned)
    }

    /// How many places of its disk could not be read, and how many events should have been there at its start and were not.
    pub(crate) fn disk_damage(&self) -> (u64, u64) {
        self.lock().store.damage()
    }

    /// What the disk is to do next.
    pub(in crate::sink) fn work(&self) -> Work {
        let mut queue = self.lock();
        let (first, next) = (queue.first(), queue.appended());
        let work = queue.backlog().map(|(backlog, _, _)| backlog.work(first, next));
        let mut work = work.unwrap_or_default();
        work.waiting = queue.on_disk();
        self.publish(queue, Moved::In);
        work
    }

    /// Takes in what the disk has done.
    pub(in crate::sink) fn change_backlog<T>(
        &self,
        change: impl FnOnce(&mut Backlog, &mut Window, &mut Counts) -> T,
    ) -> Option<T> {
        let mut queue = self.lock();
        let changed = queue.backlog().map(|(backlog, window, counts)| change(backlog, window, counts));
        self.publish(queue, Moved::Out);
        changed
    }

    /// Nothing comes in any more: what is there is to be written.
    pub(in crate::sink) fn close_backlog(&self) {
        self.change_backlog(|backlog, window, _| backlog.close(window));
    }

    /// Writes what is to be written, and lets go of the disk. Nothing comes in any more.
    pub(crate) async fn close(&self) {
        let Some(disk) = self.disk.get() else { return };
        self.close_backlog();
        disk.wake();
        disk.closed().await;
    }
}
