//! Keeps a share of the runs, each whole or not at all.
//!
//! ```
//! use serde_json::json;
//! use streamll::processors::SampleConfig;
//! use streamll_actors::{event::{Event, Step}, testkit};
//!
//! let sample: SampleConfig = serde_json::from_value(json!({ "rate": 0.0 })).unwrap();
//! let step = Step::new("Chat");
//! let left = testkit::drive(sample.build().unwrap(), ["start", "error"].map(|kind| Event::new(&step, kind)));
//! assert_eq!(left[0].kind().as_str(), "error");
//! assert_eq!(left.len(), 1);
//! ```

use serde::{Deserialize, Serialize};
use streamll_actors::event::{Class, Event, Kind};
use streamll_actors::process::{Output, Processor};

/// The settings under `sample:` in YAML. Only the `execution_id` decides whether a run is kept. All events of a run are
/// kept, or all are dropped (and counted as filtered), and every process decides in the same way. A run that a low rate
/// keeps is also kept by a higher rate.
///
/// Three kinds of events are kept from every run, even from a run that is dropped: `error` events, events of the class
/// audit, and streamll's own events (gap markers, alerts).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SampleConfig {
    /// The share of runs that is kept, from 0 (only errors and audit events) to 1 (all). There is no default.
    pub rate: f64,
}

impl SampleConfig {
    /// Makes the processor.
    ///
    /// # Errors
    ///
    /// If the rate is not between 0 and 1. The text begins with the key, `rate: …`.
    pub fn build(&self) -> Result<Sample, String> {
        if !(0.0..=1.0).contains(&self.rate) {
            return Err("rate: must be from 0 to 1; write 0.1 to keep a tenth".to_owned());
        }
        Ok(Sample { rate: self.rate })
    }
}

/// Keeps a share of the runs. See [`SampleConfig`].
#[derive(Debug)]
pub struct Sample {
    rate: f64,
}

impl Sample {
    /// Returns whether `event` stays.
    #[must_use]
    pub fn keeps(&self, event: &Event) -> bool {
        *event.kind() == Kind::Error
            || event.class() == Class::Audit
            || share(&event.step().parts().execution_id) < self.rate
    }
}

impl Processor for Sample {
    fn process(&mut self, event: Event, out: &mut Output) {
        if self.keeps(&event) {
            out.push(event);
        }
    }
}

/// Where a run lies between 0 and 1: evenly spread, and the same for ever, as runs cross processes and versions. It is the
/// hash FNV-1a, whose upper bits are mixed (by the last step of `SplitMix64`) for ids that differ in their last digit only.
fn share(execution_id: &str) -> f64 {
    let hash = execution_id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let hash = hash ^ (hash >> 31);
    // As many bits as a float holds exactly.
    (hash >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_run_lies_never_changes() {
        // Other processes, and earlier versions, must decide alike.
        for (id, millionths) in
            [("", 957673), ("run", 479689), ("conv_1", 622872), ("4bf92f3577b34da6a3ce929d0e0e4736", 501613)]
        {
            assert_eq!((share(id) * 1e6) as u64, millionths, "{id}");
        }
    }
}
