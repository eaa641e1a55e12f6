//! Retrieval over a handful of documents: those that share most with the question, rare words first.

use std::collections::HashSet;

/// What can be found.
pub(crate) struct Document {
    pub(crate) id: &'static str,
    pub(crate) text: &'static str,
}

const DOCUMENTS: [Document; 6] = [
    Document {
        id: "tides.md#1",
        text: "On most coasts tides come twice a day: the Moon pulls harder on the near side of the Earth than on the \
               far side, so that the water bulges on both, and every coast passes through two bulges a day.",
    },
    Document {
        id: "tides.md#2",
        text: "When Sun and Moon stand in one line, their pulls add up: spring tides are higher than others. At half \
               moon they work against each other, and neap tides are low.",
    },
    Document {
        id: "ports.md#1",
        text: "A ship with a deep draught waits outside of the port until the water is high enough.",
    },
    Document {
        id: "lights.md#1",
        text: "Every lighthouse has a character of its own. Whoever counts the flashes of its beam, and the seconds \
               between them, knows which lighthouse it is.",
    },
    Document {
        id: "lights.md#2",
        text: "A red beam says that there is danger ahead; a white one that the way is free.",
    },
    Document {
        id: "knots.md#1",
        text: "A bowline makes a loop that neither slips nor jams, and that is untied even after a heavy load.",
    },
];

/// All documents, each with its words.
pub(crate) struct Library(Vec<(Document, HashSet<String>)>);

impl Default for Library {
    fn default() -> Library {
        Library(DOCUMENTS.map(|document| (Document { ..document }, words(document.text).collect())).into())
    }
}

impl Library {
    /// The `most` documents that say most of what is asked for, the best first.
    pub(crate) fn search(&self, question: &str, most: usize) -> Vec<&Document> {
        let asked: HashSet<_> = words(question).collect();
        // A word that few documents have says more than one that all have.
        let weight = |word: &String| {
            let with = self.0.iter().filter(|(_, words)| words.contains(word)).count();
            (self.0.len() as f64 / with as f64).ln()
        };
        let score = |words: &HashSet<String>| words.intersection(&asked).map(weight).sum::<f64>();
        let mut found: Vec<_> = self.0.iter().map(|(document, words)| (score(words), document)).collect();
        found.retain(|(score, _)| *score > 0.0);
        found.sort_by(|(one, _), (other, _)| other.total_cmp(one));
        found.into_iter().take(most).map(|(_, document)| document).collect()
    }
}

/// The words of a text, without those that stand everywhere.
fn words(text: &str) -> impl Iterator<Item = String> {
    let words = text.split(|c: char| !c.is_alphanumeric()).map(str::to_lowercase);
    words.filter(|word| word.len() > 3)
}
