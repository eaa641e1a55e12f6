//! Disk buffers whose files are taken away while the process runs: what it says is kept comes with the next start.

use std::path::Path;

use crate::overlap::{Process, TOPOLOGY, arrived};
use crate::{Folder, err, feed, streamll};

fn remove_logs(buffers: &Path) {
    for file in std::fs::read_dir(buffers.join("log")).unwrap().map(|file| file.unwrap().path()) {
        if file.extension().is_some_and(|extension| extension == "log") {
            std::fs::remove_file(file).unwrap();
        }
    }
}

#[test]
fn what_is_said_to_be_kept_and_what_is_acknowledged_is_there_at_the_next_start() {
    let takes: [fn(&Path); 2] = [remove_logs, |buffers| std::fs::remove_dir_all(buffers).unwrap()];
    for take in takes {
        for more in [0, 100] {
            let folder = Folder::with(TOPOLOGY);
            std::fs::create_dir(folder.path("log.ndjson")).unwrap();
            let mut process = Process::start(&folder, "first");
            process.feed(0..500);
            process.acked(500);
            take(&folder.path("data/buffers"));
            process.feed(500..500 + more);
            process.until(&folder, "all is written", |log| log["on_disk"] == 500 + more);
            let (status, log) = process.end();
            let kept = log["on_disk"].as_u64().unwrap();
            assert_eq!((status.code(), kept), (Some(0), 500 + more), "all of it was in memory: {log:#}");
            std::fs::remove_dir(folder.path("log.ndjson")).unwrap();
            let next = feed(streamll(&folder.path(""), &["run", "--env", "test"]), b"");
            assert_eq!(next.status.code(), Some(0), "{}", err(&next));
            assert_eq!(arrived(&folder), (0..kept).collect::<Vec<_>>());
        }
    }
}
