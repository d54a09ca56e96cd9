//! Chromium loads a page with every file, plays it, seeks in it, and posts what it saw to the test.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// For each file in turn: its duration, then a seek to the middle, back to the start, and play to the end.
const PAGE: &str = r#"<!doctype html><script>
const event = (video, name) => new Promise((done, fail) => {
    video.addEventListener(name, done, { once: true });
    video.addEventListener('error', () => fail(video.error.message), { once: true });
});
const judge = async n => {
    const video = document.createElement('video');
    video.muted = true;
    document.body.append(video);
    const ready = event(video, 'canplay');
    video.src = `/${n}.mp4`;
    await ready;
    const said = { duration: video.duration, width: video.videoWidth };
    for (const to of [video.duration / 2, 0]) {
        const there = event(video, 'seeked');
        video.currentTime = to;
        await there;
    }
    video.playbackRate = 4;
    const ended = event(video, 'ended');
    await video.play();
    await ended;
    const end = video.currentTime, frames = video.getVideoPlaybackQuality().totalVideoFrames;
    const sound = video.webkitAudioDecodedByteCount;
    video.remove();
    return `${said.duration} ${said.width} ${end} ${frames} ${sound}`;
};
(async () => {
    await new Promise(loaded => addEventListener('load', loaded));
    const all = await Promise.all([...Array(COUNT).keys()].map(n => judge(n).catch(fault => `fault ${fault}`)));
    await fetch('/verdict', { method: 'POST', body: all.join('\n') });
})();
</script>"#;

/// Ends with the test.
struct Browser(Child);

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Plays these files: a name, where, how long. Gives how many bytes of sound were decoded of each.
pub(super) fn plays(files: &[(&str, PathBuf, Duration)]) -> Vec<f64> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let profile = tempfile::tempdir().unwrap();
    let mut command = Command::new("chromium");
    command
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"])
        .args(["--disable-component-update", "--disable-dev-shm-usage", "--mute-audio", "--autoplay-policy=no-user-gesture-required"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("http://{address}/"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let _browser = Browser(command.spawn().expect("chromium is there: see scripts/deps.sh"));
    let (done, verdict) = std::sync::mpsc::channel();
    let bytes: Vec<Vec<u8>> = files.iter().map(|(_, path, _)| fs::read(path).unwrap()).collect();
    let bytes = std::sync::Arc::new(bytes);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (bytes, done) = (bytes.clone(), done.clone());
            thread::spawn(move || {
                if let Some(body) = serve(&stream, &bytes) {
                    let _ = done.send(body);
                }
            });
        }
    });
    let began = Instant::now();
    let verdict = verdict.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no verdict after {:?}", began.elapsed()));
    let verdicts: Vec<&str> = verdict.lines().collect();
    assert_eq!(verdicts.len(), files.len());
    let mut sound = Vec::new();
    for ((name, _, told), verdict) in files.iter().zip(verdicts) {
        let seen: Vec<f64> = verdict.split(' ').map(|word| word.parse().unwrap_or_else(|_| panic!("{name}: {verdict}"))).collect();
        let told = told.as_secs_f64();
        assert!((seen[0] - told).abs() < 0.01, "{name} is {} s long, told {told}", seen[0]);
        assert_eq!(seen[1], 160.0, "{name}");
        assert!((seen[2] - told).abs() < 0.1, "{name} ended at {} s of {told}", seen[2]);
        sound.push(seen[4]);
    }
    sound
}

/// Answers one request, with a range if one is asked for. Gives the body of a POST.
fn serve(mut stream: &TcpStream, files: &[Vec<u8>]) -> Option<String> {
    let mut reader = BufReader::new(stream);
    let (mut request, mut range, mut length) = (String::new(), None, 0);
    reader.read_line(&mut request).ok()?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(from) = line.strip_prefix("range: bytes=") {
            range = from.split('-').next().and_then(|from| from.parse::<usize>().ok());
        }
        if let Some(n) = line.strip_prefix("content-length: ") {
            length = n.parse().ok()?;
        }
    }
    let path = request.split(' ').nth(1)?;
    let mut answer = |head: &str, body: &[u8]| {
        let head = format!("HTTP/1.1 {head}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).ok()
    };
    if request.starts_with("POST") {
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        answer("204 No Content", b"")?;
        return String::from_utf8(body).ok();
    }
    if path == "/" {
        answer("200 OK\r\nContent-Type: text/html", PAGE.replace("COUNT", &files.len().to_string()).as_bytes())?;
        return None;
    }
    let file = path.trim_start_matches('/').strip_suffix(".mp4").and_then(|n| files.get(n.parse::<usize>().ok()?));
    let Some(file) = file else {
        answer("404 Not Found", b"")?;
        return None;
    };
    let from = range.unwrap_or(0).min(file.len());
    let size = file.len();
    let head = match range {
        Some(_) if from < size => format!("206 Partial Content\r\nContent-Range: bytes {from}-{}/{size}", size - 1),
        Some(_) => "416 Range Not Satisfiable".to_owned(),
        None => "200 OK".to_owned(),
    };
    answer(&format!("{head}\r\nAccept-Ranges: bytes\r\nContent-Type: video/mp4"), &file[from..])?;
    None
}
