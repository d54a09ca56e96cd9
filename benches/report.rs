//! Publishes what the benchmarks measured: takes new results from `target/bench` into `benches/results`, and writes the figures of
//! docs/benchmarks.md and README.md from them. The last step of `make bench`; nobody types a figure into either file.
//!
//! A test renders both files from `benches/results` and fails if they differ from what is committed.

mod plot;

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, ensure};
use plot::Line;
use serde_json::{Value, json};

/// The result files, by name.
const RESULTS: [&str; 12] =
    ["cut", "camera", "footprint", "size", "bloat", "wire", "wire-changing", "wire-throughput", "bare", "video", "fleet", "instructions"];
/// What is between these lines of a document is written here.
const BEGIN: &str = "<!-- figures: written by `make bench`; do not edit -->";
const END: &str = "<!-- end of figures -->";

fn main() -> anyhow::Result<()> {
    let root = Path::new(".");
    for name in RESULTS {
        let (fresh, kept) = (root.join(format!("target/bench/{name}.json")), result(root, name));
        let Ok(text) = fs::read(&fresh) else { continue };
        let fresh: Value = serde_json::from_slice(&text).with_context(|| format!("reading {}", fresh.display()))?;
        let mut known = read(root, name).unwrap_or_else(|_| json!({}));
        take(&mut known, fresh);
        fs::write(&kept, format!("{known:#}\n")).with_context(|| format!("writing {}", kept.display()))?;
    }
    let results = Results::read(root)?;
    for (file, figures) in [("docs/benchmarks.md", results.in_full()?), ("README.md", results.in_short()?)] {
        let text = fs::read_to_string(root.join(file)).with_context(|| format!("reading {file}"))?;
        fs::write(root.join(file), replaced(&text, &figures).with_context(|| format!("in {file}"))?)?;
        println!("{file}");
    }
    for (file, picture) in results.fleet_charts() {
        fs::write(root.join(file), picture).with_context(|| format!("writing {file}"))?;
        println!("{file}");
    }
    Ok(())
}

/// Takes over what was measured later than what is known. A file holds one measurement, or several under names of their own.
fn take(known: &mut Value, fresh: Value) {
    let at = |value: &Value| value["measured"]["at"].as_str().map(str::to_owned);
    if let Some(time) = at(&fresh) {
        if at(known).is_none_or(|before| before <= time) {
            *known = fresh;
        }
        return;
    }
    let parts = fresh.as_object().into_iter().flatten();
    if !parts.clone().any(|(_, part)| at(part).is_some()) {
        return;
    }
    for (name, part) in parts {
        if part.is_object() {
            if at(part).is_some() {
                take(&mut known[name.as_str()], part.clone());
            }
        } else {
            known[name.as_str()] = part.clone();
        }
    }
}

/// The text with the figures between its two marks.
fn replaced(text: &str, figures: &str) -> anyhow::Result<String> {
    let (before, rest) = text.split_once(BEGIN).with_context(|| format!("there is no line {BEGIN}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("there is no line {END}"))?;
    ensure!(!after.contains(BEGIN), "there are two places for figures");
    Ok(format!("{before}{BEGIN}\n{figures}{END}{after}"))
}

fn result(root: &Path, name: &str) -> std::path::PathBuf {
    root.join(format!("benches/results/{name}.json"))
}

fn read(root: &Path, name: &str) -> anyhow::Result<Value> {
    let path = result(root, name);
    let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))
}

/// What is known of each benchmark.
struct Results {
    cut: Value,
    camera: Value,
    footprint: Value,
    size: Value,
    bloat: Value,
    wire: Value,
    changing: Value,
    throughput: Value,
    bare: Value,
    video: Value,
    fleet: Value,
    instructions: Value,
}

impl Results {
    fn read(root: &Path) -> anyhow::Result<Self> {
        let [cut, camera, footprint, size, bloat, wire, changing, throughput, bare, video, fleet, instructions] =
            RESULTS.map(|name| read(root, name));
        let (cut, camera, footprint, size, bloat) = (cut?, camera?, footprint?, size?, bloat?);
        let (wire, changing, throughput) = (wire?, changing?, throughput?);
        let (bare, video, fleet, instructions) = (bare?, video?, fleet?, instructions?);
        Ok(Self { cut, camera, footprint, size, bloat, wire, changing, throughput, bare, video, fleet, instructions })
    }

