//! A small client of the W3C WebDriver protocol, and the chromedriver and Chromium behind it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long a test waits for something that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// Name of an element's reference in the protocol.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// Sizes in which the pages are looked at.
pub(crate) const DESKTOP: [u32; 2] = [1280, 900];
pub(crate) const PHONE: [u32; 2] = [390, 844];

pub(crate) const TAB: &str = "\u{e004}";
pub(crate) const ENTER: &str = "\u{e007}";
pub(crate) const ESCAPE: &str = "\u{e00c}";

/// Keeps what a page must never cause, over all pages of a test.
const WATCH: &str = "addEventListener('securitypolicyviolation', (event) => {
  const seen = JSON.parse(sessionStorage.getItem('violations') ?? '[]');
  seen.push(`${event.violatedDirective}: ${event.blockedURI} at ${event.sourceFile}:${event.lineNumber}`);
  sessionStorage.setItem('violations', JSON.stringify(seen));
});";

/// One browser with one window.
pub(crate) struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
    http: reqwest::Client,
    profile: TempDir,
}

/// Whether tests with a browser are switched off by hand.
pub(crate) fn switched_off() -> bool {
    std::env::var_os("LEOMA_TEST_NO_BROWSER").is_some_and(|value| value == "1")
}

/// A client for plain HTTP; it is built with TLS, which wants a provider even when nothing uses it.
pub(crate) fn http_client() -> reqwest::Client {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    reqwest::Client::builder()
        .no_proxy()
        .timeout(PATIENCE)
        .build()
        .unwrap()
}

/// Times that a chromedriver is started. It takes a free port for IPv4 and then the same for IPv6, where another may
/// have been faster: then it ends.
const STARTS: usize = 5;

fn start_driver() -> (Child, SocketAddr) {
    let mut said = String::new();
    for _ in 0..STARTS {
        match try_driver() {
            Ok(driver) => return driver,
            Err(output) => said = output,
        }
    }
    panic!("chromedriver ended {STARTS} times without naming its port; at last it said:\n{said}");
}

/// A chromedriver and its address, or what it said before it ended.
fn try_driver() -> Result<(Child, SocketAddr), String> {
    let program = std::env::var_os("LEOMA_TEST_CHROMEDRIVER").unwrap_or("chromedriver".into());
    let mut child = Command::new(&program)
        .arg("--port=0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| {
            panic!(
                "{} does not start: {error}. The pages are tested in a browser: install chromium and \
                 chromium-driver (Debian, Ubuntu), or name a chromedriver in LEOMA_TEST_CHROMEDRIVER, or leave \
                 these tests out with LEOMA_TEST_NO_BROWSER=1.",
                program.display()
            )
        });
    let mut said = String::new();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let port = lines.by_ref().map_while(Result::ok).find_map(|line| {
        said.push_str(&line);
        said.push('\n');
        let (_, port) = line.split_once("started successfully on port ")?;
        port.trim_end_matches('.').parse::<u16>().ok()
    });
    let Some(port) = port else {
        let _ = child.kill();
        let _ = child.wait();
        return Err(said);
    };
    // What it says later must go somewhere, or it would wait for a reader.
    std::thread::spawn(move || lines.for_each(drop));
    Ok((child, SocketAddr::from(([127, 0, 0, 1], port))))
}

impl Browser {
    pub(crate) async fn start() -> Self {
        let (driver, address) = start_driver();
        let profile = tempfile::tempdir().unwrap();
        let mut browser = Self {
            driver,
            address,
            session: String::new(),
            http: http_client(),
            profile,
        };
        let mut chrome = json!({"args": [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--force-device-scale-factor=1",
            format!("--window-size={},{}", DESKTOP[0], DESKTOP[1]),
            format!("--user-data-dir={}", browser.profile.path().display()),
        ]});
        if let Ok(binary) = std::env::var("LEOMA_TEST_CHROME") {
            chrome["binary"] = json!(binary);
        }
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": chrome,
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let session = browser.call("session", wanted).await;
        browser.session = session["sessionId"].as_str().unwrap().to_owned();
        browser
            .cdp(
                "Page.addScriptToEvaluateOnNewDocument",
                json!({"source": WATCH}),
            )
            .await;
        browser.size(DESKTOP).await;
        browser.dark(false).await;
        browser
    }

    async fn try_call(&self, path: &str, body: &Value) -> Result<Value, String> {
        let url = format!("http://{}/{path}", self.address);
        let answer = self.http.post(url).json(body).send().await.unwrap();
        let mut answer: Value = answer.json().await.unwrap();
        let value = answer["value"].take();
        match value["error"].as_str() {
            Some(error) => Err(format!("{error}: {}", value["message"])),
            None => Ok(value),
        }
    }

