//! Questions to the speaker from outside its thread, one after the other and a few at a time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use manx_bgp::{Explanation, Prefix, Speaker};
use tokio::sync::oneshot::channel as once;
use tokio::sync::{mpsc, oneshot};

/// Questions that wait.
const WAITING: usize = 4;
/// The longest that an answer may take: a speaker that has none by then is starting, or in a storm.
const PATIENCE: Duration = Duration::from_secs(20);

/// What can be asked, with the way back.
#[derive(Debug)]
pub enum Question {
    /// Why a prefix is where it is.
    Explain(Prefix, oneshot::Sender<Box<Explanation>>),
    /// The table as an MRT file (RFC 6396).
    Mrt(oneshot::Sender<Vec<u8>>),
}

impl Question {
    /// Answers out of the speaker's present state. Who asked may be gone; that is no error.
    pub(super) fn answer(self, speaker: &Speaker) {
        match self {
            Self::Explain(prefix, answer) => {
                let _gone = answer.send(Box::new(speaker.explain(&prefix)));
            }
            // A dump costs time and memory: none is made for who went away while waiting.
            Self::Mrt(answer) if answer.is_closed() => {}
            Self::Mrt(answer) => {
                let seconds = since_1970().as_secs();
                let _gone = answer.send(speaker.mrt(u32::try_from(seconds).unwrap_or(u32::MAX)));
            }
        }
    }
}

/// The time of day, counted from 1970.
pub(super) fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Where questions come from.
pub type Questions = mpsc::Receiver<Question>;

/// Asks the speaker.
#[derive(Debug, Clone)]
pub struct Asker(mpsc::Sender<Question>);

/// There was no answer in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the BGP speaker does not answer: it is starting, or busy; ask again")]
pub struct NoAnswer;

/// Makes the way of questions.
pub fn questions() -> (Asker, Questions) {
    let (asker, questions) = mpsc::channel(WAITING);
    (Asker(asker), questions)
}

impl Asker {
    /// Why a prefix is where it is.
    ///
    /// # Errors
    /// When there is no answer in time.
    pub async fn explain(&self, prefix: Prefix) -> Result<Box<Explanation>, NoAnswer> {
        self.ask(|answer| Question::Explain(prefix, answer)).await
    }

    /// The table as an MRT file; its size is that of the table.
    ///
    /// # Errors
    /// When there is no answer in time.
    pub async fn mrt(&self) -> Result<Vec<u8>, NoAnswer> {
        self.ask(Question::Mrt).await
    }

    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> Result<T, NoAnswer> {
        let (answer, answered) = once();
        let asked = async {
            self.0.send(question(answer)).await.ok()?;
            answered.await.ok()
        };
        tokio::time::timeout(PATIENCE, asked).await.ok().flatten().ok_or(NoAnswer)
    }
}