    /// The one table of README.md.
    fn in_short(&self) -> anyhow::Result<String> {
        let (cut, camera, guest) = (&self.cut["states"]["uploading"]["kasa-care-agent"], &self.camera, &self.footprint["emulated camera"]);
        let (with, without) = (&guest["gstreamer"], &guest["no_gstreamer"]);
        let mut text = String::from("| figure | | measured |\n|---|---|---|\n");
        let mut row = |what: &str, figure: String, at: &Value| writeln!(text, "| {what} | {figure} | {} |", day(at));
        row(
            "a cancel is published → the camera reports it, an upload in flight (p50 / p99)",
            format!("{} / {} ms", fixed(&cut["p50_ms"], 1), fixed(&cut["p99_ms"], 1)),
            &self.cut,
        )?;
        row(
            "the same on an emulated armv7 camera",
            format!("{} / {} ms", fixed(&camera["p50_ms"], 1), fixed(&camera["p99_ms"], 1)),
            camera,
        )?;
        row(
            "bytes on a 2 Mbit/s uplink after the gate has closed (p50 / max)",
            format!("{} / {}", self.wire["configured"]["bytes"]["p50"], self.wire["configured"]["bytes"]["max"]),
            &self.wire,
        )?;
        let parts = &self.video["evidence"]["parts"];
        row(
            "an event at 4 Mbit/s over an uplink of 6 Mbit/s → its snapshot / each second of its video in the store (at most)",
            format!("{} / {} s", fixed(&parts["snapshot_s"], 1), fixed(&parts["second_max_s"], 1)),
            &self.video,
        )?;
        let pss = |build: &Value| mebibytes(&build["states"]["paid_uploading"]["pss_kb"]);
        row("memory (PSS) while uploading, with / without GStreamer", format!("{} / {} MiB", pss(with), pss(without)), guest)?;
        let bare = |state: &str| mebibytes(&self.bare["states"][state]["pss_kb"]);
        row(
            "memory (PSS) of the static program, idle / filming and uploading, 26 MB for Linux, pre-roll 1 s; [Greengrass nucleus \
             lite](https://docs.aws.amazon.com/greengrass/v2/developerguide/greengrass-nucleus-lite-component.html): less than 15 MB",
            format!("{} / {} MiB", bare("paid_idle"), bare("paid_uploading")),
            &self.bare,
        )?;
        let megabytes = |bytes: &Value| bytes.as_f64().map_or_else(|| "–".into(), |bytes| format!("{:.2}", bytes / 1e6));
        row(
            "program on flash, armv7, with GStreamer / static",
            format!("{} / {} MB", megabytes(&self.size["gstreamer"]), megabytes(&self.size["no_gstreamer"])),
            &self.size,
        )?;
        Ok(text)
    }

    /// Everything, for docs/benchmarks.md.
    fn in_full(&self) -> anyhow::Result<String> {
        let mut text = String::new();
        self.cut(&mut text)?;
        self.instructions(&mut text)?;

        writeln!(text, "\n## On an emulated armv7 camera\n\nThe same from the cloud's side, {} cancels.\n", self.camera["cancels"])?;
        text += "| | p50 | p99 | max |\n|---|---|---|---|\n";
        latency(&mut text, "kasa-care-agent", &self.camera)?;
        writeln!(text, "\n{}", source(&self.camera))?;

        text += "\n## Bytes on the wire after the gate has closed\n\n";
        text += "| | cuts | p50 | max | objects that became complete |\n|---|---|---|---|---|\n";
        let rounds = [
            ("uplink configured", "configured"),
            ("clips in parts", "parts"),
            ("uplink estimated", "estimated"),
            ("control: only the request is dropped", "control"),
        ];
        for (name, key) in rounds.into_iter().filter(|(_, key)| self.wire[key].is_object()) {
            let round = &self.wire[key];
            let (p50, max) = (&round["bytes"]["p50"], &round["bytes"]["max"]);
            // The parts that were complete before the cut would count, too.
            let complete = if key == "parts" { "–".to_owned() } else { plain(&round["complete"]) };
            writeln!(text, "| {name} | {} | {} | {} | {complete} |", plain(&round["cuts"]), plain(p50), plain(max))?;
        }
        writeln!(text, "\n{}", source(&self.wire))?;
        self.changing(&mut text)?;
        self.throughput(&mut text)?;
        self.video(&mut text)?;

        text += "\n## Footprint\n";
        for (title, key) in [("On an emulated armv7 camera", "emulated camera"), ("On amd64", "x86_64")] {
            let measured = &self.footprint[key];
            ensure!(measured.is_object(), "benches/results/footprint.json has no {key:?}");
            writeln!(text, "\n### {title}\n\nEach state was watched for {} s.\n", measured["seconds"])?;
            costs_of_builds(&mut text, measured)?;
            text += "\n| from exec, median | ready | connected | plan confirmed |\n|---|---|---|---|\n";
            for (build, key) in BUILDS {
                let start = |step: &str| plain(&measured[key]["start_ms"][step]["p50"]);
                writeln!(text, "| {build} | {} ms | {} ms | {} ms |", start("ready"), start("connected"), start("confirmed"))?;
            }
            writeln!(text, "\n{}", source(measured))?;
        }
        self.same_camera(&mut text)?;
        self.beside(&mut text)?;

        let bare = &self.bare;
        writeln!(
            text,
            "\n### The static program on a bare camera\n\n{};\n{} kB for Linux.",
            bare["what"].as_str().unwrap_or_default(),
            plain(&bare["linux_memory_kb"])
        )?;
        writeln!(text, "Each state was watched for {} s, with a pre-roll of 1 s.\n", plain(&bare["seconds"]))?;
        text += COSTS;
        for (state, key) in STATES {
            costs(&mut text, state, &bare["states"][key])?;
        }
        text += "\n| a cancel is published → its report | p50 | p99 | max |\n|---|---|---|---|\n";
        latency(&mut text, &format!("{} cancels, an upload in flight", plain(&bare["cancels"])), bare)?;
        writeln!(
            text,
            "\nThe program takes {} bytes, the firmware's tarball {}.\nThe first report came {} s after power-on.",
            plain(&bare["program_bytes"]),
            plain(&bare["tarball_bytes"]),
            plain(&bare["first_report_s"])
        )?;
        writeln!(text, "\n{}", source(bare))?;

        text += "\n## Program size\n\n| armv7, stripped | bytes |\n|---|---|\n";
        writeln!(
            text,
            "| with GStreamer | {} |\n| static, without | {} |",
            plain(&self.size["gstreamer"]),
            plain(&self.size["no_gstreamer"])
        )?;
        writeln!(text, "\n{}\n", source(&self.size))?;
        self.bloat(&mut text)?;
        self.fleet(&mut text)?;
        Ok(text)
    }
}

