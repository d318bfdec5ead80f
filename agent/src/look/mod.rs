//! `manx-agent look`: answers one question about this node, in a process of its own, and ends. It works beside an agent
//! that hangs, or without one. What cannot be read is said in the answer.

mod bgp;
mod certificates;
mod cnifiles;
mod counters;
mod features;
mod forwarding;
mod guards;
mod host;
mod kernel;
mod links;
mod listeners;
mod node;
mod page;
mod pod;
mod probe;
mod programs;
mod reach;
mod record;
mod room;
mod routes;
mod settings;

use std::io::{self, BufRead as _, Read as _, Write};
use std::process::ExitCode;

use manx_facts::bgp::BgpQuestion;
use manx_facts::{Question, Reply};
use serde::Serialize;
use tokio::sync::oneshot::{self, channel as once};

use crate::shell::options::Look;

/// The longest question that is read from standard input, in octets.
const LONGEST: u64 = 64 << 10;

/// Answers on standard output: one line of JSON for each answer.
pub fn look(options: &Look) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let answered = runtime.block_on(answer_or_leave(options));
    // Standard input may still be waited for.
    runtime.shutdown_background();
    match answered {
        Ok(()) => ExitCode::SUCCESS,
        // Who asked has gone away.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn answer_or_leave(options: &Look) -> io::Result<()> {
    let from_stdin = options.question == "-";
    let (first, left) = if from_stdin || options.attended {
        let (line, lines) = once();
        let (leave, left) = once::<()>();
        std::thread::spawn(move || attend(from_stdin, line, leave));
        (Some(lines), Some(left))
    } else {
        (None, None)
    };
    let question = match first.filter(|_| from_stdin) {
        Some(line) => line.await.unwrap_or_default(),
        None => options.question.clone(),
    };
    let mut lines = Lines(io::stdout());
    let question: Question = match serde_json::from_str(&question) {
        Ok(question) => question,
        Err(error) => return lines.error(&unknown(&error)),
    };
    match left.filter(|_| options.attended) {
        None => answer(question, options, &mut lines).await,
        Some(left) => tokio::select! {
            answered = answer(question, options, &mut lines) => answered,
            _ = left => Ok(()),
        },
    }
}

/// Reads standard input to its end, which is how somebody far away says that nobody waits any more.
fn attend(with_question: bool, line: oneshot::Sender<String>, leave: oneshot::Sender<()>) {
    let mut input = io::stdin().lock();
    let mut first = String::new();
    if with_question && input.by_ref().take(LONGEST).read_line(&mut first).is_ok() {
        let _gone = line.send(first);
    }
    let _ended = io::copy(&mut input, &mut io::sink());
    drop(leave);
}

fn unknown(error: &serde_json::Error) -> String {
    format!(
        "manx-agent {} does not know this question ({error}): use the manxctl of its version",
        env!("CARGO_PKG_VERSION")
    )
}

async fn answer<W: Write>(question: Question, place: &Look, lines: &mut Lines<W>) -> io::Result<()> {
    match question {
        Question::Node(_) => lines.ok(&node::look(place).await),
        Question::Kernel(question) => lines.ok(&kernel::look_at_node(&question)),
        Question::Record(_) => lines.ok(&record::look(&place.run_dir)),
        Question::Pod(question) => lines.ok(&pod::look(&question, &place.run_dir)),
        Question::Watch(question) => probe::watch(&question, place, lines).await,
        Question::Probe(question) => probe::probe(&question, place, lines).await,
        Question::Bgp(BgpQuestion::Explain(question)) => match bgp::explain(&question, place).await {
            Ok(explained) => lines.ok(&explained),
            Err(why) => lines.error(&why),
        },
        Question::Bgp(BgpQuestion::Routes(question)) => match bgp::routes(&question, place).await {
            Ok(routes) => lines.ok(&routes),
            Err(why) => lines.error(&why),
        },
        Question::Counters(question) => counters::look(&question, place.health_listen, lines).await,
        Question::Host(question) => lines.ok(&host::host(&question, place).await),
    }
}

/// Where answers go.
pub(crate) struct Lines<W>(W);

impl<W: Write> Lines<W> {
    /// Writes an answer.
    pub(crate) fn ok<T: Serialize>(&mut self, answer: &T) -> io::Result<()> {
        self.line(&Reply::Ok(answer))
    }

    /// Writes why there is no answer, or none any more.
    pub(crate) fn error(&mut self, why: &str) -> io::Result<()> {
        self.line(&Reply::<()>::Error(why.to_owned()))
    }

    fn line<T: Serialize>(&mut self, reply: &Reply<T>) -> io::Result<()> {
        let mut line = serde_json::to_vec(reply)?;
        line.push(b'\n');
        self.0.write_all(&line)?;
        self.0.flush()
    }
}
