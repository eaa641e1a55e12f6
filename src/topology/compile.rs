//! Turns a checked topology into the plan of a graph.

use std::collections::BTreeMap;
use std::path::PathBuf;

use streamll_actors::event::Class;
use streamll_actors::graph::{Plan, SinkSpec, Stage};
use streamll_actors::route::{Template, TopicPattern};
use streamll_actors::sink::breaker::BreakerPolicy;
use streamll_actors::sink::{BatchPolicy, BufferPolicy, Fsync, OnOpen, WhenFull};
use streamll_actors::supervise::RestartPolicy;

use super::content::{self, Content};
use super::error::{Problem, Severity};
use super::registry::Step;
use super::schema;
use super::validate::{Checked, CheckedSink};

/// The plan of a topology; nothing if it holds unset variables.
pub(crate) fn compile(checked: &Checked, environment: &str, vars: &BTreeMap<String, String>) -> Option<Plan> {
    if !checked.complete {
        return None;
    }
    let settings = &checked.settings;
    let mut plan = Plan::new(&settings.service);
    plan.environment = environment.to_owned();
    plan.tags = settings.tags.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    plan.routing_key = Template::parse(&settings.routing_key).ok()?;
    let classes = &settings.classes;
    for (patterns, class) in [
        (&classes.audit, Class::Audit),
        (&classes.token, Class::Token),
        (&classes.lifecycle, Class::Lifecycle),
    ] {
        plan.classes.extend(parsed(patterns)?.into_iter().map(|pattern| (pattern, class)));
    }
    let content =
        (settings.content == Content::Off).then(|| Stage::from_factory(content::STEP, content::step()));
    plan.stages =
        content.into_iter().chain(checked.processors.iter().map(|(name, step)| stage(name, step))).collect();
    plan.sinks = checked.sinks.iter().map(sink).collect::<Option<_>>()?;
    plan.dead_letter.clone_from(&settings.dead_letter);
    plan.data_dir = settings.data_dir.clone().unwrap_or_else(|| state_dir(&settings.service, vars));
    plan.alert_after = settings.alert_after.0;
    Some(plan)
}

/// A warning where the user has no state directory: then state goes below the folder that the program is started in.
pub(crate) fn homeless(service: &str, vars: &BTreeMap<String, String>) -> Option<Problem> {
    if state_dir(service, vars).is_absolute() {
        return None;
    }
    let message = "neither HOME nor XDG_STATE_HOME names a folder: buffers on disk and dead letters go to `./streamll`, below \
                   the folder that the program is started in";
    let mut problem = Problem::new(super::error::Class::Missing, message).help("set `data_dir`");
    (problem.severity, problem.path) = (Severity::Warning, "data_dir".to_owned());
    Some(problem)
}

/// The user's state directory, by the XDG base directory specification: what a program keeps between its runs.
pub(crate) fn state_dir(service: &str, vars: &BTreeMap<String, String>) -> PathBuf {
    let of = |name: &str| vars.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = of("XDG_STATE_HOME").or_else(|| Some(of("HOME")?.join(".local/state")));
    state.unwrap_or_else(|| PathBuf::from(".")).join("streamll").join(service)
}

fn parsed(patterns: &[String]) -> Option<Vec<TopicPattern>> {
    patterns.iter().map(|text| TopicPattern::parse(text).ok()).collect()
}

fn stage(name: &str, step: &Step) -> Stage {
    match step {
        Step::Processor(factory) => Stage::from_factory(name, factory.clone()),
        Step::Actor(start) => {
            let start = start.clone();
            Stage::actor(name, move |next| start(next))
        }
    }
}

fn sink(sink: &CheckedSink) -> Option<SinkSpec> {
    let settings = &sink.settings;
    let mut spec = SinkSpec::from_factory(&sink.name, sink.factory.clone()?);
    spec.topics = match &settings.topics {
        Some(topics) => Some(parsed(topics)?),
        None => None,
    };
    spec.except = parsed(&settings.except)?;
    spec.routing_key = match &settings.routing_key {
        Some(template) => Some(Template::parse(template).ok()?),
        None => None,
    };
    if settings.content == Content::Off {
        spec.processors.push((content::STEP.to_owned(), content::step()));
    }
    for (name, step) in &sink.processors {
        let Step::Processor(factory) = step else { return None };
        spec.processors.push((name.clone(), factory.clone()));
    }
    let buffer = &settings.buffer;
    let default = match buffer.kind {
        schema::BufferKind::Memory => BufferPolicy::default(),
        schema::BufferKind::Disk => BufferPolicy::disk(),
    };
    spec.buffer = BufferPolicy {
        max_events: buffer.max_events.map_or(default.max_events, count),
        max_size: buffer.max_size.map_or(default.max_size, |size| count(size.0)),
        disk: default.disk.map(|group| match buffer.fsync {
            None | Some(schema::Fsync::Group) => group,
            Some(schema::Fsync::Every(period)) => Fsync::Every(period.0),
            Some(schema::Fsync::Never) => Fsync::Never,
        }),
        when_full: match buffer.when_full {
            schema::WhenFull::ShedTokens => WhenFull::ShedTokens,
            schema::WhenFull::DropNewest => WhenFull::DropNewest,
        },
    };
    let breaker = &settings.circuit_breaker;
    spec.breaker = BreakerPolicy {
        failure_threshold: breaker.failure_threshold,
        recovery_timeout: breaker.recovery_timeout.0,
        recovery_max: breaker.recovery_max.0,
    };
    spec.on_open = match &breaker.on_open {
        schema::OnOpen::Buffer => OnOpen::Buffer,
        schema::OnOpen::Drop => OnOpen::Drop,
        schema::OnOpen::Fallback(to) => OnOpen::Fallback(to.as_str().into()),
    };
    spec.restart = RestartPolicy { max: settings.restart.max, within: settings.restart.within.0 };
    let batch = &settings.batch;
    let (preferred, placement) = sink.prefers;
    spec.batch = BatchPolicy {
        max_events: batch.max_events.map_or(preferred.max_events, |events| count(events.into())),
        max_size: batch.max_size.map_or(preferred.max_size, |size| count(size.0)),
        linger: batch.linger.map_or(preferred.linger, |linger| linger.0),
    };
    spec.placement = placement;
    spec.deliver_timeout = settings.deliver_timeout.0;
    spec.poison_after = settings.poison_after;
    spec.dead_letter.clone_from(&settings.dead_letter);
    Some(spec)
}

fn count(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