/// The states of the benchmark of cancels: their titles, their keys.
const CUT_STATES: [(&str, &str); 4] = [
    ("idle, no upload in flight", "idle"),
    ("an upload in flight", "uploading"),
    ("an upload in flight, every core computes", "busy"),
    ("an upload in flight, the disk is written", "disk"),
];
/// Those that cancel: their titles, their keys. The first is ours.
const CONTENDERS: [(&str, &str); 5] = [
    ("kasa-care-agent", "kasa-care-agent"),
    ("the same, but it only drops the request", "drops_request"),
    ("paho, verifies and stores", "durable_paho"),
    ("paho", "paho"),
    ("`mosquitto_sub` + `curl`", "shell"),
];

/// What is counted: titles, keys.
const COUNTED: [(&str, &str); 6] = [
    ("the signature alone (ring)", "signature"),
    ("`jsonwebtoken`, with ring's signature", "jsonwebtoken"),
    ("verification", "verification"),
    ("a cancel is applied", "cancel"),
    ("the same document again", "duplicate"),
    ("an older document", "stale"),
];

impl Results {
    /// From a cancel to its report, in each state.
    fn cut(&self, text: &mut String) -> std::fmt::Result {
        writeln!(
            text,
            "\n## From a cancel to its report\n\nOn loopback, milliseconds. Of the medians of the rounds the least, the middle and the greatest are given. Bytes are the\n\
             payload that the store could still read once the cancel was published, with what its kernel had received before;\n\
             CPU is a cancel's, of all threads."
        )?;
        for (title, key) in CUT_STATES.into_iter().filter(|(_, key)| self.cut["states"][key].is_object()) {
            let state = &self.cut["states"][key];
            writeln!(text, "\n### Cancel: {title}\n\n{} cancels of each.\n", plain(&state["cancels"]))?;
            *text += "| | p50 | p99 | max | medians of rounds | bytes after, at most | CPU µs |\n|---|---|---|---|---|---|---|\n";
            for (name, key) in CONTENDERS.into_iter().filter(|(_, key)| state[key].is_object()) {
                let row = &state[key];
                let [p50, p99, max] = ["p50_ms", "p99_ms", "max_ms"].map(|key| fixed(&row[key], 2));
                let [least, middle, most] = ["min", "median", "max"].map(|key| fixed(&row["p50_ms_of_rounds"][key], 2));
                let (bytes, cpu) = (fixed(&row["bytes_after"]["max"], 0), fixed(&row["cpu_micros"], 0));
                writeln!(text, "| {name} | {p50} | {p99} | {max} | {least} / {middle} / {most} | {bytes} | {cpu} |")?;
            }
            let ratio = &state["ratio"];
            if ratio.is_object() {
                let [least, middle, most] = ["min", "median", "max"].map(|key| fixed(&ratio["p50"][key], 2));
                writeln!(
                    text,
                    "\nOurs takes {middle} times what the paho that verifies and stores takes at p50 (by round {least} to {most}), {} at p99.",
                    fixed(&ratio["p99"], 2)
                )?;
            }
        }
        self.cut_behind_an_uplink(text)?;
        let took = self.cut["took_s"].as_u64().map_or_else(String::new, |seconds| format!("\nAll of it took {seconds} s."));
        writeln!(text, "\n{}{took}\n{}", the_cut_alone(&self.cut["states"]["uploading"][CONTENDERS[0].1]), source(&self.cut))
    }

    /// The same over a real uplink, on which the report waits behind what was sent before it. Nothing where it was not measured.
    fn cut_behind_an_uplink(&self, text: &mut String) -> std::fmt::Result {
        let uplink = &self.cut["uplink"];
        if !uplink.is_object() {
            return Ok(());
        }
        writeln!(
            text,
            "\n### Cancel: behind an uplink of {} kbit/s\n\n{} cancels of each, in network namespaces, seen at the far end: p50 / max. The upload's last byte and the bytes are\n\
             counted on the wire from the publication on, with TLS; 0 ms: no byte came.\n",
            plain(&uplink["kbps"]),
            plain(&uplink["cancels"])
        )?;
        *text +=
            "| | report, ms | last byte of the upload, ms | bytes after the cancel | bytes after the report |\n|---|---|---|---|---|\n";
        for (name, key) in CONTENDERS.into_iter().filter(|(_, key)| uplink[key].is_object()) {
            let cell = |figure: &str, digits| ["p50", "max"].map(|at| fixed(&uplink[key][figure][at], digits)).join(" / ");
            let [report, last] = ["report_ms", "last_byte_ms"].map(|figure| cell(figure, 1));
            let [bytes, late] = ["bytes_after", "bytes_after_report"].map(|figure| cell(figure, 0));
            writeln!(text, "| {name} | {report} | {last} | {bytes} | {late} |")?;
        }
        Ok(())
    }

