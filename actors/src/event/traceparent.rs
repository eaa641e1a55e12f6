//! The header `traceparent` of W3C Trace Context, which names a step to other services.

/// Whether a text is the id of a trace: 32 hexadecimal digits in lower case, not all of them zero
/// (<https://www.w3.org/TR/trace-context/#trace-id>).
#[must_use]
pub fn is_trace_id(text: &str) -> bool {
    is_id(text, 32)
}

/// Whether a text is the id of a span: 16 hexadecimal digits in lower case, not all of them zero
/// (<https://www.w3.org/TR/trace-context/#parent-id>).
#[must_use]
pub fn is_span_id(text: &str) -> bool {
    is_id(text, 16)
}

fn is_id(text: &str, digits: usize) -> bool {
    text.len() == digits
        && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        && text.bytes().any(|byte| byte != b'0')
}

/// The header of a step whose trace is sampled; `None` if its ids cannot be those of a trace.
pub(super) fn header(execution_id: &str, span_id: &str) -> Option<Box<str>> {
    if !is_span_id(span_id) {
        return None;
    }
    if is_trace_id(execution_id) {
        return Some(format!("00-{execution_id}-{span_id}-01").into());
    }
    // A UUID has the size of a trace id, with hyphens and perhaps in upper case.
    let trace_id: String =
        execution_id.chars().filter(|c| *c != '-').map(|c| c.to_ascii_lowercase()).collect();
    is_trace_id(&trace_id).then(|| format!("00-{trace_id}-{span_id}-01").into())
}

#[cfg(test)]
mod tests {
    use super::super::{Context, Step, StepParts};

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn step(execution_id: &str, span_id: &str) -> Step {
        Step::from(StepParts {
            module_name: "M".into(),
            method_name: None,
            operation: None,
            execution_id: execution_id.into(),
            span_id: span_id.into(),
            parent_id: None,
            context: Context::empty(),
        })
    }

    #[test]
    fn a_step_has_a_header_where_its_ids_are_of_the_size_of_a_trace() {
        let header = format!("00-{TRACE}-{SPAN}-01");
        assert_eq!(step(TRACE, SPAN).traceparent(), Some(&*header));
        let uuid = "4BF92F35-77b3-4da6-a3ce-929d0e0e4736";
        assert_eq!(step(uuid, SPAN).traceparent(), Some(&*header), "a UUID, without its hyphens");
        for (execution_id, span_id) in [
            ("run", SPAN),
            (TRACE, "s"),
            (&*"0".repeat(32), SPAN),
            (TRACE, &*"0".repeat(16)),
            (TRACE, "00F067AA0BA902B7"),
            (TRACE, "é0f067aa0ba902b"),
            (&*format!("{TRACE}0"), SPAN),
        ] {
            assert_eq!(step(execution_id, span_id).traceparent(), None, "{execution_id} {span_id}");
        }
    }

    #[test]
    fn each_step_has_a_header_of_its_own_which_is_rendered_once() {
        let root = Step::new("M");
        let header = root.traceparent().expect("the ids of a new step are those of a trace").to_owned();
        let child = root.child();
        assert_ne!(child.traceparent(), Some(&*header));
        let clone = root.clone();
        assert!(std::ptr::eq(clone.traceparent().unwrap(), root.traceparent().unwrap()));
        assert_eq!(root.operation("llm_call").traceparent(), Some(&*header), "the ids have stayed");
    }
}
