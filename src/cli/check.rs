//! `streamll check`: every problem of every topology at once, without starting or connecting anything.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::{CONFIGURATION, Format, argument};
use crate::pipes;
use crate::topology::{LoadOptions, Registry, Severity, Topology, environments, unnamed};

/// The arguments of `check`.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// The folder that contains the topologies
    #[arg(long, value_name = "DIR", env = "STREAMLL_TOPOLOGIES", default_value = "topologies")]
    topologies: std::path::PathBuf,
    /// The environment to check; all of them by default
    #[arg(long, value_name = "NAME")]
    env: Option<String>,
    /// The format of the problems
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Accept unset variables, to check on a machine that does not have the secrets
    #[arg(long)]
    allow_unset: bool,
    /// Exit with an error for warnings, too
    #[arg(long)]
    deny_warnings: bool,
    /// Print the merged topology without secrets; each value has its origin beside it
    #[arg(long)]
    print: bool,
}

impl Check {
    pub(super) fn run(&self, kinds: &Registry) -> ExitCode {
        let names = self.env.clone().map_or_else(|| environments(&self.topologies), |name| vec![name]);
        if names.is_empty() {
            let folder = argument(&self.topologies.display().to_string());
            let why = format!("no topologies in {folder}; name their folder with --topologies");
            if self.format == Format::Json {
                let problem = json!({ "class": "missing", "severity": "error", "message": why });
                let report = json!({ "ok": false, "environments": [], "problems": [problem] });
                let _ = writeln!(pipes::stdout(), "{report}");
            }
            let _ = writeln!(pipes::stderr(), "streamll: {why}");
            return ExitCode::from(CONFIGURATION);
        }
        let options = LoadOptions { allow_unset: self.allow_unset, ..LoadOptions::from_process() };
        let colour =
            io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let (mut wrong, mut reports, mut text) = (false, Vec::new(), String::new());
        let denied = if self.deny_warnings { Severity::Warning } else { Severity::Error };
        let others = if self.env.is_none() { unnamed(&self.topologies) } else { Vec::new() };
        wrong |= others.iter().any(|problem| problem.severity <= denied);
        for problem in &others {
            text.push_str(problem.render(colour).trim_end());
            text.push_str("\n\n");
        }
        for name in names {
            let loaded = Topology::load_with(&self.topologies, &name, kinds, &options);
            let problems = match &loaded {
                Ok(topology) => topology.warnings(),
                Err(error) => &error.problems,
            };
            wrong |= problems.iter().any(|problem| problem.severity <= denied);
            let shown = argument(&name);
            for problem in problems {
                text.push_str(problem.render(colour).trim_end());
                text.push_str("\n\n");
            }
            match &loaded {
                Ok(topology) if self.print => text.push_str(topology.render()),
                Ok(_) if self.deny_warnings && !problems.is_empty() => {
                    text.push_str(&format!("{shown}: {}\n", count(problems.len(), "warning")));
                }
                Ok(_) => text.push_str(&format!("{shown}: ok\n")),
                Err(error) => {
                    let n =
                        error.problems.iter().filter(|problem| problem.severity == Severity::Error).count();
                    text.push_str(&format!("{shown}: {}\n", count(n, "problem")));
                }
            }
            let problems: Vec<_> = problems.iter().map(|problem| problem.to_json()).collect();
            let mut report = json!({ "environment": shown, "ok": loaded.is_ok(), "problems": problems });
            if let (true, Ok(topology)) = (self.print, &loaded) {
                report["merged"] = topology.render().into();
            }
            reports.push(report);
        }
        if self.format == Format::Json {
            let others: Vec<_> = others.iter().map(|problem| problem.to_json()).collect();
            let mut report = json!({ "ok": !wrong, "environments": reports });
            if !others.is_empty() {
                report["problems"] = others.into();
            }
            text = format!("{report}\n");
        }
        let _ = pipes::stdout().write_all(text.as_bytes());
        if wrong { ExitCode::from(CONFIGURATION) } else { ExitCode::SUCCESS }
    }
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
