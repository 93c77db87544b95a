//! What can be asked of a run through its control socket: a word, and who answers it.

use std::collections::BTreeMap;
use std::pin::Pin;

/// An answer that comes.
pub type Answer = Pin<Box<dyn Future<Output = String> + Send>>;

type Verb = Box<dyn Fn(&str) -> Answer + Send + Sync>;

/// The words that are known.
#[derive(Default)]
pub struct Verbs(BTreeMap<&'static str, Verb>);

impl Verbs {
    /// From now on `answer` is given what stands behind `word`; what it returns ends with a line feed.
    pub fn add(
        &mut self,
        word: &'static str,
        answer: impl Fn(&str) -> Answer + Send + Sync + 'static,
    ) {
        self.0.insert(word, Box::new(answer));
    }

    /// Answers a request: a word, and what it is to be told behind a space.
    pub async fn answer(&self, request: &str) -> String {
        let request = request.trim();
        let (word, rest) = request.split_once(' ').unwrap_or((request, ""));
        match self.0.get(word) {
            Some(verb) => verb(rest.trim()).await,
            None => {
                let known: Vec<&str> = self.0.keys().copied().collect();
                let error = format!("unknown request; there are: {}", known.join(", "));
                format!("{}\n", serde_json::json!({ "error": error }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_finds_who_answers_it() {
        let mut verbs = Verbs::default();
        verbs.add("say", |rest| {
            let said = format!("<{rest}>\n");
            Box::pin(async move { said })
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let answer = |request: &str| runtime.block_on(verbs.answer(request));
        assert_eq!(answer("say a  b \r\n"), "<a  b>\n");
        assert_eq!(answer("say"), "<>\n");
        for wrong in ["", "sa", "SAY", "\0"] {
            let answer = answer(wrong);
            assert!(answer.contains("there are: say"), "{answer}");
        }
    }
}
