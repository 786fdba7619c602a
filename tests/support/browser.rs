//! A headless Chromium that tests drive by the Chrome DevTools Protocol, over a pipe: no driver, no port. It ends with its pipe,
//! and so with the test process, however that ends.

use std::{path::Path, process::Stdio, time::Duration};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::Instant,
};

const PATIENCE: Duration = Duration::from_secs(45);

/// One tab of a browser of its own.
pub struct Browser {
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    last: u64,
    session: Option<String>,
    /// Errors and warnings of the console, exceptions, dialogs.
    pub complaints: Vec<String>,
    /// Addresses of everything that was asked for.
    pub requests: Vec<String>,
    process: Child,
    /// Goes after the process, which still writes to it.
    _profile: TempDir,
}

impl Browser {
    /// Starts it. `names` are hosts that are at 127.0.0.1 for it; others but loopback do not exist.
    pub async fn start(names: &[&str]) -> Self {
        let profile = TempDir::new().unwrap();
        let nothing_else = ["MAP * ~NOTFOUND", "EXCLUDE localhost", "EXCLUDE 127.0.0.1"].map(str::to_owned);
        let hosts: Vec<String> = names.iter().map(|name| format!("MAP {name} 127.0.0.1")).chain(nothing_else).collect();
        let mut command = Command::new("sh");
        // The protocol goes over the descriptors 3 and 4.
        command.args(["-c", r#"exec "$@" 3<&0 4>&1 </dev/null >/dev/null"#, "sh", "chromium"]);
        command.args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
        ]);
        command.args([
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--no-proxy-server",
            "--remote-debugging-pipe",
        ]);
        command.arg(format!("--host-resolver-rules={}", hosts.join(", ")));
        command.arg("--window-size=1360,900");
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let (commands, answers) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        let (complaints, requests) = (Vec::new(), Vec::new());
        let mut browser = Self { commands, answers, last: 0, session: None, complaints, requests, process, _profile: profile };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"})).await;
        let session = browser.call("Target.attachToTarget", json!({"targetId": target["targetId"], "flatten": true})).await;
        browser.session = Some(session["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Page", "Runtime", "Network", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({})).await;
        }
        browser
    }

    /// Goes to an address and says with which status it answered.
    pub async fn open(&mut self, url: &str) -> u64 {
        let gone = self.call("Page.navigate", json!({"url": url})).await;
        assert!(gone["errorText"].is_null(), "{url}: {gone}");
        self.wait("document.readyState === 'complete' && performance.getEntriesByType('navigation')[0]?.responseStatus")
            .await
            .as_u64()
            .unwrap()
    }

    /// What an expression comes to.
    pub async fn eval(&mut self, expression: &str) -> Value {
        let asked = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.call("Runtime.evaluate", asked).await;
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true in the sense of scripts, and says what it comes to then.
    pub async fn wait(&mut self, expression: &str) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            let value = self.eval(expression).await;
            if !matches!(&value, Value::Null | Value::Bool(false)) && value != 0 && value != "" {
                return value;
            }
            if Instant::now() > until {
                let shown = self.eval("document.body.innerText").await;
                panic!("never: {expression}\n{}\n{:#?}", shown.as_str().unwrap_or_default(), self.complaints);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits for an element and clicks on its middle, as a person does.
    pub async fn click(&mut self, selector: &str) {
        let middle = format!(
            "(() => {{ const it = document.querySelector({}); if (!it) return null; it.scrollIntoView({{block: 'center'}}); \
             const box = it.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; }})()",
            json!(selector)
        );
        let at = self.wait(&middle).await;
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({"type": kind, "x": at[0], "y": at[1], "button": "left", "clickCount": 1});
            self.call("Input.dispatchMouseEvent", event).await;
        }
    }

    /// Types a text where the focus is.
    pub async fn type_text(&mut self, text: &str) {
        self.call("Input.insertText", json!({"text": text})).await;
    }

    /// Presses a key by its name.
    pub async fn press(&mut self, key: &str, code: u32) {
        // Without a text Enter would be a key that nothing listens to.
        let text = if key == "Enter" { "\r" } else { "" };
        for kind in ["keyDown", "keyUp"] {
            let event = json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text});
            self.call("Input.dispatchKeyEvent", event).await;
        }
    }

    /// A picture of the whole page, in the light or the dark.
    pub async fn picture(&mut self, path: &Path, scheme: &str) {
        use base64::Engine as _;
        self.call("Emulation.setEmulatedMedia", json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]})).await;
        let picture = self.call("Page.captureScreenshot", json!({"captureBeyondViewport": true})).await;
        let data = base64::engine::general_purpose::STANDARD.decode(picture["data"].as_str().unwrap()).unwrap();
        std::fs::write(path, data).unwrap();
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
        let id = self.send(method, params).await;
        let answered = async {
            loop {
                let mut message = Vec::new();
                let length = self.answers.read_until(0, &mut message).await.unwrap();
                assert!(length > 0, "the browser ended at {method}: is Debian's package chromium installed (deploy/local/cluster deps)?");
                message.pop();
                let message: Value = serde_json::from_slice(&message).unwrap();
                if message["id"] == id {
                    break message;
                }
                self.note(&message).await;
            }
        };
        let answer = tokio::time::timeout(PATIENCE, answered).await.unwrap_or_else(|_| panic!("the browser does not answer {method}"));
        assert!(answer["error"].is_null(), "{method}: {answer}");
        answer["result"].clone()
    }

    async fn send(&mut self, method: &str, params: Value) -> u64 {
        self.last += 1;
        let mut message = json!({"id": self.last, "method": method, "params": params});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let mut message = message.to_string().into_bytes();
        message.push(0);
        self.commands.write_all(&message).await.unwrap();
        self.last
    }

    /// Remembers what happened in the page.
    async fn note(&mut self, event: &Value) {
        let said = &event["params"];
        match event["method"].as_str().unwrap_or_default() {
            "Network.requestWillBeSent" => self.requests.push(said["request"]["url"].as_str().unwrap().to_owned()),
            "Runtime.consoleAPICalled" if said["type"] != "log" => self.complaints.push(said["args"].to_string()),
            "Runtime.exceptionThrown" => self.complaints.push(said["exceptionDetails"].to_string()),
            "Log.entryAdded" => self.complaints.push(said["entry"].to_string()),
            "Page.javascriptDialogOpening" => {
                self.complaints.push(format!("dialog {}", said["message"]));
                self.send("Page.handleJavaScriptDialog", json!({"accept": true})).await;
            }
            _ => {}
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.process.start_kill();
    }
}
