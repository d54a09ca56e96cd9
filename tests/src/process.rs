//! Child processes of a test: their output is kept, and they end with the test, however it ends.

use std::{
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader},
    process::{Child, Command},
    task::JoinHandle,
    time::timeout,
};

/// The lines that a child has printed.
#[derive(Debug, Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    /// Number of lines.
    pub fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// Whether there are no lines.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The lines from `from` on.
    pub fn since(&self, from: usize) -> Vec<String> {
        self.0.lock().unwrap().iter().skip(from).cloned().collect()
    }

    /// All lines.
    pub fn all(&self) -> Vec<String> {
        self.since(0)
    }

    /// How many lines contain `part`.
    pub fn count(&self, part: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|line| line.contains(part)).count()
    }

    /// The first line from `from` on that satisfies `wanted`.
    pub fn find(&self, from: usize, wanted: impl Fn(&str) -> bool) -> Option<String> {
        self.0.lock().unwrap().iter().skip(from).find(|line| wanted(line)).cloned()
    }

    fn push(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }

    fn follow(&self, stream: impl AsyncRead + Unpin + Send + 'static) -> JoinHandle<()> {
        let lines = self.clone();
        tokio::spawn(async move {
            let mut reader = BufReader::new(stream).split(b'\n');
            while let Ok(Some(line)) = reader.next_segment().await {
                lines.push(String::from_utf8_lossy(&line).into_owned());
            }
        })
    }
}

/// How long the last lines of a child that has exited may take to be read. Whatever it leaves running may keep them open.
const LAST_LINES: Duration = Duration::from_secs(1);

/// A running child.
pub struct Process {
    name: String,
    child: Child,
    log: Lines,
    /// Read its output into the log, until its end.
    readers: [JoinHandle<()>; 2],
}

impl Process {
    /// Starts `command`; both output streams go to `log`.
    pub fn spawn(name: &str, mut command: Command, log: Lines) -> Self {
        // Kept open while the child runs: some programs exit at end of input.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        // SAFETY: prctl is async-signal-safe and accesses no memory of this process.
        unsafe {
            command.pre_exec(|| {
                // If the test is killed, its children are killed too.
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot start {name} ({:?}): {e}", command.as_std()));
        let readers = [log.follow(child.stdout.take().unwrap()), log.follow(child.stderr.take().unwrap())];
        Self { name: name.to_owned(), child, log, readers }
    }

    /// The process id.
    pub fn pid(&self) -> i32 {
        self.child.id().unwrap_or_else(|| panic!("{} has ended", self.name)).try_into().unwrap()
    }

    /// Writes a line to its standard input.
    pub async fn say(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().expect("spawned with a pipe");
        stdin.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        stdin.flush().await.unwrap();
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: the child has not been waited for, so its process id is not reused.
        let sent = unsafe { libc::kill(self.pid(), signal) };
        assert_eq!(sent, 0, "cannot signal {}", self.name);
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal(libc::SIGTERM);
    }

    /// The exit status, if the child has exited.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits until the child exits and its last lines are in the log.
    pub async fn exited(&mut self, patience: Duration) -> ExitStatus {
        let Ok(status) = timeout(patience, self.child.wait()).await else { panic!("{} has not ended after {patience:?}", self.name) };
        let readers = async {
            for reader in self.readers.iter_mut().filter(|reader| !reader.is_finished()) {
                // Lines that cannot be read are missed by whoever waits for them.
                let _ = reader.await;
            }
        };
        let _ = timeout(LAST_LINES, readers).await;
        status.unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let lines = self.log.all();
            let shown = lines.len().saturating_sub(150);
            eprintln!("--- {}, last {} lines", self.name, lines.len() - shown);
            lines[shown..].iter().for_each(|line| eprintln!("    {line}"));
        }
    }
}
