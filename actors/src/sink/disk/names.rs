//! Finds which files are the segments of a log, and gives each the name that its head tells.

use std::collections::BTreeMap;
use std::io;

use tracing::error;

use super::head::{HEAD, Head};
use super::recover::{Recovery, patiently};
use super::segment::{FRESH, SEGMENT, file_name};

impl Recovery<'_> {
    /// The segments of this log, by their first numbers, and the name of the log. What has another name than it should is
    /// renamed; what is a copy, or belongs to another log, is put aside.
    pub(super) fn own_segments(&mut self) -> io::Result<(Option<u64>, Vec<u64>)> {
        let mut names = self.files.list()?;
        names.sort();
        for name in names.iter().filter(|name| name.ends_with(FRESH)) {
            let _ = self.files.remove(name);
        }
        let mut there: Vec<(u64, Option<Head>)> = Vec::new();
        for name in &names {
            let Some(first) = name.strip_suffix(SEGMENT).and_then(|first| first.parse().ok()) else {
                continue;
            };
            if file_name(first) != *name {
                continue;
            }
            match patiently(|| self.files.read_start(name, HEAD)) {
                // What it held is missing, as the others know.
                Ok(bytes) if bytes.is_empty() => {
                    let _ = self.files.remove(name);
                }
                Ok(bytes) => there.push((first, Head::read(&bytes))),
                Err(error) => self.unreadable(first, &error),
            }
        }
        let mut votes: BTreeMap<u64, usize> = BTreeMap::new();
        for head in there.iter().filter_map(|(_, head)| *head) {
            *votes.entry(head.log).or_default() += 1;
        }
        let noted = self.marks.note.map(|note| note.log);
        let log = votes.into_iter().max_by_key(|(log, votes)| (*votes, Some(*log) == noted));
        let log = log.map(|(log, _)| log).or(noted);
        let (named, mut strays): (Vec<_>, Vec<_>) = there
            .into_iter()
            .partition(|(first, head)| head.is_none_or(|head| Some(head.log) == log && head.first == *first));
        let mut own: Vec<u64> = named.into_iter().map(|(first, _)| first).collect();
        strays.sort_by_key(|(first, _)| *first);
        let mut misnamed: Vec<(u64, u64)> = Vec::new();
        for (first, head) in strays {
            let Some(head) = head else { continue };
            if Some(head.log) != log {
                self.damaged += 1;
                self.put_aside("foreign", first, "belongs to another buffer");
            } else if own.contains(&head.first) || misnamed.iter().any(|(_, right)| *right == head.first) {
                self.put_aside("copy", first, "is a copy of another part");
            } else {
                misnamed.push((first, head.first));
            }
        }
        own.extend(self.put_right(&misnamed));
        own.sort_unstable();
        Ok((log, own))
    }

    /// Gives segments their right names; returns those that have them. Each may have the name of another, so all of them
    /// get names first that nothing has: those of segments, so that whoever dies meanwhile leaves what is found again.
    fn put_right(&self, misnamed: &[(u64, u64)]) -> Vec<u64> {
        let mut free = (0..u64::MAX).rev().filter(|free| {
            let is_right = misnamed.iter().any(|(_, right)| right == free);
            !is_right && !self.is_there(&file_name(*free))
        });
        let mut between = Vec::new();
        for (first, right) in misnamed {
            if let Some(free) = free.next()
                && self.files.rename(&file_name(*first), &file_name(free)).is_ok()
            {
                between.push((free, *right));
            }
        }
        if !between.is_empty() {
            let _ = self.files.sync_folder();
        }
        let renamed = between.into_iter().filter(|(free, right)| {
            let (free, name) = (file_name(*free), file_name(*right));
            !self.is_there(&name) && self.files.rename(&free, &name).is_ok()
        });
        renamed.map(|(_, right)| right).collect()
    }

    fn is_there(&self, name: &str) -> bool {
        // What cannot be told may be.
        !self.files.read_start(name, 0).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }

    fn put_aside(&self, kind: &str, first: u64, why: &str) {
        // What an earlier start put aside stays.
        let names = std::iter::once(format!("{kind}-{first:020}"));
        let mut names = names.chain((1..u64::MAX).map(|n| format!("{kind}-{first:020}-{n}")));
        let Some(file) = names.find(|name| !self.is_there(name)) else { return };
        let kept = self.files.rename(&file_name(first), &file).is_ok();
        error!(sink = %self.name, file, kept, "a file among those of the buffer on disk {why}, and is put aside");
    }
}