    /// What a verification and a decision cost, by the newest counts.
    fn instructions(&self, text: &mut String) -> std::fmt::Result {
        let builds = self.instructions.as_object().into_iter().flatten();
        let Some((build, newest)) = builds.max_by_key(|(_, of)| of["measured"]["at"].as_str().map(str::to_owned)) else { return Ok(()) };
        let count = |key: &str| newest["instructions"][key].as_f64().unwrap_or(f64::NAN);
        writeln!(
            text,
            "\n## Instructions of a decision\n\nA token's verification, and what the engine does from a message to the report, with the record that goes to flash.\n"
        )?;
        *text += "| | instructions | without the signature | ÷ `jsonwebtoken` |\n|---|---|---|---|\n";
        for (name, key) in COUNTED {
            let (all, rest) = (count(key), count(key) - count("signature"));
            let (rest, multiple) = match key {
                "signature" => ("–".to_owned(), "–".to_owned()),
                _ => (format!("{rest:.0}"), format!("{:.2}", all / count("jsonwebtoken"))),
            };
            writeln!(text, "| {name} | {all:.0} | {rest} | {multiple} |")?;
        }
        writeln!(text, "\nBuilt and counted with\n{build}.\n\n{}", source(newest))
    }

    /// When what was filmed is in the store, and what recording costs.
    fn video(&self, text: &mut String) -> std::fmt::Result {
        let (evidence, plain_pipeline) = (&self.video["evidence"], &self.video["plain"]);
        writeln!(
            text,
            "\n## From an event to the store\n\nA stream of {} Mbit/s over an uplink of {} kbit/s, a pre-roll of {} s, motion for {} s. A second of\n\
             video counts from its end, an object from its first frame, the pre-roll from the event on.\n",
            plain(&evidence["stream_mbit"]),
            plain(&evidence["uplink_kbit"]),
            plain(&evidence["pre_roll_s"]),
            plain(&self.video["seconds"])
        )?;
        *text += "| | snapshot | a second, max | an object, p50 | an object, max | objects | PSS MiB | CPU s/min |\n|---|---|---|---|---|---|---|---|\n";
        let leaving = [("in parts", "parts"), ("in parts, uplink estimated", "parts_estimated"), ("whole clips", "whole")];
        for (name, key) in leaving.into_iter().filter(|(_, key)| evidence[key].is_object()) {
            let (clips, cost) = (&evidence[key], &evidence[key]["cost"]);
            let [snapshot, second, p50, max] =
                ["snapshot_s", "second_max_s", "video_p50_s", "video_max_s"].map(|key| fixed(&clips[key], 2));
            let (objects, pss, cpu) = (plain(&clips["objects"]), mebibytes(&cost["pss_kb"]), plain(&cost["cpu_s_per_min"]));
            writeln!(text, "| {name} | {snapshot} s | {second} s | {p50} s | {max} s | {objects} | {pss} | {cpu} |")?;
        }
        let continuous = &self.video["continuous"];
        if continuous.is_object() {
            let [p50, max] = ["video_p50_s", "video_max_s"].map(|key| fixed(&continuous[key], 2));
            let (pss, cpu) = (mebibytes(&continuous["cost"]["pss_kb"]), plain(&continuous["cost"]["cpu_s_per_min"]));
            writeln!(text, "| everything, always | – | – | {p50} s | {max} s | – | {pss} | {cpu} |")?;
            writeln!(
                text,
                "\n*Everything, always* is what `kvssink` does, by `gst-launch-1.0` and `curl`: {} kbit/s leave without an event,\n\
                 too. The agent sends nothing then.",
                plain(&continuous["kbit_s"])
            )?;
        }
        let [after, stored, missing] = ["after_s", "stored_s", "missing_s"].map(|key| plain(&evidence["unplugged"][key]));
        writeln!(
            text,
            "\nUnplugged {after} s after the event began, the camera left {stored} s of video in the store, in parts: all but the last\n{missing} s."
        )?;
        writeln!(
            text,
            "\nRecording to a card, pre-roll and clips at 1280×720 and 15 frames a second, beside `gst-launch-1.0` with the same\n\
             elements for the same job (which uploads nothing):\n"
        )?;
        *text += COSTS;
        for (name, key) in [("plain pipeline", "pipeline"), ("agent with GStreamer", "gstreamer"), ("agent without", "no_gstreamer")] {
            costs(text, name, &plain_pipeline[key])?;
        }
        writeln!(text, "\n{}", source(&self.video))
    }

    /// The pace on an uplink whose rate changes.
    fn changing(&self, text: &mut String) -> std::fmt::Result {
        writeln!(
            text,
            "\n## On an uplink whose rate changes\n\nThe rate changes in the middle of a clip, each {} s. Of the last {} s: the part of the uplink that payload took; then\n\
             what left after a cut, the most in {} rounds. The fixed pace is the one that was right for the first rate.\n",
            plain(&self.changing["lasts_s"]),
            plain(&self.changing["watched_s"]),
            plain(&self.changing["rounds"])
        )?;
        *text += "| kbit/s | estimated: used | bytes after a cut | fixed: used | bytes after a cut |\n|---|---|---|---|---|\n";
        for key in ["collapses", "doubles", "recovers"] {
            let case = &self.changing[key];
            let rates: Vec<String> = case["kbps"].as_array().into_iter().flatten().map(plain).collect();
            write!(text, "| {} |", rates.join(" → "))?;
            for pace in ["estimated", "fixed"] {
                let used = case[pace]["used"].as_f64().map_or_else(|| "–".into(), |used| format!("{:.0} %", used * 100.0));
                write!(text, " {used} | {} |", plain(&case[pace]["after_cut_max"]))?;
            }
            writeln!(text)?;
        }
        writeln!(text, "\n{}", source(&self.changing))
    }

