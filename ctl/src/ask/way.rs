//! The ways to a node: exec by the API server, or a command. Both end the question on the node when they are dropped,
//! since its standard input ends then.

use std::process::Stdio;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{Api, AttachParams, AttachedProcess};
use kube::client::UpgradeConnectionError;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};

use super::{Agent, Away, CONTAINER};

/// Where the program is in the agent's image.
const IN_THE_POD: &str = "/usr/bin/manx-agent";
/// What it is called on the PATH of a node.
const PROGRAM: &str = "manx-agent";
/// Octets that are taken from a node before they are read here.
const AHEAD: usize = 64 << 10;
/// The longest line, in octets.
const LONGEST: u64 = 512 << 20;
/// What is kept of what a command says on standard error, in octets.
const WORDS: u64 = 4096;

/// How nodes are reached.
#[derive(Clone, Debug)]
pub(super) enum Way {
    /// By exec in the agents' pods.
    Exec(Arc<Api<Pod>>),
    /// By a command, `{node}` in its words standing for the node; on this machine if there are no words.
    Command(Vec<String>),
}

type Input = Box<dyn AsyncRead + Send + Unpin>;

/// A question that was put to a node.
pub(super) struct Conversation {
    lines: BufReader<Input>,
    words: Option<Input>,
    asked: Asked,
}

enum Asked {
    Exec { process: AttachedProcess, status: Option<BoxFuture<'static, Option<Status>>> },
    Command { child: Child, name: String },
}

impl Drop for Asked {
    fn drop(&mut self) {
        match self {
            Self::Exec { process, .. } => process.abort(),
            // It is killed, and its standard input ends.
            Self::Command { .. } => {}
        }
    }
}

impl Way {
    /// Puts a question to a node.
    pub(super) async fn begin(self, node: &str, agent: Agent, question: &str) -> Result<Conversation, Away> {
        match self {
            Self::Exec(pods) => exec(&pods, agent, question).await,
            Self::Command(words) => command(&words, node, question).await.map_err(Away::Exec),
        }
    }
}

async fn exec(pods: &Api<Pod>, agent: Agent, question: &str) -> Result<Conversation, Away> {
    if let Some(why) = agent.waits {
        let pod = agent.pod;
        return Err(Away::Exec(format!(
            "its agent does not run ({why}): look at `kubectl -n manx-system describe pod {pod}`"
        )));
    }
    let options = agent.options.iter().map(String::as_str);
    let command = [IN_THE_POD, "look", "--attended"].into_iter().chain(options).chain([question]);
    let how = AttachParams {
        max_stdout_buf_size: Some(AHEAD),
        ..AttachParams::default().container(CONTAINER).stdin(true).stderr(true)
    };
    let process = pods.exec(&agent.pod, command, &how).await;
    let mut process = process.map_err(|error| Away::Exec(refusal(&agent.pod, &error)))?;
    let lines: Input = Box::new(process.stdout().expect("it was asked for"));
    let words: Option<Input> = process.stderr().map(|words| Box::new(words) as Input);
    let status = process.take_status().map(FutureExt::boxed);
    Ok(Conversation { lines: BufReader::new(lines), words, asked: Asked::Exec { process, status } })
}

/// Why the API server does not let us, with what to do.
fn refusal(pod: &str, error: &kube::Error) -> String {
    let code = match error {
        kube::Error::UpgradeConnection(UpgradeConnectionError::ProtocolSwitch(code)) => code.as_u16(),
        kube::Error::Api(status) => status.code,
        other => return format!("cannot exec into pod {pod}: {other}"),
    };
    match code {
        401 | 403 => format!(
            "you may not exec into pod {pod}: have yourself bound to the Role manx-operator, or go another way with \
             --through 'ssh root@{{node}}'"
        ),
        404 => format!("pod {pod} is gone: ask again"),
        // Its words are lost: the API server says them in a body that a refused upgrade does not give.
        500..=599 => format!(
            "the API server cannot reach its kubelet to exec into pod {pod} ({code}): the node is away, or its agent's \
             container does not run; go another way with --through 'ssh root@{{node}}'"
        ),
        _ => format!("cannot exec into pod {pod}: the API server says {code}"),
    }
}

async fn command(words: &[String], node: &str, question: &str) -> Result<Conversation, String> {
    let words: Vec<String> = words.iter().map(|word| word.replace("{node}", node)).collect();
    let more = [PROGRAM, "look", "--attended", "-"].map(str::to_owned);
    let mut all = words.into_iter().chain(more);
    let program = all.next().expect("there are always words");
    let child = Command::new(&program)
        .args(all)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = child.map_err(|error| format!("cannot run {program}: {error}"))?;
    let lines: Input = Box::new(child.stdout.take().expect("it was asked for"));
    let words: Option<Input> = child.stderr.take().map(|words| Box::new(words) as Input);
    if let Some(input) = &mut child.stdin {
        // One that ended already says why when it is read.
        let _ended = input.write_all(format!("{question}\n").as_bytes()).await;
    }
    Ok(Conversation { lines: BufReader::new(lines), words, asked: Asked::Command { child, name: program } })
}

impl Conversation {
    /// The next line; `None` when there are no more and all is well.
    ///
    /// # Errors
    /// Why there are no more, in words.
    pub(super) async fn line(&mut self) -> Result<Option<Vec<u8>>, String> {
        let mut line = Vec::new();
        let read = (&mut self.lines).take(LONGEST).read_until(b'\n', &mut line).await;
        match read {
            Ok(_) if line.last() == Some(&b'\n') => Ok(Some(line)),
            Ok(_) => self.ended().await.map_or(Ok(None), Err),
            Err(error) => Err(format!("the connection to it was lost: {error}")),
        }
    }

    /// Why it ended; `None` if all was well.
    async fn ended(&mut self) -> Option<String> {
        let mut words = String::new();
        if let Some(from) = self.words.take() {
            let _unread = from.take(WORDS).read_to_string(&mut words).await;
        }
        let words = words.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned);
        match &mut self.asked {
            Asked::Command { child, name } => match child.wait().await {
                Ok(status) if status.success() => None,
                Ok(status) => Some(format!("{name} ended: {}", words.unwrap_or_else(|| status.to_string()))),
                Err(error) => Some(format!("{name} cannot be waited for: {error}")),
            },
            Asked::Exec { status, .. } => {
                let status = status.take()?.await;
                match status {
                    Some(status) if status.status.as_deref() == Some("Success") => None,
                    Some(status) => Some(words.or(status.message).unwrap_or_else(|| "it failed".to_owned())),
                    None => Some("the connection to it was lost".to_owned()),
                }
            }
        }
    }
}
