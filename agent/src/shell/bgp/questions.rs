//! Questions to the speaker from outside its thread, one after the other and a few at a time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use manx_bgp::{Explanation, PeerId, Prefix, Speaker};
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
    /// The same of the longest prefix with a path that holds it.
    ExplainCovering(Prefix, oneshot::Sender<Box<Explanation>>),
    /// The explanations of a part of the table.
    Part(Part, oneshot::Sender<Explained>),
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
            Self::ExplainCovering(prefix, answer) => {
                let prefix = speaker.covering(&prefix).unwrap_or(prefix);
                let _gone = answer.send(Box::new(speaker.explain(&prefix)));
            }
            Self::Part(part, answer) => {
                let told = |peer: &PeerId| part.told.wants(peer);
                let _gone = answer.send(speaker.part(part.from, part.within.as_ref(), told));
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

/// A part of the table, of a bounded size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The number of the first prefix.
    pub from: u32,
    /// Only prefixes in this one.
    pub within: Option<Prefix>,
    /// Of whom it is said what they are told.
    pub told: ToldTo,
}

/// Of whom it is said what they are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToldTo {
    /// Of nobody.
    Nobody,
    /// Of one peer.
    One(PeerId),
    /// Of every peer.
    All,
}

impl ToldTo {
    fn wants(&self, peer: &PeerId) -> bool {
        match self {
            Self::Nobody => false,
            Self::One(one) => one == peer,
            Self::All => true,
        }
    }
}

/// Explanations, and the number from which to go on unless those were all.
pub type Explained = (Vec<Explanation>, Option<u32>);

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

    /// The same of the longest prefix with a path that holds it.
    ///
    /// # Errors
    /// When there is no answer in time.
    pub async fn explain_covering(&self, prefix: Prefix) -> Result<Box<Explanation>, NoAnswer> {
        self.ask(|answer| Question::ExplainCovering(prefix, answer)).await
    }

    /// A part of the table. Sessions wait no longer for it than for a few UPDATEs.
    ///
    /// # Errors
    /// When there is no answer in time.
    pub async fn part(&self, part: Part) -> Result<Explained, NoAnswer> {
        self.ask(|answer| Question::Part(part, answer)).await
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
