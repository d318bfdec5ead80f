//! A real Chromium without a window, driven by its DevTools protocol over a WebSocket.

use std::collections::VecDeque;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

const PATIENCE: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(100);

/// No window, no graphics card, nothing that asks the Internet.
const OPTIONS: [&str; 13] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--font-render-hinting=none",
    "--remote-debugging-port=0",
];

/// The browser; it ends with this value.
pub struct Browser {
    address: String,
    _process: Child,
    _folder: tempfile::TempDir,
}

/// A page in it.
pub struct Tab {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    number: u64,
    session: String,
    complaints: Vec<String>,
    asked: Vec<String>,
    waiting: VecDeque<Value>,
}

impl Browser {
    /// Starts one; `None` where there is none, which is a failure under CI.
    pub async fn start() -> Result<Option<Self>> {
        let program = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
        let Some(program) = program.into_iter().find(|program| Path::new(program).exists()) else {
            println!("skipped: there is no Chromium; cargo xtask setup installs it");
            ensure!(std::env::var_os("CI").is_none(), "Chromium is missing under CI");
            return Ok(None);
        };
        let folder = tempfile::tempdir()?;
        let mut process = Command::new(program)
            .args(OPTIONS)
            .arg(format!("--user-data-dir={}", folder.path().display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(process.stderr.take().context("a pipe")?).lines();
        let address = tokio::time::timeout(PATIENCE, async {
            while let Some(line) = lines.next_line().await? {
                if let Some(address) = line.strip_prefix("DevTools listening on ") {
                    return Ok(address.to_owned());
                }
            }
            bail!("Chromium ended at once")
        })
        .await??;
        // What it says further must be read by somebody.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Some(Self { address, _process: process, _folder: folder }))
    }

    /// A page of this size.
    pub async fn open(&mut self, width: u32, height: u32) -> Result<Tab> {
        let (socket, _) = connect_async(&self.address).await?;
        let mut tab = Tab {
            socket,
            number: 0,
            session: String::new(),
            complaints: Vec::new(),
            asked: Vec::new(),
            waiting: VecDeque::new(),
        };
        let target = tab.call("Target.createTarget", json!({"url": "about:blank"})).await?;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = tab.call("Target.attachToTarget", attach).await?;
        tab.session = session["sessionId"].as_str().context("a session")?.to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            tab.call(&format!("{domain}.enable"), json!({})).await?;
        }
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        tab.call("Emulation.setDeviceMetricsOverride", size).await?;
        tab.light().await?;
        Ok(tab)
    }
}

impl Tab {
    /// Sends a command and waits for its answer; events meanwhile are noted.
    async fn call(&mut self, method: &str, params: Value) -> Result<Value> {
        self.number += 1;
        let mut command = json!({"id": self.number, "method": method, "params": params});
        if !self.session.is_empty() {
            command["sessionId"] = json!(self.session);
        }
        self.socket.send(Message::text(command.to_string())).await?;
        loop {
            let message = tokio::time::timeout(PATIENCE, self.socket.next())
                .await
                .with_context(|| method.to_owned())?;
            let text = message.context("the browser is gone")??.into_text()?;
            let said: Value = serde_json::from_str(&text)?;
            if said["id"] == self.number {
                ensure!(said["error"].is_null(), "{method}: {}", said["error"]);
                return Ok(said["result"].clone());
            }
            self.note(said);
        }
    }

    fn note(&mut self, said: Value) {
        let params = &said["params"];
        match said["method"].as_str().unwrap_or_default() {
            "Runtime.exceptionThrown" => self.complaints.push(params["exceptionDetails"].to_string()),
            "Runtime.consoleAPICalled" if params["type"] != "log" => {
                self.complaints.push(params["args"].to_string())
            }
            "Log.entryAdded" => self.complaints.push(params["entry"].to_string()),
            "Network.requestWillBeSent" => {
                self.asked.extend(params["request"]["url"].as_str().map(str::to_owned));
            }
            _ => self.waiting.clear(),
        }
    }

    /// What the console said.
    pub fn complaints(&self) -> &[String] {
        &self.complaints
    }

    /// Every address that was asked for.
    pub fn asked(&self) -> &[String] {
        &self.asked
    }

    /// Opens an address.
    pub async fn go(&mut self, address: &str) -> Result<()> {
        let opened = self.call("Page.navigate", json!({"url": address})).await?;
        ensure!(opened["errorText"].is_null(), "{address}: {}", opened["errorText"]);
        Ok(())
    }

    /// The value of an expression in the page.
    pub async fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let asked = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.call("Runtime.evaluate", asked).await?;
        ensure!(answer["exceptionDetails"].is_null(), "{expression}: {}", answer["exceptionDetails"]);
        Ok(answer["result"]["value"].clone())
    }

    /// Waits until an expression holds; one that fails does not hold yet.
    pub async fn until(&mut self, expression: &str) -> Result<()> {
        let tried = format!("(() => {{ try {{ return !!({expression}) }} catch {{ return false }} }})()");
        let begun = tokio::time::Instant::now();
        while self.evaluate(&tried).await? != true {
            if begun.elapsed() > PATIENCE {
                let text = self.evaluate("document.body.innerText").await?;
                bail!(
                    "{expression} does not become true; the page says:\n{}",
                    text.as_str().unwrap_or_default()
                );
            }
            tokio::time::sleep(AGAIN).await;
        }
        Ok(())
    }

    /// Presses a key.
    pub async fn press(&mut self, key: &str) -> Result<()> {
        for kind in ["keyDown", "keyUp"] {
            self.call("Input.dispatchKeyEvent", json!({"type": kind, "key": key, "code": key})).await?;
        }
        Ok(())
    }

    /// Types a text.
    pub async fn type_text(&mut self, text: &str) -> Result<()> {
        self.call("Input.insertText", json!({"text": text})).await.map(drop)
    }

    /// As on a system that likes it dark.
    pub async fn dark(&mut self) -> Result<()> {
        self.scheme("dark").await
    }

    /// As on a system that likes it light.
    pub async fn light(&mut self) -> Result<()> {
        self.scheme("light").await
    }

    async fn scheme(&mut self, value: &str) -> Result<()> {
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": value}]});
        self.call("Emulation.setEmulatedMedia", features).await.map(drop)
    }

    /// What it looks like, as PNG.
    pub async fn picture(&mut self) -> Result<Vec<u8>> {
        // Once what changed last has been painted.
        self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
            .await?;
        let picture = self.call("Page.captureScreenshot", json!({"format": "png"})).await?;
        decode(picture["data"].as_str().context("a picture")?)
    }
}

/// Octets out of base64 (RFC 4648 §4).
fn decode(text: &str) -> Result<Vec<u8>> {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut octets = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0_u32, 0);
    for byte in text.bytes().take_while(|byte| *byte != b'=') {
        let value = LETTERS.iter().position(|letter| *letter == byte).context("no base64")?;
        bits = bits << 6 | u32::try_from(value)?;
        held += 6;
        if held >= 8 {
            held -= 8;
            octets.push((bits >> held & 0xff) as u8);
        }
    }
    Ok(octets)
}
