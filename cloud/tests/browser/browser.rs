//! Chromium behind chromedriver. Every wait has a deadline, and a failure names the page.

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use axum::http::Method;
use base64::{Engine as _, engine::general_purpose::STANDARD};

use fantoccini::{Client, ClientBuilder, Locator, wd::WebDriverCompatibleCommand};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use url::{ParseError, Url};

use super::cloud::children;
use care_cloud::child::{die_with_parent, stop};

/// On a machine that does much else a page may take its time.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A page's width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Screen {
    Phone,
    Desktop,
}

impl Screen {
    pub const BOTH: [Self; 2] = [Self::Phone, Self::Desktop];

    fn size(self) -> (u32, u32) {
        match self {
            Self::Phone => (390, 844),
            Self::Desktop => (1280, 900),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Phone => "phone",
            Self::Desktop => "desktop",
        }
    }
}

pub struct Browser {
    client: Client,
    origin: String,
    /// The language that the browser asks for.
    pub language: &'static str,
    driver: Child,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// A browser that has never been anywhere and asks for this language.
    pub async fn open(origin: &str, language: &'static str) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut command = Command::new("chromedriver");
        command.args(["--port=0", "--log-level=WARNING"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut driver = die_with_parent(&mut command).spawn().expect("chromedriver is there: see scripts/deps.sh");
        let port = port_of(&mut driver);
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--mute-audio",
            "--autoplay-policy=no-user-gesture-required",
        ];
        let mut arguments: Vec<_> = arguments.map(str::to_owned).into();
        arguments.push(format!("--user-data-dir={}", profile.path().display()));
        arguments.push(format!("--accept-lang={language}"));
        arguments.push(format!("--lang={language}"));
        let mut capabilities = serde_json::Map::new();
        capabilities.insert("goog:chromeOptions".into(), json!({ "args": arguments, "binary": "/usr/bin/chromium" }));
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .expect("Chromium starts");
        let browser = Self { client, origin: origin.to_owned(), language, driver, _profile: profile };
        // A phone's do not take room either.
        browser.devtools("Emulation.setScrollbarsHidden", json!({ "hidden": true })).await;
        browser.screen(Screen::Desktop).await;
        browser
    }

    pub async fn close(mut self) {
        self.client.clone().close().await.expect("Chromium ends");
        stop(&mut self.driver, Duration::from_secs(10)).unwrap();
    }

    pub async fn goto(&self, path: &str) {
        self.client.goto(&format!("{}{path}", self.origin)).await.unwrap();
    }

    pub async fn path(&self) -> String {
        self.client.current_url().await.unwrap().path().to_owned()
    }

    /// Runs a function body in the page.
    pub async fn run(&self, script: &str) -> Value {
        self.client.execute(script, vec![]).await.unwrap_or_else(|e| panic!("{e}: {script}"))
    }

    /// The text of what is there now; empty if it is not.
    pub async fn text(&self, css: &str) -> String {
        let script = "const found = document.querySelector(arguments[0]); return found ? found.innerText.trim() : '';";
        let found = self.client.execute(script, vec![json!(css)]).await.unwrap();
        found.as_str().unwrap_or_default().to_owned()
    }

    pub async fn has(&self, css: &str) -> bool {
        self.client.execute("return document.querySelector(arguments[0]) !== null;", vec![json!(css)]).await.unwrap() == true
    }

    pub async fn count(&self, css: &str) -> u64 {
        self.client.execute("return document.querySelectorAll(arguments[0]).length;", vec![json!(css)]).await.unwrap().as_u64().unwrap()
    }

    /// Waits until it is there.
    pub async fn wait(&self, css: &str) {
        self.until(&format!("{css} is there"), || async { self.has(css).await }).await;
    }

    /// Waits until its text holds this.
    pub async fn wait_text(&self, css: &str, part: &str) {
        self.until(&format!("{css} says {part}"), || async { self.text(css).await.contains(part) }).await;
    }

    pub async fn until<F: Future<Output = bool>>(&self, what: &str, holds: impl Fn() -> F) {
        let deadline = Instant::now() + PATIENCE;
        while !holds().await {
            if Instant::now() > deadline {
                self.picture("failed", Screen::Desktop, false).await;
                panic!("not in {PATIENCE:?}: {what}; on {}: {}", self.path().await, self.text("main").await);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Clicks as a person does, once it is there. What is replaced under the finger is looked for again.
    pub async fn click(&self, css: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let clicked = match self.client.find(Locator::Css(css)).await {
                Ok(found) => found.click().await,
                Err(e) => Err(e),
            };
            let Err(e) = clicked else { return };
            assert!(Instant::now() < deadline, "cannot click {css} on {}: {e}", self.path().await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Clicks what leads to another page, and waits for that.
    pub async fn follow(&self, css: &str, to: &str) {
        self.click(css).await;
        self.until(&format!("{css} leads to {to}"), || async { self.path().await == to && self.loaded().await }).await;
    }

    async fn loaded(&self) -> bool {
        self.run("return document.readyState;").await == "complete"
    }

    pub async fn type_into(&self, css: &str, text: &str) {
        let field = self.client.find(Locator::Css(css)).await.unwrap();
        field.clear().await.unwrap();
        field.send_keys(text).await.unwrap();
    }

    /// Presses a key where the focus is.
    pub async fn press(&self, key: char) {
        self.client.active_element().await.unwrap().send_keys(&key.to_string()).await.unwrap();
    }

    pub async fn screen(&self, screen: Screen) {
        let (width, height) = screen.size();
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics).await;
    }

    pub async fn dark(&self, dark: bool) {
        let scheme = if dark { "dark" } else { "light" };
        // Without motion, so that a colour is not judged on its way to another.
        let still = json!({ "name": "prefers-reduced-motion", "value": "reduce" });
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }, still] });
        self.devtools("Emulation.setEmulatedMedia", media).await;
    }

    async fn devtools(&self, method: &'static str, parameters: Value) -> Value {
        self.client.issue_cmd(DevTools { method, parameters }).await.unwrap_or_else(|e| panic!("{method}: {e}"))
    }

    /// Keeps a picture of the whole page, and checks that nothing stands out of it sideways.
    pub async fn picture(&self, name: &str, screen: Screen, dark: bool) {
        self.screen(screen).await;
        self.dark(dark).await;
        let taken = self.devtools("Page.captureScreenshot", json!({ "format": "png", "captureBeyondViewport": true })).await;
        let png = STANDARD.decode(taken["data"].as_str().unwrap()).unwrap();
        let scheme = if dark { "dark" } else { "light" };
        std::fs::write(pictures().join(format!("{name}-{}-{}-{scheme}.png", self.language, screen.name())), png).unwrap();
        let wide = self.run("return document.documentElement.scrollWidth > innerWidth;").await;
        assert!(wide == false || name == "failed", "{name} is wider than a {screen:?}");
        self.screen(Screen::Desktop).await;
        self.dark(false).await;
    }

    /// On both screens, light and dark.
    pub async fn pictures(&self, name: &str) {
        for screen in Screen::BOTH {
            self.picture(name, screen, false).await;
        }
        self.picture(name, Screen::Phone, true).await;
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // A driver that is stopped leaves its Chromium behind; after `close` there is none.
        let runs = matches!(self.driver.try_wait(), Ok(None));
        let left: Vec<_> = runs.then(|| children(self.driver.id())).iter().flatten().map(ToString::to_string).collect();
        if !left.is_empty()
            && let Err(e) = Command::new("kill").args(&left).status()
        {
            eprintln!("stopping Chromium {left:?}: {e}");
        }
        if let Err(e) = stop(&mut self.driver, Duration::from_secs(10)) {
            eprintln!("stopping chromedriver: {e}");
        }
    }
}

fn pictures() -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("portal-pictures");
    std::fs::create_dir_all(&dir).unwrap();
    dir
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

/// A command of Chromium's own protocol.
#[derive(Debug)]
struct DevTools {
    method: &'static str,
    parameters: Value,
}

impl WebDriverCompatibleCommand for DevTools {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, ParseError> {
        base.join(&format!("session/{}/goog/cdp/execute", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(json!({ "cmd": self.method, "params": self.parameters }).to_string()))
    }
}
