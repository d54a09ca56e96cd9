//! Chromium behind chromedriver, for the camera's own page. Every wait has a deadline.

use std::{
    future::Future,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use fantoccini::{Client, ClientBuilder, wd::WebDriverCompatibleCommand};
use hyper::Method;
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use url::{ParseError, Url};

use care_tests::wait::PATIENCE;

pub struct Browser {
    client: Client,
    driver: Child,
    _profile: tempfile::TempDir,
}

impl Browser {
    pub async fn open() -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut command = Command::new("chromedriver");
        command.args(["--port=0", "--log-level=WARNING"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut driver = command.spawn().expect("chromedriver is there: see scripts/deps.sh");
        let port = port_of(&mut driver);
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--mute-audio",
            "--autoplay-policy=no-user-gesture-required",
            "--accept-lang=en",
            "--lang=en",
        ];
        let mut arguments: Vec<String> = arguments.map(str::to_owned).into();
        arguments.push(format!("--user-data-dir={}", profile.path().display()));
        let mut capabilities = serde_json::Map::new();
        capabilities.insert("goog:chromeOptions".into(), json!({ "args": arguments, "binary": "/usr/bin/chromium" }));
        capabilities.insert("goog:loggingPrefs".into(), json!({ "browser": "ALL" }));
        let mut builder = ClientBuilder::new(HttpConnector::new());
        let connected = builder.capabilities(capabilities).connect(&format!("http://127.0.0.1:{port}")).await;
        let client = connected.expect("Chromium starts");
        Self { client, driver, _profile: profile }
    }

    pub async fn close(self) {
        self.client.clone().close().await.expect("Chromium ends");
    }

    pub async fn goto(&self, url: &str) {
        self.client.goto(url).await.unwrap();
    }

    /// Runs a function body in the page.
    pub async fn run(&self, script: &str) -> Value {
        self.client.execute(script, vec![]).await.unwrap_or_else(|e| panic!("{e}: {script}"))
    }

    /// Waits until this expression holds in the page.
    pub async fn until(&self, what: &str, expression: &str) {
        let holds = || async { self.run(&format!("return Boolean({expression});")).await == true };
        self.wait(what, holds).await;
    }

    async fn wait<F: Future<Output = bool>>(&self, what: &str, holds: impl Fn() -> F) {
        let began = Instant::now();
        while !holds().await {
            if began.elapsed() > PATIENCE {
                let text = self.run("return document.body.innerText;").await;
                panic!("not in {PATIENCE:?}: {what}; the page says {text}; the console {:?}", self.console().await);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What the console has said since it was asked last, without what the browser says of pages of its own: the tab that it
    /// opens first complains of a slow network.
    pub async fn console(&self) -> Vec<String> {
        let lines = self.client.issue_cmd(Chrome { path: "se/log", body: json!({ "type": "browser" }) }).await.unwrap();
        let of_a_page = |line: &&Value| !line["message"].as_str().unwrap().starts_with("chrome://");
        let lines = lines.as_array().unwrap().iter().filter(of_a_page);
        lines.map(|line| format!("{}: {}", line["level"], line["message"])).collect()
    }

    pub async fn devtools(&self, method: &'static str, parameters: Value) -> Value {
        let body = json!({ "cmd": method, "params": parameters });
        self.client.issue_cmd(Chrome { path: "goog/cdp/execute", body }).await.unwrap_or_else(|e| panic!("{method}: {e}"))
    }

    pub async fn screen(&self, width: u32, height: u32) {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics).await;
        self.devtools("Emulation.setScrollbarsHidden", json!({ "hidden": true })).await;
    }

    pub async fn dark(&self, dark: bool) {
        let scheme = json!({ "name": "prefers-color-scheme", "value": if dark { "dark" } else { "light" } });
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": [scheme] })).await;
    }

    /// From the next request on a browser of somebody who reads these languages.
    pub async fn languages(&self, languages: &str) {
        let agent = self.run("return navigator.userAgent;").await;
        self.devtools("Emulation.setUserAgentOverride", json!({ "userAgent": agent, "acceptLanguage": languages })).await;
    }

    /// Keeps a picture of the whole page in `target/page-pictures/`, and checks that nothing stands out of it sideways.
    pub async fn picture(&self, name: &str) {
        let taken = self.devtools("Page.captureScreenshot", json!({ "format": "png", "captureBeyondViewport": true })).await;
        let png = STANDARD.decode(taken["data"].as_str().unwrap()).unwrap();
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("page-pictures");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(format!("{name}.png")), png).unwrap();
        let wide = self.run("return document.documentElement.scrollWidth > innerWidth;").await;
        assert_eq!(wide, false, "{name} is too wide");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // A driver that is killed leaves its Chromium behind; after `close` there is none.
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.driver.id())).into_iter().flatten().flatten();
        let of_thread = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        let children: String = threads.map(of_thread).collect();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
        for child in children.split_whitespace().filter_map(|child| child.parse::<i32>().ok()) {
            // SAFETY: a system call that touches no memory of this process.
            unsafe { libc::kill(child, libc::SIGKILL) };
        }
    }
}

/// The port that chromedriver says it has.
fn port_of(driver: &mut Child) -> u16 {
    let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
    let port = loop {
        let line = lines.next().expect("chromedriver says its port").unwrap();
        if let Some((_, port)) = line.split_once("successfully on port ") {
            break port.trim_end_matches('.').parse().unwrap();
        }
    };
    // What it says later is read and dropped, so that it never waits for us.
    std::thread::spawn(move || lines.for_each(drop));
    port
}

/// A command that WebDriver does not have.
#[derive(Debug)]
struct Chrome {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for Chrome {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(self.body.to_string()))
    }
}
