//! Sinks whose buffer is on disk. The buffer stays in memory while another process uses the folder, or while the folder
//! cannot be written.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::timeout;
use tracing::{error, warn};

use super::{GraphHandle, Member, StartError, Threads};
use crate::sink::{Control, FolderError, SinkState, open_on_disk, open_on_disk_inline};
use crate::supervise::Exit;

/// The folder of the disk buffers, below `data_dir`.
const BUFFERS: &str = "buffers";
/// How often a sink looks whether the other process has ended.
const LOOK: Duration = Duration::from_millis(250);
/// How often a folder is tried again that cannot be written.
const RETRY: Duration = Duration::from_secs(1);

impl GraphHandle {
    /// Puts a sink's buffer on disk, where that is its policy, behind what an earlier process left there. One that another
    /// process has, or that cannot be written, is open until that has passed.
    pub(super) fn put_on_disk(&self, member: &Member) -> Result<(), StartError> {
        if member.worker.buffer.policy().disk.is_none() {
            return Ok(());
        }
        match self.opening(member)() {
            Err(FolderError::Locked { holder, .. }) => {
                let sink = &member.worker.name;
                warn!(%sink, %holder, "the buffer on disk is in use; events wait in memory until it is free");
                in_use(member, &holder);
                Ok(())
            }
            Err(error @ FolderError::Unwritable { .. }) => {
                let sink = &member.worker.name;
                warn!(%sink, %error, "events wait in memory until the buffer on disk can be written");
                not_writable(member, &error);
                Ok(())
            }
            Err(error) => Err(StartError::Buffer { sink: member.worker.name.to_string(), error }),
            Ok(()) => Ok(()),
        }
    }

    fn opening(&self, member: &Member) -> impl FnOnce() -> Result<(), FolderError> + Send + use<> {
        let buffer = member.worker.buffer.clone();
        let path = self.0.plan.data_dir.join(BUFFERS).join(&*member.worker.name);
        let threads = self.0.threads;
        move || match threads {
            Threads::Several => open_on_disk(&buffer, &path),
            Threads::One => open_on_disk_inline(&buffer, &path),
        }
    }

    /// To read what the other left may take seconds, which the graph does not wait for.
    async fn try_again(&self, member: &Member) -> Result<(), FolderError> {
        let open = self.opening(member);
        if self.0.threads == Threads::One {
            return open();
        }
        let why = |error: tokio::task::JoinError| error.to_string();
        tokio::task::spawn_blocking(open).await.unwrap_or_else(|error| {
            Err(FolderError::Unusable { path: self.0.plan.data_dir.clone(), why: why(error) })
        })
    }
}

fn in_use(member: &Member, holder: &str) {
    member.worker.buffer.cannot_be_written_yet(None);
    open(member, format!("its buffer is in use by {holder}: it takes over when that process ends"));
}

fn not_writable(member: &Member, error: &FolderError) {
    let why = match error {
        FolderError::Unwritable { why, .. } => why.clone(),
        _ => error.to_string(),
    };
    member.worker.buffer.cannot_be_written_yet(Some(why));
    open(member, error.to_string());
}

fn open(member: &Member, reason: String) {
    // First the reason, then what wakes those who may ask for it.
    member.worker.cell.set_state(SinkState::Open, Some(reason), 0);
    member.worker.buffer.set_state(SinkState::Open);
}

/// Gives a sink its actor once its buffer is on disk: before that nothing may leave, as what is on disk comes first.
pub(super) fn wait(graph: GraphHandle, member: Arc<Member>) {
    actix_rt::spawn(async move {
        let worker = &member.worker;
        while !is_to_end(&member) {
            let mut next = LOOK;
            match graph.try_again(&member).await {
                Err(FolderError::Locked { holder, .. }) => in_use(&member, &holder),
                Err(error @ FolderError::Unwritable { .. }) => {
                    not_writable(&member, &error);
                    next = RETRY;
                }
                opened => {
                    let sink = &worker.name;
                    match opened {
                        Ok(()) => warn!(%sink, "the buffer on disk is free, and is taken over"),
                        Err(error) => {
                            error!(%sink, %error, "the buffer on disk cannot be taken over; it stays in memory");
                            worker.buffer.stay_in_memory(error.to_string());
                        }
                    }
                    // It hears by itself of a drain that has begun.
                    return graph.adopt(&member).await;
                }
            }
            let _ = timeout(next, worker.cell.signalled.notified()).await;
        }
        worker.cell.ended(&Exit::Stopped);
        worker.ended.notify_waiters();
    });
}

/// Whether it is to end without its disk: at once where nothing waits, else when it is told to stop, at the deadline.
fn is_to_end(member: &Member) -> bool {
    let worker = &member.worker;
    let told = worker.control.load(Ordering::SeqCst);
    if told == Control::Run as u8 {
        return false;
    }
    told == Control::Stop as u8 || worker.buffer.is_empty()
}
