//! Builds in code, call by call, what YAML can declare.

use std::path::PathBuf;
use std::time::Duration;

use streamll_actors::graph::{Plan, SinkSpec, Stage};
use streamll_actors::process::Processor;
use streamll_actors::route::{Template, TopicPattern};
#[cfg(any(feature = "rabbitmq", feature = "redis"))]
use streamll_actors::sink::{BatchPolicy, DynSink, Placement, Sink};

use crate::sinks::{FileConfig, TerminalConfig};
use crate::units::check_path;

use super::content;
use super::error::{Class, Problem, TopologyError};
use super::overlay::is_name;
use super::secrets::mask_argument;
use super::validate::{SERVICE_HELP, is_service_name};
use super::{LoadOptions, Topology, compile};

/// A value that can become a sink of a topology in code: the configuration of a built-in kind, or a [`SinkSpec`].
pub trait IntoSink {
    /// Returns the sink, with this name.
    fn into_sink(self, name: &str) -> SinkSpec;

    /// Checks the configuration. An error has the form `key: what is wrong; how to correct it`.
    ///
    /// # Errors
    ///
    /// If no sink can be made from this configuration.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

impl IntoSink for SinkSpec {
    fn into_sink(mut self, name: &str) -> SinkSpec {
        name.clone_into(&mut self.name);
        self
    }
}

impl IntoSink for TerminalConfig {
    fn into_sink(self, name: &str) -> SinkSpec {
        SinkSpec::new(name, move || self.build())
    }
}

impl IntoSink for FileConfig {
    fn into_sink(self, name: &str) -> SinkSpec {
        SinkSpec::new(name, move || self.build())
    }

    fn check(&self) -> Result<(), String> {
        FileConfig::check(self)
    }
}

#[cfg(feature = "rabbitmq")]
impl IntoSink for crate::sinks::RabbitMqConfig {
    fn into_sink(self, name: &str) -> SinkSpec {
        checked(name, crate::sinks::rabbitmq::BATCH, Placement::Own, move || self.build())
    }

    fn check(&self) -> Result<(), String> {
        self.build().map(drop)
    }
}

#[cfg(feature = "redis")]
impl IntoSink for crate::sinks::RedisConfig {
    fn into_sink(self, name: &str) -> SinkSpec {
        checked(name, crate::sinks::redis::BATCH, crate::sinks::redis::PLACEMENT, move || self.build())
    }

    fn check(&self) -> Result<(), String> {
        self.build().map(drop)
    }
}

/// Makes a sink of a kind that can find mistakes in its configuration. The configuration has been checked before.
#[cfg(any(feature = "rabbitmq", feature = "redis"))]
fn checked<S: Sink>(
    name: &str,
    batch: BatchPolicy,
    placement: Placement,
    build: impl Fn() -> Result<S, String> + Send + Sync + 'static,
) -> SinkSpec {
    let made = move || match build() {
        Ok(sink) => Box::new(sink) as Box<dyn DynSink>,
        Err(why) => Box::new(super::registry::Unbuildable(why)),
    };
    SinkSpec { batch, placement, ..SinkSpec::from_factory(name, std::sync::Arc::new(made)) }
}

/// Builds a [`Topology`] in code. The builder collects mistakes, and [`build`](Self::build) reports them.
#[derive(Debug)]
pub struct Builder {
    plan: Plan,
    without_content: bool,
    data_dir: Option<PathBuf>,
    shutdown_timeout: Duration,
    problems: Vec<Problem>,
}

impl Builder {
    pub(crate) fn new(service: impl Into<String>) -> Self {
        Self {
            plan: Plan::new(service),
            without_content: false,
            data_dir: None,
            shutdown_timeout: Duration::from_secs(25),
            problems: Vec::new(),
        }
    }

    fn wrong(&mut self, class: Class, path: String, message: String) {
        let mut problem = Problem::new(class, message);
        problem.path = path;
        self.problems.push(problem);
    }

    /// Sets the name of the environment, a tag of every event. Default: empty.
    #[must_use]
    pub fn environment(mut self, name: impl Into<String>) -> Self {
        self.plan.environment = name.into();
        self
    }

    /// Adds a tag to every event.
    #[must_use]
    pub fn tag(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.plan.tags.push((key.into(), value.into()));
        self
    }

    /// Sets the template of every event's topic. Default: `ai.{module_name}.{event_type}`.
    #[must_use]
    pub fn routing_key(mut self, template: &str) -> Self {
        match Template::parse(template) {
            Ok(template) => self.plan.routing_key = template,
            Err(error) => self.wrong(Class::Template, "routing_key".to_owned(), error.to_string()),
        }
        self
    }