    /// What clips take of a fast uplink, beside plain hyper.
    fn throughput(&self, text: &mut String) -> std::fmt::Result {
        let seen = &self.throughput;
        writeln!(
            text,
            "\n## On a fast uplink\n\nThe part that payload took of {} kbit/s, {} ms from a segment to its acknowledgement; the median of {} rounds. An\n\
             estimating agent was just started and begins at 0.8 Mbit/s. What the agent leaves free keeps the device's queue empty\n\
             for a cut.\n",
            plain(&seen["kbps"]),
            plain(&seen["round_trip_ms"]),
            plain(&seen["rounds"])
        )?;
        writeln!(text, "| | the first {} s | then | ÷ plain hyper |\n|---|---|---|---|", plain(&seen["starts_s"]))?;
        let percent = |share: &Value| share.as_f64().map_or_else(|| "–".into(), |share| format!("{:.0} %", share * 100.0));
        for key in ["unpaced", "paced", "configured", "estimated", "parts", "parts_estimated"] {
            let (case, plain) = (&seen[key], seen["unpaced"]["then"].as_f64().unwrap_or(f64::NAN));
            let ratio = case["then"].as_f64().unwrap_or(f64::NAN) / plain;
            writeln!(
                text,
                "| {} | {} | {} | {ratio:.2} |",
                case["name"].as_str().unwrap_or_default(),
                percent(&case["first"]),
                percent(&case["then"])
            )?;
        }
        writeln!(text, "\n{}", source(seen))
    }

    /// Both builds at the same work.
    fn same_camera(&self, text: &mut String) -> std::fmt::Result {
        let measured = &self.footprint["x86_64"];
        if !measured["same_camera"].is_object() {
            return Ok(());
        }
        writeln!(text, "\n### Both builds on the same camera\n")?;
        writeln!(text, "On amd64, one after the other in one run, filming 640×360 over RTSP with the pre-roll of the defaults.\n")?;
        costs_of_builds(text, &measured["same_camera"])?;
        viewers(text, &measured["same_camera"])?;
        let [with, without] = BUILDS.map(|(_, key)| plain(&measured["same_camera"][key]["program_bytes"]));
        writeln!(text, "\nThe programs have {with} and {without} bytes, built for speed; GStreamer's libraries come on top.")?;
        writeln!(text, "\n{}", source(measured))
    }

    /// The agent's idle connection beside two programs that only hold the same one.
    fn beside(&self, text: &mut String) -> std::fmt::Result {
        let measured = &self.footprint["x86_64"];
        if !measured["beside"].is_object() {
            return Ok(());
        }
        writeln!(text, "\n### An idle connection, beside simpler programs\n")?;
        writeln!(text, "On amd64, in one run: the agent without GStreamer, Free, governing a vendor's uploader; a bare loop of rumqttc")?;
        writeln!(text, "with the same TLS that does nothing with what it gets; the paho agent.\n")?;
        writeln!(
            text,
            "| | PSS MiB | RSS MiB | threads | wakeups/s | CPU s/min | from exec to subscribed |\n|---|---|---|---|---|---|---|"
        )?;
        for (name, key) in [("kasa-care-agent", "agent"), ("bare rumqttc loop", "bare_loop"), ("paho + http.client", "paho")] {
            let (cost, subscribed) = (&measured["beside"][key]["cost"], &measured["beside"][key]["subscribed_ms"]);
            let [pss, rss] = ["pss_kb", "rss_kb"].map(|key| mebibytes(&cost[key]));
            let [threads, wakeups, cpu] = ["threads", "wakeups_per_s", "cpu_s_per_min"].map(|key| plain(&cost[key]));
            writeln!(text, "| {name} | {pss} | {rss} | {threads} | {wakeups} | {cpu} | {} ms |", fixed(subscribed, 1))?;
        }
        writeln!(text, "\n{}", source(measured))
    }

    /// What the static program's flash goes to.
    fn bloat(&self, text: &mut String) -> std::fmt::Result {
        let bloat = &self.bloat;
        let [bytes, xz, code] = ["bytes", "xz", "code"].map(|key| plain(&bloat[key]));
        writeln!(text, "The static program for armv7 has {bytes} bytes, {xz} as `xz -9e`; {code} of them are code. The largest crates")?;
        writeln!(text, "and functions, generic code counted where it was written:\n")?;
        for (what, key) in [("crate", "crates"), ("function", "functions")] {
            writeln!(text, "| {what} | bytes |\n|---|---|")?;
            for entry in bloat[key].as_array().into_iter().flatten() {
                writeln!(text, "| `{}` | {} |", entry["name"].as_str().unwrap_or("unknown").replace('|', "\\|"), plain(&entry["bytes"]))?;
            }
            writeln!(text)?;
        }
        writeln!(text, "{}", source(bloat))
    }
}

/// The steps of the fleet's benchmark: their titles, their keys. The first are the same on every broker.
const FLEET_STEPS: [(&str, &str); 6] = [
    ("all documents published", "first_publication"),
    ("all cameras connect", "connect"),
    ("cancel", "cancel"),
    ("subscribe", "subscribe"),
    ("key rotation", "rotate_key"),
    ("renewal at half the lease", "renew"),
];
const MOSQUITTO_STEPS: [(&str, &str); 2] = [("broker restart", "broker_restart"), ("cancel after it", "cancel_after_restart")];
const CLUSTER_STEPS: [(&str, &str); 1] = [("cancel, a node dies meanwhile", "cancel_node_lost")];
/// Those that the charts show.
const FLEET_CHANGES: [(&str, &str); 3] = [("cancel", "cancel"), ("key rotation", "rotate_key"), ("renewal", "renew")];
const CLUSTER_CHANGES: [(&str, &str); 2] = [("cancel, NATS", "cancel"), ("NATS, a node dies", "cancel_node_lost")];

