//! Changes a graph while it runs: sinks are added, removed and replaced.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::member::Member;
use super::plan::{SinkSpec, StartError};
use super::references::{check_references, link};
use super::status::merge;
use super::{GraphHandle, SinkHandle, after, drain, lock};
use crate::route::Route;
use crate::sink::SinkStatus;

impl GraphHandle {
    /// Adds a sink while the graph runs. The sink gets the events that are routed from now on.
    ///
    /// # Errors
    ///
    /// If there is a sink of that name, if a sink that it refers to is missing, or if the graph drains.
    pub async fn add_sink(&self, spec: SinkSpec) -> Result<(), StartError> {
        if self.0.draining.load(Ordering::SeqCst) {
            return Err(StartError::Draining);
        }
        let check = |sinks: &[Arc<Member>]| {
            if sinks.iter().any(|member| member.is(&spec.name)) {
                return Err(StartError::TwoOfAName(spec.name.clone()));
            }
            check_references(&spec, |name| sinks.iter().any(|member| member.is(name)))
        };
        check(&lock(&self.0.sinks))?;
        let member = self.member(&spec);
        self.put_on_disk(&member)?;
        let member = {
            let mut sinks = lock(&self.0.sinks);
            check(&sinks)?;
            sinks.push(member.clone());
            // Others may have pointed at an earlier sink of that name.
            link(&sinks);
            let routes = self.0.table.routes.load();
            let with = routes.iter().cloned().chain([self.route(&spec, &member)]).collect();
            self.publish_routes(with);
            member
        };
        self.employ(&member).await;
        Ok(())
    }

    /// Removes a sink while the graph runs. The sink gets the events that were emitted before this call, and no later
    /// ones. It delivers the waiting events until the deadline, and stops. Its numbers stay in the report.
    ///
    /// Returns its last status, or `None` if there is no sink of that name.
    pub async fn remove_sink(&self, name: &str, deadline: Duration) -> Option<SinkStatus> {
        let deadline = after(deadline);
        self.sink(name)?;
        let _ = timeout_at(deadline, self.0.emitter.routed()).await;
        let member = {
            let mut sinks = lock(&self.0.sinks);
            let place = sinks.iter().position(|member| member.is(name))?;
            let member = sinks.remove(place);
            let routes = self.0.table.routes.load();
            self.publish_routes(routes.iter().filter(|route| &*route.name != name).cloned().collect());
            lock(&self.0.leaving).push(member.clone());
            member
        };
        self.dismiss(&member, deadline).await;
        Some(SinkHandle(member).status())
    }

    /// Replaces the sink of the same name, or adds the sink if there is none.
    ///
    /// Every event goes to one of the two. The new sink gets the events from now on. It begins to deliver when the old
    /// sink has stopped, at the deadline at the latest.
    ///
    /// # Errors
    ///
    /// The errors of [`Self::add_sink`]. If the disk buffer of the new sink cannot be opened, the sink runs all the
    /// same, with a buffer in memory.
    pub async fn replace_sink(&self, spec: SinkSpec, deadline: Duration) -> Result<(), StartError> {
        if self.sink(&spec.name).is_none() {
            return self.add_sink(spec).await;
        }
        if self.0.draining.load(Ordering::SeqCst) {
            return Err(StartError::Draining);
        }
        let member = self.member(&spec);
        let old = {
            let mut sinks = lock(&self.0.sinks);
            check_references(&spec, |name| sinks.iter().any(|member| member.is(name)))?;
            let old = sinks.iter_mut().find(|old| old.is(&spec.name));
            let old = old.map(|old| std::mem::replace(old, member.clone()));
            lock(&self.0.leaving).extend(old.clone());
            link(&sinks);
            let new = self.route(&spec, &member);
            let routes = self.0.table.routes.load();
            let place = |route: &Arc<Route>| if *route.name == *new.name { &new } else { route }.clone();
            self.publish_routes(routes.iter().map(place).collect());
            old
        };
        if let Some(old) = old {
            self.dismiss(&old, after(deadline)).await;
        }
        // Only now the old one has let go of the folder, unless its disk hangs.
        let on_disk = self.put_on_disk(&member);
        if let Err(error) = &on_disk {
            member.worker.buffer.stay_in_memory(error.to_string());
        }
        self.employ(&member).await;
        on_disk
    }

    /// Ends a sink that gets no new events.
    async fn dismiss(&self, member: &Arc<Member>, deadline: Instant) {
        // The router has let go of it once something new has come through.
        let _ = timeout_at(deadline, self.0.emitter.routed()).await;
        drain::stop(self, std::slice::from_ref(member), deadline).await;
        if !Arc::ptr_eq(&member.place, &self.0.spine) {
            member.place.close();
        }
        let mut leaving = lock(&self.0.leaving);
        leaving.retain(|other| !Arc::ptr_eq(other, member));
        merge(&mut lock(&self.0.removed), SinkHandle(member.clone()).status());
    }
}