    async fn call(&self, path: &str, body: Value) -> Value {
        self.try_call(path, &body)
            .await
            .unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    async fn command(&self, path: &str, body: Value) -> Value {
        self.call(&format!("session/{}/{path}", self.session), body)
            .await
    }

    async fn cdp(&self, name: &str, params: Value) -> Value {
        self.command("goog/cdp/execute", json!({"cmd": name, "params": params}))
            .await
    }

    pub(crate) async fn go(&self, url: &str) {
        self.command("url", json!({"url": url})).await;
    }

    pub(crate) async fn reload(&self) {
        self.command("refresh", json!({})).await;
    }

    /// Runs a function's body in the page.
    pub(crate) async fn js(&self, script: &str) -> Value {
        self.command("execute/sync", json!({"script": script, "args": []}))
            .await
    }

    /// The value of an expression in the page; a promise is waited for.
    pub(crate) async fn value(&self, expression: &str) -> Value {
        self.js(&format!("return {expression}")).await
    }

    /// Text of the first element that fits.
    pub(crate) async fn text(&self, css: &str) -> String {
        let value = self
            .value(&format!(
                "document.querySelector({})?.textContent ?? null",
                json!(css)
            ))
            .await;
        value
            .as_str()
            .unwrap_or_else(|| panic!("there is no {css}"))
            .to_owned()
    }

    /// Waits until an expression holds in the page.
    pub(crate) async fn until(&self, expression: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !truth(&self.value(expression).await) {
            if Instant::now() > deadline {
                let page = self.value("document.querySelector('main').innerText").await;
                panic!("never came true: {expression}\nThe page says: {page}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until an element is there and not hidden.
    pub(crate) async fn shown(&self, css: &str) {
        let css = json!(css);
        self.until(&format!(
            "document.querySelector({css}) && !document.querySelector({css}).closest('[hidden]')"
        ))
        .await;
    }

    async fn element(&self, css: &str) -> String {
        let found = self
            .command("element", json!({"using": "css selector", "value": css}))
            .await;
        found[ELEMENT].as_str().unwrap().to_owned()
    }

    /// Clicks as a person does: the element must be visible and nothing may cover it.
    pub(crate) async fn click(&self, css: &str) {
        let element = self.element(css).await;
        self.command(&format!("element/{element}/click"), json!({}))
            .await;
    }

    /// Types into an element, or gives a file to a file field.
    pub(crate) async fn fill(&self, css: &str, text: &str) {
        let element = self.element(css).await;
        self.command(&format!("element/{element}/value"), json!({"text": text}))
            .await;
    }

    /// Replaces what a field says.
    pub(crate) async fn replace(&self, css: &str, text: &str) {
        let element = self.element(css).await;
        self.command(&format!("element/{element}/clear"), json!({}))
            .await;
        self.fill(css, text).await;
    }

    /// Chooses in a list.
    pub(crate) async fn choose(&self, css: &str, value: &str) {
        self.click(&format!("{css} option[value='{value}']")).await;
    }

    /// Presses keys, one after the other, wherever the focus is.
    pub(crate) async fn press(&self, keys: &str) {
        let strokes: Vec<Value> = keys
            .chars()
            .flat_map(|key| {
                ["keyDown", "keyUp"].map(|kind| json!({"type": kind, "value": key.to_string()}))
            })
            .collect();
        self.command(
            "actions",
            json!({"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]}),
        )
        .await;
    }

    /// The size of the window's inside; narrow ones behave as a phone does.
    pub(crate) async fn size(&self, [width, height]: [u32; 2]) {
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500});
        self.cdp("Emulation.setDeviceMetricsOverride", metrics)
            .await;
    }

    pub(crate) async fn dark(&self, dark: bool) {
        let scheme = if dark { "dark" } else { "light" };
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.cdp("Emulation.setEmulatedMedia", features).await;
    }

    /// Writes what the window shows to the folder in `LEOMA_TEST_SCREENSHOTS`, if there is one.
    pub(crate) async fn screenshot(&self, name: &str) {
        let Some(folder) = std::env::var_os("LEOMA_TEST_SCREENSHOTS").map(PathBuf::from) else {
            return;
        };
        tokio::time::sleep(Duration::from_millis(400)).await; // transitions and pictures settle
        let image = self
            .cdp("Page.captureScreenshot", json!({"format": "png"}))
            .await;
        let png = STANDARD.decode(image["data"].as_str().unwrap()).unwrap();
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(name).with_extension("png"), png).unwrap();
    }

    /// No breach of the content policy, no error in the console; answers with these statuses were meant.
    pub(crate) async fn assert_clean(&self, meant: &[u16]) {
        let violations = self.value("sessionStorage.getItem('violations')").await;
        assert_eq!(violations, Value::Null);
        let log = self.command("se/log", json!({"type": "browser"})).await;
        let wrong: Vec<&Value> = log
            .as_array()
            .unwrap()
            .iter()
            .filter(|entry| {
                let message = entry["message"].as_str().unwrap();
                !meant
                    .iter()
                    .any(|status| message.contains(&format!("a status of {status} ")))
            })
            .collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    /// Nothing reaches over the right edge.
    pub(crate) async fn assert_fits(&self, place: &str) {
        let widths = self
            .value("[document.documentElement.scrollWidth, innerWidth]")
            .await;
        assert!(
            widths[0].as_u64() <= widths[1].as_u64(),
            "{place} is wider than its window: {widths}"
        );
    }
}

pub(crate) fn truth(value: &Value) -> bool {
    !matches!(value, Value::Null | Value::Bool(false))
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Asked to, chromedriver ends the browser too; killed alone, it would leave it behind.
        if let Ok(mut stream) = TcpStream::connect(self.address) {
            let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
            let request = format!(
                "DELETE /session/{} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
                self.session
            );
            let _ = stream.write_all(request.as_bytes());
            let _ = stream.read(&mut [0; 512]);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