impl Results {
    /// What a fleet costs, by its size.
    fn fleet(&self, text: &mut String) -> std::fmt::Result {
        let now = &self.fleet["now"];
        writeln!(text, "\n## A fleet\n")?;
        writeln!(text, "Seconds until the last camera has reported it, by the number of cameras; for the restart, until all of them are")?;
        writeln!(text, "connected and answered again.\n")?;
        fleet_tables(text, now, &MOSQUITTO_STEPS, "Mosquitto")?;
        let binding = &now["binding_to_one_account"];
        let millis = |key: &str| binding[key].as_f64().map_or_else(|| "–".into(), |micros| format!("{:.2}", micros / 1000.0));
        writeln!(
            text,
            "\nBinding {} cameras to one account, one after another, takes {} ms for each of the first hundred and {} ms\n\
             for each of the last (median, without the disk).",
            plain(&binding["cameras"]),
            millis("first_us"),
            millis("last_us")
        )?;
        writeln!(text, "\n![Seconds until the last camera has reported, by the size of the fleet](fleet-seconds.svg)")?;
        writeln!(text, "\n![Processor time of care-cloud for each camera, by the size of the fleet](fleet-cost.svg)")?;
        writeln!(text, "\n{}", source(now))?;
        if self.fleet["before"].is_object() {
            writeln!(text, "\nDashed: before documents, marks and reports went in groups. {}", source(&self.fleet["before"]))?;
        }
        let cluster = &self.fleet["cluster"];
        if cluster.is_object() {
            writeln!(text, "\n### On a cluster of three NATS nodes\n")?;
            fleet_tables(text, cluster, &CLUSTER_STEPS, "the nodes")?;
            writeln!(text, "\n{}", source(cluster))?;
        }
        writeln!(text)
    }

