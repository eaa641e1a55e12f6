//! A disk made up for tests: power fails, and with it what was not synced, in whatever part it likes; writes fail, too.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::files::Files;

/// What a disk keeps or loses as a whole.
const SECTOR: usize = 512;

#[derive(Debug, Default)]
pub(super) struct Power(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    inodes: Vec<Inode>,
    folder: BTreeMap<String, usize>,
    /// As of the last sync of the folder.
    durable: BTreeMap<String, usize>,
    /// No more bytes than these fit.
    capacity: Option<usize>,
    fails: bool,
    syncs_fail: bool,
}

#[derive(Debug, Default, Clone)]
struct Inode {
    data: Vec<u8>,
    synced: Vec<u8>,
}

impl Power {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn limit(&self, capacity: Option<usize>) {
        self.lock().capacity = capacity;
    }

    pub(super) fn fail(&self, writes: bool, syncs: bool) {
        let mut state = self.lock();
        (state.fails, state.syncs_fail) = (writes, syncs);
    }

    /// The power is gone and comes back. `random` decides what of the rest is there.
    pub(super) fn lose(&self, mut random: impl FnMut(usize) -> usize) {
        let mut state = self.lock();
        let State { inodes, folder, durable, .. } = &mut *state;
        for Inode { data, synced } in inodes.iter_mut() {
            let len = match data.len().cmp(&synced.len()) {
                std::cmp::Ordering::Equal => data.len(),
                _ => data.len().min(synced.len()) + random(data.len().abs_diff(synced.len()) + 1),
            };
            let mut left = vec![0; len];
            for (at, sector) in left.chunks_mut(SECTOR).enumerate() {
                let from = at * SECTOR;
                let kept = if random(2) == 0 { &*data } else { &*synced };
                // A file may have grown without its data: zeros.
                let kept = kept.get(from..).unwrap_or_default();
                let n = kept.len().min(sector.len());
                sector[..n].copy_from_slice(&kept[..n]);
            }
            (*data, *synced) = (left.clone(), left);
        }
        let names: std::collections::BTreeSet<_> = folder.keys().chain(durable.keys()).cloned().collect();
        let kept = names.into_iter().filter_map(|name| {
            let inode = if random(2) == 0 { folder.get(&name) } else { durable.get(&name) };
            Some((name, *inode?))
        });
        let kept: BTreeMap<String, usize> = kept.collect();
        (*folder, *durable) = (kept.clone(), kept);
    }

    /// All files, for tests of damage.
    pub(super) fn all(&self) -> Vec<(String, Vec<u8>)> {
        let state = self.lock();
        state.folder.iter().map(|(name, inode)| (name.clone(), state.inodes[*inode].data.clone())).collect()
    }

    /// A disk that holds these files.
    pub(super) fn with(files: &[(String, Vec<u8>)]) -> Power {
        let power = Power::default();
        for (name, bytes) in files {
            power.write(name, 0, bytes).unwrap();
            power.sync(name).unwrap();
        }
        power.sync_folder().unwrap();
        power
    }
}

impl State {
    fn inode(&mut self, name: &str) -> io::Result<&mut Inode> {
        let inode = self.folder.get(name).copied().ok_or(io::ErrorKind::NotFound)?;
        Ok(&mut self.inodes[inode])
    }
}

impl Files for Power {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.lock().folder.keys().cloned().collect())
    }

    fn read(&self, name: &str) -> io::Result<Bytes> {
        self.lock().inode(name).map(|inode| inode.data.clone().into())
    }

    fn read_start(&self, name: &str, len: usize) -> io::Result<Bytes> {
        self.read(name).map(|bytes| bytes.slice(..len.min(bytes.len())))
    }

    fn size(&self, name: &str) -> io::Result<u64> {
        self.read(name).map(|bytes| bytes.len() as u64)
    }

    fn write(&self, name: &str, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        let at = at as usize;
        if !state.folder.contains_key(name) {
            let place = state.inodes.len();
            state.inodes.push(Inode::default());
            state.folder.insert(name.to_owned(), place);
        }
        let used: usize = state.folder.values().map(|inode| state.inodes[*inode].data.len()).sum();
        let (fails, capacity) = (state.fails, state.capacity);
        let inode = state.inode(name)?;
        let more = (at + bytes.len()).saturating_sub(inode.data.len());
        let room = capacity.map_or(usize::MAX, |capacity| capacity.saturating_sub(used));
        // A write that fails may have been done in part.
        let done = if fails || more > room { bytes.len() / 2 } else { bytes.len() };
        if inode.data.len() < at + done {
            inode.data.resize(at + done, 0);
        }
        inode.data[at..at + done].copy_from_slice(&bytes[..done]);
        if done == bytes.len() { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    fn cut(&self, name: &str, len: u64) -> io::Result<()> {
        self.lock().inode(name)?.data.truncate(len as usize);
        Ok(())
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        let mut state = self.lock();
        if state.syncs_fail {
            return Err(io::Error::other("input/output error"));
        }
        let inode = state.inode(name)?;
        inode.synced = inode.data.clone();
        Ok(())
    }

    fn sync_folder(&self) -> io::Result<()> {
        let mut state = self.lock();
        if state.syncs_fail {
            return Err(io::Error::other("input/output error"));
        }
        state.durable = state.folder.clone();
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.lock();
        let inode = state.folder.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.folder.insert(to.to_owned(), inode);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.lock().folder.remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}
