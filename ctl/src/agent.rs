//! Asks one agent, on the address where it tells this machine what it knows.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::header::HOST;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// The longest that an answer may take; a dump of a large table takes a few seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where an agent answers.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Address {
    /// The agent, as its --health-listen says.
    #[arg(long = "agent", default_value = "http://127.0.0.1:9179")]
    uri: Uri,
}

impl Address {
    /// The agent there.
    pub(crate) fn at(uri: Uri) -> Self {
        Self { uri }
    }

    /// What stands at a path. An answer that is no success becomes an error with the agent's words.
    pub(crate) async fn get(&self, path: &str) -> Result<Bytes> {
        if self.uri.scheme_str() != Some("http") {
            bail!("{} is no address of an agent: write http://127.0.0.1:9179", self.uri);
        }
        let host = self.uri.authority().context("an agent has an address and a port")?.as_str();
        match tokio::time::timeout(PATIENCE, ask(host, path)).await {
            Ok(answer) => answer,
            Err(_) => bail!("the agent at {host} does not answer"),
        }
    }
}

async fn ask(host: &str, path: &str) -> Result<Bytes> {
    let stream = TcpStream::connect(host)
        .await
        .with_context(|| format!("no agent answers at {host}: run this on its node, or say --agent"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let _driver = tokio::spawn(connection);
    let request = Request::get(path).header(HOST, host).body(Empty::<Bytes>::new())?;
    let response =
        sender.send_request(request).await.with_context(|| format!("asking the agent at {host}"))?;
    let status = response.status();
    let body =
        response.into_body().collect().await.with_context(|| format!("the answer of {host} ended early"))?;
    let body = body.to_bytes();
    if status != StatusCode::OK {
        bail!("the agent says {}: {}", status.as_u16(), String::from_utf8_lossy(&body).trim_end());
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers one request with these octets; gives what was asked.
    async fn asked(path: &str, answer: &'static str) -> (String, Result<Bytes>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let uri = format!("http://{}", listener.local_addr().expect("bound")).parse().expect("a URI");
        let agent = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut request = vec![0; 1024];
            let length = stream.read(&mut request).await.expect("a request");
            stream.write_all(answer.as_bytes()).await.expect("sent");
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        let answer = Address { uri }.get(path).await;
        (agent.await.expect("answered"), answer)
    }

    #[tokio::test]
    async fn an_answer_is_given_as_it_is() {
        let (request, answer) =
            asked("/bgp/explain?prefix=10.0.0.0/8", "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nwhy").await;
        assert!(request.starts_with("GET /bgp/explain?prefix=10.0.0.0/8 HTTP/1.1\r\n"), "{request}");
        assert_eq!(answer.expect("a success"), "why");
    }

    #[tokio::test]
    async fn a_refusal_is_an_error_with_the_words_of_the_agent() {
        let refusal = "HTTP/1.1 400 Bad Request\r\ncontent-length: 10\r\n\r\nno prefix\n";
        let (_, answer) = asked("/bgp/explain?prefix=x", refusal).await;
        assert_eq!(answer.expect_err("a refusal").to_string(), "the agent says 400: no prefix");
    }
}