    /// The charts of the fleet, by file.
    fn fleet_charts(&self) -> [(&'static str, String); 2] {
        let lines = |figure: fn(&Value) -> &Value| {
            let mut lines = Vec::new();
            let mut add = |when: &str, key: &str, name: String, dashed, colour| {
                let fleets = self.fleet[when]["fleets"].as_array().into_iter().flatten();
                let points = fleets.filter_map(|fleet| Some((fleet["cameras"].as_f64()?, figure(&fleet["steps"][key]).as_f64()?)));
                lines.push(Line { name, points: points.collect(), dashed, colour });
            };
            for (colour, (name, key)) in FLEET_CHANGES.into_iter().enumerate() {
                add("now", key, name.to_owned(), false, colour);
                add("before", key, format!("{name}, before"), true, colour);
            }
            for (number, (name, key)) in CLUSTER_CHANGES.into_iter().enumerate() {
                add("cluster", key, name.to_owned(), false, FLEET_CHANGES.len() + number);
            }
            lines
        };
        let seconds = plot::chart("Until the last camera has reported", "cameras", "seconds", &lines(|step| &step["seconds"]));
        let cost = lines(|step| &step["cpu_ms_a_camera"]["cloud"]);
        let cost = plot::chart("Processor time of care-cloud for each camera", "cameras", "milliseconds", &cost);
        [("docs/fleet-seconds.svg", seconds), ("docs/fleet-cost.svg", cost)]
    }
}

/// The steps of all fleets of one measurement, with those that only its broker has: their seconds, then what they cost.
fn fleet_tables(text: &mut String, measurement: &Value, own_steps: &[(&str, &str)], broker: &str) -> std::fmt::Result {
    let fleets: Vec<&Value> = measurement["fleets"].as_array().into_iter().flatten().collect();
    let heads: String = fleets.iter().map(|fleet| format!(" {} |", plain(&fleet["cameras"]))).collect();
    let rule = "---|".repeat(fleets.len());
    writeln!(text, "| |{heads}\n|---|{rule}")?;
    for (title, key) in FLEET_STEPS.iter().chain(own_steps) {
        let cells: String = fleets.iter().map(|fleet| format!(" {} s |", fixed(&fleet["steps"][key]["seconds"], 2))).collect();
        writeln!(text, "| {title} |{cells}")?;
    }
    let one = |fleet: &&Value| {
        let times: Vec<f64> = fleet["account_cancels"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        times.get(times.len() / 2).map_or_else(|| " – |".into(), |median| format!(" {median:.2} s |"))
    };
    let cells: String = fleets.iter().map(one).collect();
    writeln!(text, "| cancel of one account of ten |{cells}")?;
    writeln!(text, "\nMilliseconds of processor time for each camera, in care-cloud / {broker} / the camera:\n")?;
    writeln!(text, "| |{heads}\n|---|{rule}")?;
    for (title, key) in FLEET_STEPS.iter().chain(own_steps) {
        let cell = |fleet: &&Value| {
            let side = |side: &str| fixed(&fleet["steps"][key]["cpu_ms_a_camera"][side], 2);
            format!(" {} / {} / {} |", side("cloud"), side("broker"), side("cameras"))
        };
        let cells: String = fleets.iter().map(cell).collect();
        writeln!(text, "| {title} |{cells}")?;
    }
    let cell = |fleet: &&Value| {
        let mib = |side: &str| fleet["memory"][side].as_f64().map_or_else(|| "–".into(), |bytes| format!("{:.0}", bytes / 1_048_576.0));
        let [cloud, broker, cameras] = ["cloud_bytes", "broker_bytes", "cameras_bytes"].map(mib);
        format!(" {cloud} / {broker} / {cameras} |")
    };
    let cells: String = fleets.iter().map(cell).collect();
    writeln!(text, "| memory (PSS) of all at the end, MiB |{cells}")
}

/// What is measured of each build: its title, its key.
const STATES: [(&str, &str); 3] = [("Free, idle", "free_idle"), ("paid, idle", "paid_idle"), ("paid, uploading", "paid_uploading")];

/// The builds: their titles, their keys.
const BUILDS: [(&str, &str); 2] = [("with GStreamer", "gstreamer"), ("without", "no_gstreamer")];
/// The head of a table of costs.
const COSTS: &str = "| | PSS MiB | RSS MiB | threads | wakeups/s | CPU s/min |\n|---|---|---|---|---|---|\n";

/// A table of what each build costs in each state.
fn costs_of_builds(text: &mut String, measured: &Value) -> std::fmt::Result {
    *text += COSTS;
    for (build, key) in BUILDS {
        for (state, key_of_state) in STATES {
            costs(text, &format!("{build}: {state}"), &measured[key]["states"][key_of_state])?;
        }
    }
    Ok(())
}

/// What viewers of the live view add, as multiples of the same state without them. Nothing where they were not measured.
fn viewers(text: &mut String, measured: &Value) -> std::fmt::Result {
    let mut rows = String::new();
    for (build, key) in BUILDS {
        let states = &measured[key]["states"];
        for (who, with) in [("1 viewer", "paid_idle_1_viewer"), ("4 viewers", "paid_idle_4_viewers")] {
            if !states[with].is_object() {
                continue;
            }
            let times = |figure: &str| {
                let ratio = states[with][figure].as_f64().zip(states["paid_idle"][figure].as_f64().filter(|alone| *alone > 0.0));
                ratio.map_or_else(|| "–".into(), |(watched, alone)| format!("{:.2}×", watched / alone))
            };
            let [pss, wakeups, cpu] = ["pss_kb", "wakeups_per_s", "cpu_s_per_min"].map(times);
            writeln!(rows, "| {build}: {who} | {pss} | {wakeups} | {cpu} |")?;
        }
    }
    if !rows.is_empty() {
        writeln!(text, "\nViewers of `/live.mp4`, against paid and idle without any in the same run:\n")?;
        write!(text, "| | PSS | wakeups | CPU |\n|---|---|---|---|\n{rows}")?;
    }
    Ok(())
}

fn costs(text: &mut String, name: &str, cost: &Value) -> std::fmt::Result {
    let (pss, rss) = (mebibytes(&cost["pss_kb"]), mebibytes(&cost["rss_kb"]));
    let (threads, wakeups, cpu) = (&cost["threads"], &cost["wakeups_per_s"], &cost["cpu_s_per_min"]);
    writeln!(text, "| {name} | {pss} | {rss} | {threads} | {wakeups} | {cpu} |")
}

fn latency(text: &mut String, name: &str, figures: &Value) -> std::fmt::Result {
    let [p50, p99, max] = ["p50_ms", "p99_ms", "max_ms"].map(|key| fixed(&figures[key], 1));
    writeln!(text, "| {name} | {p50} ms | {p99} ms | {max} ms |")
}

fn the_cut_alone(figures: &Value) -> String {
    let millis = |key: &str| figures["cut_micros"][key].as_f64().map_or_else(|| "–".into(), |micros| format!("{:.2}", micros / 1000.0));
    format!(
        "Of the agent's time with an upload in flight the cut itself took {} ms at p50 and {} ms at most.",
        millis("p50"),
        millis("max")
    )
}

/// Where a result comes from.
fn source(result: &Value) -> String {
    let measured = &result["measured"];
    let word = |key: &str| measured[key].as_str().unwrap_or("unknown").to_owned();
    let load = measured["load"].as_f64().map_or_else(String::new, |load| format!(", load {load:.1}"));
    let debug = if measured["debug"] == true { " A debug build." } else { "" };
    format!("`{}`,\n{}, commit {}: {}{load}.{debug}", word("command"), day(result), word("commit"), word("machine"))
}

fn day(result: &Value) -> String {
    result["measured"]["at"].as_str().and_then(|at| at.get(..10)).unwrap_or("unknown").to_owned()
}

fn fixed(figure: &Value, digits: usize) -> String {
    figure.as_f64().map_or_else(|| "–".into(), |figure| format!("{figure:.digits$}"))
}

/// kB as `/proc` has them, which are KiB.
fn mebibytes(kilobytes: &Value) -> String {
    kilobytes.as_f64().map_or_else(|| "–".into(), |kilobytes| format!("{:.1}", kilobytes / 1024.0))
}

fn plain(figure: &Value) -> String {
    if figure.is_null() { "–".into() } else { figure.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> &'static Path {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
    }

    #[test]
    fn the_published_figures_are_those_of_the_results() {
        let results = Results::read(root()).unwrap();
        for (file, figures) in [("docs/benchmarks.md", results.in_full().unwrap()), ("README.md", results.in_short().unwrap())] {
            let text = fs::read_to_string(root().join(file)).unwrap();
            assert!(text == replaced(&text, &figures).unwrap(), "{file} differs from benches/results: run target/debug/bench-report");
        }
        for (file, picture) in results.fleet_charts() {
            let kept = fs::read_to_string(root().join(file)).unwrap();
            assert!(kept == picture, "{file} differs from benches/results: run target/debug/bench-report");
        }
    }

    #[test]
    fn a_figure_that_changes_is_published() {
        let mut results = Results::read(root()).unwrap();
        let before = (results.in_full().unwrap(), results.in_short().unwrap());
        results.cut["states"]["uploading"]["kasa-care-agent"]["p50_ms"] = json!(98.7);
        let after = (results.in_full().unwrap(), results.in_short().unwrap());
        assert!(before.0 != after.0 && after.0.contains("| 98.70 |"));
        assert!(before.1 != after.1 && after.1.contains("98.7 / "));
    }

    #[test]
    fn an_uplink_is_published_where_it_was_measured() {
        let mut results = Results::read(root()).unwrap();
        results.cut["uplink"] = Value::Null;
        let mut text = String::new();
        results.cut_behind_an_uplink(&mut text).unwrap();
        assert_eq!(text, "");
        let spread = |p50: f64, max: f64| json!({ "p50": p50, "max": max });
        let ours = json!({ "report_ms": spread(3.25, 20.5), "last_byte_ms": spread(0.0, 16.9), "bytes_after": spread(0.0, 4266.0) });
        results.cut["uplink"] = json!({ "kbps": 2000, "cancels": 30, "kasa-care-agent": ours });
        results.cut_behind_an_uplink(&mut text).unwrap();
        assert!(text.contains("uplink of 2000 kbit/s\n\n30 cancels"), "{text}");
        assert!(text.ends_with("| kasa-care-agent | 3.2 / 20.5 | 0.0 / 16.9 | 0 / 4266 | – / – |\n"), "{text}");
    }

    #[test]
    fn the_newest_counts_are_published() {
        let mut results = Results::read(root()).unwrap();
        let counts = |at: &str, verification: u64| {
            let instructions = json!({ "signature": 500, "jsonwebtoken": 800, "verification": verification });
            json!({ "measured": { "at": at }, "instructions": instructions })
        };
        results.instructions = json!({ "a new build": counts("2026-12-02", 1000), "an old build": counts("2026-12-01", 3000) });
        let mut text = String::new();
        results.instructions(&mut text).unwrap();
        assert!(text.contains("| verification | 1000 | 500 | 1.25 |") && text.contains("with\na new build."), "{text}");
    }

    #[test]
    fn a_cluster_is_published_beside_the_single_broker() {
        let mut results = Results::read(root()).unwrap();
        let step = |seconds: f64| json!({ "seconds": seconds, "cpu_ms_a_camera": { "cloud": 0.5 } });
        let steps = json!({ "cancel": step(1.25), "cancel_node_lost": step(9.75) });
        results.fleet["cluster"] = json!({ "measured": { "at": "2026-12-02" }, "fleets": [{ "cameras": 100, "steps": steps }] });
        let mut text = String::new();
        results.fleet(&mut text).unwrap();
        let (_, cluster) = text.split_once("### On a cluster").unwrap();
        assert!(cluster.contains("| cancel | 1.25 s |\n") && cluster.contains("| cancel, a node dies meanwhile | 9.75 s |\n"), "{cluster}");
        let [seconds, _] = results.fleet_charts();
        assert!(seconds.1.contains(">cancel, NATS<") && seconds.1.contains(">cancel<"), "{}", seconds.1);
    }

    #[test]
    fn viewers_are_published_as_multiples_where_they_were_measured() {
        let cost = |pss: u64, cpu: f64| json!({ "pss_kb": pss, "wakeups_per_s": 40.0, "cpu_s_per_min": cpu });
        let mut text = String::new();
        viewers(&mut text, &json!({ "gstreamer": { "states": { "paid_idle": cost(8000, 0.2) } } })).unwrap();
        assert_eq!(text, "", "nobody watched");
        let states = json!({ "paid_idle": cost(8000, 0.2), "paid_idle_1_viewer": cost(8800, 0.3), "paid_idle_4_viewers": cost(9200, 0.6) });
        let idle = json!({ "paid_idle": cost(8000, 0.0), "paid_idle_4_viewers": cost(8000, 0.6) });
        viewers(&mut text, &json!({ "gstreamer": { "states": states }, "no_gstreamer": { "states": idle } })).unwrap();
        let rows: Vec<&str> = text.lines().skip(5).collect();
        let expected = [
            "| with GStreamer: 1 viewer | 1.10× | 1.00× | 1.50× |",
            "| with GStreamer: 4 viewers | 1.15× | 1.00× | 3.00× |",
            "| without: 4 viewers | 1.00× | 1.00× | – |",
        ];
        assert_eq!(rows, expected, "{text}");
    }

    #[test]
    fn a_result_gives_way_to_a_later_one_only() {
        let of = |at: &str, figure: u64| json!({ "measured": { "at": at }, "figure": figure });
        let mut known = of("2026-11-26T10:00:00Z", 1);
        take(&mut known, of("2026-11-25T10:00:00Z", 2));
        assert_eq!(known["figure"], 1);
        take(&mut known, json!({ "figure": 3 }));
        assert_eq!(known["figure"], 1, "a result without its time is not published");
        take(&mut known, of("2026-11-27T10:00:00Z", 4));
        assert_eq!(known["figure"], 4);
    }

    #[test]
    fn of_several_measurements_in_a_file_each_is_judged_by_itself() {
        let of = |at: &str, figure: u64| json!({ "measured": { "at": at }, "figure": figure });
        let mut known = json!({ "here": of("2026-11-26", 1), "camera": of("2026-11-26", 1) });
        take(&mut known, json!({ "what": "words", "here": of("2026-11-27", 2), "camera": { "figure": 3 } }));
        assert_eq!(known, json!({ "what": "words", "here": of("2026-11-27", 2), "camera": of("2026-11-26", 1) }));
    }
}
