//! What sinks refer to: the sinks for their dead letters, and their fallbacks.

use std::sync::Arc;

use super::member::Member;
use super::plan::{Plan, SinkSpec, StartError};
use crate::sink::OnOpen;

fn references(spec: &SinkSpec) -> impl Iterator<Item = (&'static str, &str)> {
    let fallback = match &spec.on_open {
        OnOpen::Fallback(to) => Some(&**to),
        OnOpen::Buffer | OnOpen::Drop => None,
    };
    spec.dead_letter
        .as_deref()
        .map(|to| ("dead_letter", to))
        .into_iter()
        .chain(fallback.map(|to| ("fallback", to)))
}

/// Returns the sinks that are named as dead-letter or fallback sinks.
pub(super) fn targets(plan: &Plan) -> Vec<&str> {
    plan.sinks.iter().flat_map(references).map(|(_, to)| to).chain(plan.dead_letter.as_deref()).collect()
}

pub(super) fn check(plan: &Plan) -> Result<(), StartError> {
    for (place, spec) in plan.sinks.iter().enumerate() {
        if plan.sinks.iter().take(place).any(|other| other.name == spec.name) {
            return Err(StartError::TwoOfAName(spec.name.clone()));
        }
    }
    let known = |name: &str| plan.sinks.iter().any(|spec| spec.name == name);
    plan.sinks.iter().try_for_each(|spec| check_references(spec, known))?;
    match plan.dead_letter.as_deref().filter(|to| !known(to)) {
        Some(to) => Err(missing("the topology", "dead_letter", to)),
        None => Ok(()),
    }
}

pub(super) fn check_references(spec: &SinkSpec, known: impl Fn(&str) -> bool) -> Result<(), StartError> {
    let unknown = references(spec).find(|(_, to)| !known(to));
    unknown.map_or(Ok(()), |(role, to)| Err(missing(&spec.name, role, to)))
}

fn missing(from: &str, role: &'static str, to: &str) -> StartError {
    StartError::NoSuchSink { from: from.into(), to: to.into(), role }
}

/// Gives every sink the buffers of its fallback and its dead-letter sink.
pub(super) fn link(members: &[Arc<Member>]) {
    let find = |name: &str| members.iter().find(|other| other.is(name));
    for member in members {
        let worker = &member.worker;
        if let OnOpen::Fallback(to) = worker.buffer.on_open()
            && let Some(target) = find(to)
        {
            worker.buffer.set_fallback(&target.worker.buffer);
        }
        let target = member.dead_letter.as_deref().and_then(find);
        // Letters that would come back to their sender go to its file.
        let target = target.filter(|target| {
            let next = |at: &Arc<Member>| at.dead_letter.as_deref().and_then(find).cloned();
            let mut chain = std::iter::successors(Some((*target).clone()), next).take(members.len());
            !chain.any(|at| Arc::ptr_eq(&at, member))
        });
        worker.dead_letters.set_target(target.map(|target| target.worker.buffer.clone()));
    }
}
