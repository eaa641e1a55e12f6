//! A tool for the agent: a table of tides.

use std::convert::Infallible;

use rig_agent::tool::{Tool, ToolContext};
use serde::Deserialize;
use serde_json::{Value, json};

/// What the model wants to know.
#[derive(Debug, Deserialize)]
pub(crate) struct Question {
    port: String,
}

/// Knows when the tide is in.
pub(crate) struct TideTable;

impl Tool for TideTable {
    const NAME: &'static str = "tide_table";
    type Args = Question;
    type Output = String;
    type Error = Infallible;

    fn description(&self) -> String {
        "The times of high water in a port, today".to_owned()
    }

    fn parameters(&self) -> Value {
        json!({ "type": "object", "properties": { "port": { "type": "string" } }, "required": ["port"] })
    }

    async fn call(&self, _: &mut ToolContext, Question { port }: Question) -> Result<String, Infallible> {
        let times = if port == "Brest" { "04:12 and 16:37" } else { "unknown" };
        Ok(format!("high water in {port} is {times}"))
    }
}
