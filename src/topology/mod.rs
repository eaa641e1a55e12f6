//! Topologies: which sinks run, with which circuit breaker, buffer and routing. They are declared in YAML, one file for
//! each environment, and checked before anything starts.
//!
//! ```no_run
//! use streamll::topology::{Registry, Topology};
//!
//! let topology = Topology::load("topologies", "production", &Registry::default())?;
//! println!("{}", topology.render());
//! # Ok::<(), streamll::topology::TopologyError>(())
//! ```

mod builder;
mod compile;
mod content;
mod coverage;
mod error;
mod fields;
mod key_path;
mod layers;
mod lines;
mod locate;
mod mask;
mod matching;
mod overlay;
mod print;
mod read;
mod references;
mod registry;
mod scan;
mod schema;
mod seal;
mod secrets;
mod sources;
mod spills;
mod validate;
mod variables;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

#[cfg(feature = "cli")]
pub(crate) use layers::unnamed;
#[cfg(feature = "cli")]
pub(crate) use secrets::mask_argument;

pub use crate::units::{Period, Size};
pub use builder::{Builder, IntoSink};
pub use error::{Class, Location, Problem, Severity, TopologyError};
pub use registry::Registry;

use streamll_actors::graph::Plan;

/// A topology without mistakes: what to run, and where each value came from.
pub struct Topology {
    environment: String,
    plan: Option<Plan>,
    shutdown_timeout: Duration,
    warnings: Vec<Problem>,
    printed: String,
}

/// The inputs of loading, besides the files.
#[derive(Clone, Default)]
pub struct LoadOptions {
    /// The environment: values of `${VAR}`, and `STREAMLL__…` variables that override a value.
    pub vars: BTreeMap<String, String>,
    /// Whether unset variables are accepted, to check on a machine that does not have the secrets. The result cannot be
    /// started.
    pub allow_unset: bool,
}

impl LoadOptions {
    /// Returns the environment of this process, without variables that are not UTF-8.
    pub fn from_process() -> Self {
        let vars = std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
        Self { vars: vars.collect(), allow_unset: false }
    }

    fn get(&self, name: &str) -> Option<String> {
        self.vars.get(name).cloned()
    }
}

impl fmt::Debug for LoadOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadOptions").field("allow_unset", &self.allow_unset).finish_non_exhaustive()
    }
}

impl Topology {
    /// Reads `<dir>/<env>.yaml` (or `.yml`), the files that it extends, and the `STREAMLL__…` variables of this
    /// process.
    ///
    /// # Errors
    ///
    /// Every mistake, each with its place. The only I/O is reading the files.
    pub fn load(dir: impl AsRef<Path>, env: &str, kinds: &Registry) -> Result<Self, TopologyError> {
        Self::load_with(dir, env, kinds, &LoadOptions::from_process())
    }

    /// Like [`load`](Self::load), with the given environment instead of the environment of this process.
    ///
    /// # Errors
    ///
    /// Every mistake, each with its place.
    pub fn load_with(
        dir: impl AsRef<Path>,
        env: &str,
        kinds: &Registry,
        options: &LoadOptions,
    ) -> Result<Self, TopologyError> {
        let mut merged = layers::load(dir.as_ref(), env, options).map_err(TopologyError::sealed)?;
        let checked = validate::validate(&mut merged, kinds)?;
        let plan = compile::compile(&checked, env, &options.vars);
        let mut warnings = checked.warnings;
        if checked.settings.data_dir.is_none() {
            warnings.extend(compile::homeless(&checked.settings.service, &options.vars));
        }
        Ok(Self {
            environment: env.to_owned(),
            plan,
            shutdown_timeout: checked.settings.shutdown.timeout.0,
            printed: merged.render(),
            warnings,
        })
    }

    /// Returns the name of the environment.
    pub fn environment(&self) -> &str {
        &self.environment
    }

    /// Returns the name of the application. It is empty if unset variables were allowed and there are some.
    pub fn service(&self) -> &str {
        self.plan.as_ref().map_or("", |plan| &plan.service)
    }

    /// Returns the plan that a graph runs. `None` if unset variables were allowed and there are some.
    pub fn plan(&self) -> Option<&Plan> {
        self.plan.as_ref()
    }

    /// Returns how long waiting events are delivered at the end of the process.
    pub fn shutdown_timeout(&self) -> Duration {
        self.shutdown_timeout
    }

    /// Returns the warnings: settings that are probably a mistake, but do not prevent a start.
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    /// Returns the merged topology as YAML, each value with its origin. Secrets are shown as `***`, and variables as
    /// they are in the file.
    pub fn render(&self) -> &str {
        &self.printed
    }

    /// Builds a topology in code, with the same defaults as YAML.
    pub fn builder(service: impl Into<String>) -> Builder {
        Builder::new(service)
    }
}

impl fmt::Debug for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sinks: Vec<_> = self.plan.iter().flat_map(|plan| &plan.sinks).map(|sink| &sink.name).collect();
        f.debug_struct("Topology")
            .field("environment", &self.environment)
            .field("sinks", &sinks)
            .finish_non_exhaustive()
    }
}

/// Returns the environments that have a file in `dir`, sorted. `base` is not one of them: it holds what they share.
pub fn environments(dir: impl AsRef<Path>) -> Vec<String> {
    layers::environments(dir.as_ref())
}

/// Chooses the environment to run: `flag` (`--env`), or else `variable` (`STREAMLL_ENV`), or else `development` on a
/// terminal.
///
/// # Errors
///
/// If there is no choice and no terminal. A service that runs the wrong topology is worse than a service that does not
/// start.
pub fn choose_environment(
    flag: Option<&str>,
    variable: Option<&str>,
    tty: bool,
    dir: impl AsRef<Path>,
) -> Result<String, TopologyError> {
    chosen_environment(flag, variable, tty, dir.as_ref(), "give `--env NAME` or set STREAMLL_ENV")
}

/// The same, with a way to choose that is there for whoever has not.
pub(crate) fn chosen_environment(
    flag: Option<&str>,
    variable: Option<&str>,
    tty: bool,
    dir: &Path,
    how: &str,
) -> Result<String, TopologyError> {
    let chosen = flag.or(variable.filter(|name| !name.is_empty()));
    if let Some(name) = chosen {
        return Ok(name.to_owned());
    }
    if tty {
        return Ok("development".to_owned());
    }
    let there = environments(dir);
    let there = match there.is_empty() {
        true => format!("no environments in {}", dir.display()),
        false => format!("there are {}", error::listed(there.iter().map(String::as_str))),
    };
    let problem = Problem::new(Class::Missing, "no environment is chosen");
    let error: TopologyError = problem.help(format!("{how}; {there}")).into();
    Err(error.sealed())
}