    /// Sets the class of the events whose topic matches a pattern. The class decides what is shed first under overload.
    #[must_use]
    pub fn class(mut self, pattern: &str, class: streamll_actors::event::Class) -> Self {
        match TopicPattern::parse(pattern) {
            Ok(pattern) => self.plan.classes.push((pattern, class)),
            Err(error) => self.wrong(Class::Template, "classes".to_owned(), error.to_string()),
        }
        self
    }

    /// Sets how long a sink may be in trouble before the other sinks get an alert. Default: 30 s.
    #[must_use]
    pub fn alert_after(mut self, time: Duration) -> Self {
        self.plan.alert_after = time;
        self
    }

    /// Sets the folder of disk buffers and dead letters. Default: the user's state directory.
    #[must_use]
    pub fn data_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(folder.into());
        self
    }

    /// Sets the sink for events that can never be delivered. Default: a file for each sink.
    #[must_use]
    pub fn dead_letter(mut self, sink: impl Into<String>) -> Self {
        self.plan.dead_letter = Some(sink.into());
        self
    }

    /// Sets how long waiting events are delivered at the end. Default: 25 s.
    #[must_use]
    pub fn shutdown_timeout(mut self, time: Duration) -> Self {
        self.shutdown_timeout = time;
        self
    }

    /// Removes what was said (inputs, outputs, text of tokens, messages, tool data) before any other step, as `content:
    /// off` does. Default: nothing is removed. The [guide](crate::guide::privacy#content-off) lists what stays.
    #[must_use]
    pub fn without_content(mut self) -> Self {
        self.without_content = true;
        self
    }

    /// Adds a processor that every event passes.
    #[must_use]
    pub fn processor<P: Processor>(self, name: &str, make: impl Fn() -> P + Send + Sync + 'static) -> Self {
        self.stage(Stage::processor(name, make))
    }

    /// Adds a stage, such as an actor of your own.
    #[must_use]
    pub fn stage(mut self, stage: Stage) -> Self {
        self.plan.stages.push(stage);
        self
    }

    /// Adds a sink.
    #[must_use]
    pub fn sink(mut self, name: &str, sink: impl IntoSink) -> Self {
        let shown = mask_argument(name);
        let path = format!("sinks.{shown}");
        if !is_name(name) {
            self.wrong(
                Class::Range,
                path,
                format!("`{shown}` cannot be the name of a sink: names consist of a-z, 0-9 and _"),
            );
        } else if self.plan.sinks.iter().any(|sink| sink.name == name) {
            self.wrong(Class::Duplicate, path, format!("two sinks are named `{shown}`"));
        }
        if let Err(why) = sink.check() {
            self.wrong(Class::Range, format!("sinks.{shown}"), why);
        }
        self.plan.sinks.push(sink.into_sink(name));
        self
    }

    /// Returns the topology.
    ///
    /// # Errors
    ///
    /// Every mistake in the calls before.
    pub fn build(mut self) -> Result<Topology, TopologyError> {
        if !is_service_name(&self.plan.service) {
            let problem =
                Problem::new(Class::Range, "this cannot be the name of a service").help(SERVICE_HELP);
            self.problems.push(Problem { path: "service".to_owned(), ..problem });
        }
        if let Some(Err(why)) = self.data_dir.as_deref().map(check_path) {
            self.wrong(Class::Range, "data_dir".to_owned(), why);
        }
        if self.plan.sinks.is_empty() {
            self.wrong(Class::Missing, "sinks".to_owned(), "there are no sinks".to_owned());
        }
        if !self.problems.is_empty() {
            return Err(TopologyError { problems: self.problems }.sealed());
        }
        let mut plan = self.plan;
        if self.without_content {
            plan.stages.insert(0, Stage::from_factory(content::STEP, content::step()));
        }
        let vars = LoadOptions::from_process().vars;
        let warnings = match self.data_dir {
            Some(_) => None,
            None => compile::homeless(&plan.service, &vars),
        };
        plan.data_dir = self.data_dir.unwrap_or_else(|| compile::state_dir(&plan.service, &vars));
        Ok(Topology {
            environment: plan.environment.clone(),
            plan: Some(plan),
            shutdown_timeout: self.shutdown_timeout,
            warnings: warnings.into_iter().collect(),
            printed: "# built in code\n".to_owned(),
        })
    }
}
