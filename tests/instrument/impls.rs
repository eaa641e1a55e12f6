//! Whole `impl` blocks, inherent and of traits.

use std::fmt::Debug;

use async_trait::async_trait;
use streamll::instrument;

use super::{lines, record, record_async};

struct Store<T> {
    documents: Vec<T>,
}

#[instrument(inputs = false, skip(secret))]
impl<T: Clone + Debug> Store<T> {
    /// How many it keeps.
    const LIMIT: usize = 2;

    fn new(first: T) -> Self {
        Store { documents: vec![first] }
    }

    fn add(&mut self, document: T) -> Result<&mut T, String> {
        if self.documents.len() >= Self::LIMIT {
            return Err(format!("full: {} documents", Self::LIMIT));
        }
        self.documents.push(document);
        self.documents.last_mut().ok_or_else(String::new)
    }

    #[streamll(skip)]
    fn quiet(&self) -> usize {
        self.documents.len()
    }

    #[streamll(skip)]
    const fn limit() -> usize {
        Self::LIMIT
    }

    #[instrument(operation = "louder", module = "Loud", outputs = false)]
    fn loud(&self, level: u8) -> u8 {
        level
    }

    async fn into_all(self, secret: &str) -> Vec<T> {
        let _ = secret;
        tokio::task::yield_now().await;
        self.documents
    }
}

#[test]
fn every_method_of_a_block_is_instrumented_but_those_that_opt_out() {
    let (all, events) = record_async(async {
        let mut store = Store::new("a");
        *store.add("b").unwrap() = "B";
        assert_eq!(store.add("c").unwrap_err(), "full: 2 documents");
        assert_eq!((store.quiet(), Store::<u8>::limit(), store.loud(3)), (2, 2, 3));
        store.into_all("hush").await
    });
    assert_eq!(all, ["a", "B"]);
    assert_eq!(
        lines(&events),
        [
            "start new {}",
            r#"end new {"output":"instrument::impls::Store<&str>"}"#,
            "start add {}",
            r#"end add {"output":"\"b\""}"#,
            "start add {}",
            r#"error add {"error_type":"Error","error_message":"full: 2 documents"}"#,
            r#"start louder {"level":3}"#,
            "end louder {}",
            "start into_all {}",
            r#"end into_all {"output":"[\"a\", \"B\"]"}"#,
        ]
    );
    assert_eq!(events[0]["module_name"], "Store");
    assert_eq!(events[6]["module_name"], "Loud");
}

trait Search {
    fn search(&self, query: &str) -> Vec<String>;

    #[instrument]
    fn first(&self, query: &str) -> Option<String> {
        self.search(query).into_iter().next()
    }
}

struct Words;
struct Letters;

#[instrument]
impl Search for Words {
    fn search(&self, query: &str) -> Vec<String> {
        query.split(' ').map(str::to_owned).collect()
    }
}

#[instrument]
impl Search for Letters {
    fn search(&self, query: &str) -> Vec<String> {
        query.chars().map(String::from).collect()
    }
}

#[test]
fn a_method_of_a_trait_belongs_to_the_type_that_it_is_called_on() {
    let (given, events) = record(|| {
        let all: [&dyn Search; 2] = [&Words, &Letters];
        all.map(|one| one.first("forty two"))
    });
    assert_eq!(given.map(Option::unwrap), ["forty", "f"]);
    let names: Vec<_> = events
        .iter()
        .map(|e| format!("{}.{}", e["module_name"].as_str().unwrap(), e["method_name"].as_str().unwrap()))
        .collect();
    let calls = |name: &str| ["first", "search", "search", "first"].map(|method| format!("{name}.{method}"));
    assert_eq!(names, [calls("Words"), calls("Letters")].concat());
}

#[async_trait]
trait Model: Send + Sync {
    async fn complete(&self, prompt: &str) -> Result<String, std::fmt::Error>;
    async fn name<'a>(&'a self, prefix: &'a str) -> &'a str {
        prefix
    }
}

struct Outer;
struct Inner;
struct Each;

#[instrument]
#[async_trait]
impl Model for Outer {
    async fn complete(&self, prompt: &str) -> Result<String, std::fmt::Error> {
        let shouted = self.name(prompt).await;
        Ok(format!("{shouted}!"))
    }
}

#[async_trait]
#[instrument]
impl Model for Inner {
    async fn complete(&self, prompt: &str) -> Result<String, std::fmt::Error> {
        tokio::task::yield_now().await;
        Ok(format!("{prompt}!"))
    }
}

#[async_trait]
impl Model for Each {
    #[instrument(operation = "llm_call")]
    async fn complete(&self, prompt: &str) -> Result<String, std::fmt::Error> {
        tokio::task::yield_now().await;
        if prompt.is_empty() {
            Err(std::fmt::Error)?;
        }
        Ok(format!("{prompt}!"))
    }

    #[instrument]
    async fn name<'a>(&'a self, prefix: &'a str) -> &'a str {
        prefix
    }
}

#[test]
fn methods_of_async_trait_are_instrumented_whichever_attribute_comes_first() {
    for (model, name) in [(&Outer as &dyn Model, "Outer"), (&Inner, "Inner")] {
        let (given, events) = record_async(async { model.complete("hi").await });
        assert_eq!(given.unwrap(), "hi!");
        assert_eq!(lines(&events), [r#"start complete {"prompt":"hi"}"#, r#"end complete {"output":"hi!"}"#]);
        assert_eq!(events[0]["module_name"], name);
    }
}

#[test]
fn a_method_inside_of_async_trait_is_instrumented_by_an_attribute_of_its_own() {
    let (_, events) = record_async(async {
        let task = streamll::carry(async { (Each.complete("hi").await, Each.complete("").await) });
        let given = tokio::spawn(task).await.unwrap();
        assert!(given.0.is_ok() && given.1.is_err());
        assert_eq!(Each.name("x").await, "x");
    });
    assert_eq!(
        lines(&events),
        [
            r#"start llm_call {"prompt":"hi"}"#,
            r#"end llm_call {"output":"hi!"}"#,
            r#"start llm_call {"prompt":""}"#,
            r#"error llm_call {"error_type":"fmt::Error","error_message":"an error occurred when formatting an argument"}"#,
            r#"start name {"prefix":"x"}"#,
            r#"end name {"output":"x"}"#,
        ]
    );
    assert_eq!(events[0]["module_name"], "Each");
}
