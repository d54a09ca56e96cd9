//! The camera's own page: the status document as HTML, with live view, motion events and the last switches. It is made of sections
//! that the server renders whether the page is loaded or updated: `page.js` replaces what changed by what `/events` sends, and knows
//! no words. Without script the page reloads. Everything from outside is escaped. docs/page.md describes it.

mod html;
mod language;
#[cfg(test)]
mod tests;

use care_protocol::{Cause, ClipKind, Mode, Plan, Policy};

use self::{
    html::Html,
    language::{fill, moment},
};
use super::{SharedStatus, StatusDocument, document};
use crate::{
    conditions::{Condition, Severity},
    media::{Became, MotionEvent, StreamStatus},
    timeline::{Change, End, Entry, Episode, Stages, What},
};

pub(super) use self::language::Words;

/// The page's style.
pub(super) const STYLE: &str = include_str!("page.css");
/// Its script.
pub(super) const SCRIPT: &str = include_str!("page.js");
/// Its icon.
pub(super) const ICON: &str = include_str!("icon.svg");

/// How many switches it shows, and how much of what happened between them.
const SWITCHES: usize = 5;
const OTHERS: usize = 10;

/// What the page shows, at one moment.
pub(super) struct Scene {
    document: StatusDocument,
    /// Oldest first.
    timeline: Vec<Entry>,
    motion: Vec<MotionEvent>,
}

/// A part of the page that is replaced when it changes.
pub(super) struct Section {
    /// Its id on the page.
    pub id: &'static str,
    render: fn(&Scene, &Words, &mut Html),
}

/// All of them, in the order of the page.
pub(super) const SECTIONS: [Section; 9] = [
    Section { id: "state", render: state },
    Section { id: "wrong", render: wrong },
    Section { id: "motion", render: motion },
    Section { id: "switches", render: switches },
    Section { id: "plan", render: plan },
    Section { id: "uploads", render: uploads },
    Section { id: "camera", render: camera },
    Section { id: "link", render: link },
    Section { id: "device", render: device },
];

impl Section {
    pub fn html(&self, scene: &Scene, words: &Words) -> String {
        let mut html = Html::default();
        (self.render)(scene, words, &mut html);
        html.finish()
    }
}

impl Scene {
    pub fn of(status: &SharedStatus) -> Self {
        Self {
            document: status.read(),
            timeline: status.timeline().entries(),
            motion: status.live().map(|live| live.motion()).unwrap_or_default(),
        }
    }

    pub fn title(&self, words: &Words) -> String {
        let StatusDocument { model, device, mode, .. } = &self.document;
        fill("{} {}: {}", &[model, device.as_str(), words.code(mode.as_str())])
    }

    /// Whether the document has media, which the page's frame depends on.
    fn films(&self) -> bool {
        self.document.media.is_some()
    }
}

/// The whole page.
pub(super) fn render(scene: &Scene, words: &Words) -> String {
    let mut html = Html::default();
    html.raw("<!doctype html>\n<html lang=\"").raw(words.lang).raw("\">\n<meta charset=\"utf-8\">\n");
    html.raw(
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n",
    );
    html.raw("<title>").text(&scene.title(words)).raw("</title>\n<link rel=\"icon\" href=\"/icon.svg\">\n");
    html.raw("<link rel=\"stylesheet\" href=\"/page.css\">\n<script src=\"/page.js\" defer></script>\n");
    html.raw("<noscript><meta http-equiv=\"refresh\" content=\"5\"></noscript>\n<body>\n");
    html.raw("<a class=\"skip\" href=\"#main\">").raw(words.skip).raw("</a>\n<header>\n<h1>").text(&scene.document.model).raw(" <small>");
    html.text(scene.document.device.as_str()).raw("</small></h1>\n");
    html.raw("<p id=\"lost\" role=\"alert\" hidden>")
        .raw(words.lost)
        .raw(" <time></time></p>\n</header>\n<main id=\"main\" tabindex=\"-1\">\n");
    let films = scene.films();
    place(&mut html, scene, words, &["state", "wrong"]);
    html.raw("<div class=\"column\">\n");
    if films {
        live(words, &mut html);
        place(&mut html, scene, words, &["motion"]);
    }
    place(&mut html, scene, words, &["switches"]);
    html.raw("</div>\n<div class=\"column\">\n");
    place(&mut html, scene, words, &["plan", "uploads"]);
    if films {
        place(&mut html, scene, words, &["camera"]);
    }
    place(&mut html, scene, words, &["link", "device"]);
    html.raw("</div>\n</main>\n<footer>\n<p>").raw(words.agent_alone);
    for path in ["status.json", "status.txt", "support.json"] {
        html.raw(" <a href=\"/").raw(path).raw("\">").raw(path).raw("</a>");
    }
    html.raw("</p>\n</footer>\n</body>\n</html>\n");
    html.finish()
}

/// Puts these sections here.
fn place(html: &mut Html, scene: &Scene, words: &Words, ids: &[&str]) {
    for section in ids.iter().filter_map(|id| SECTIONS.iter().find(|section| section.id == *id)) {
        // A screen reader tells what is wrong when it changes.
        open(html, section.id, if section.id == "wrong" { " aria-live=\"polite\"" } else { "" });
        (section.render)(scene, words, html);
        html.raw("</section>\n");
    }
}

fn open(html: &mut Html, id: &str, attributes: &str) {
    html.raw("<section id=\"").raw(id).raw("\" aria-labelledby=\"").raw(id).raw("-h\"").raw(attributes).raw(">\n");
}

/// The live view. It stays as it is while the page is updated.
fn live(words: &Words, html: &mut Html) {
    open(html, "live", "");
    html.raw("<h2 id=\"live-h\">").raw(words.live).raw("</h2>\n<div class=\"screen\">");
    html.raw("<video id=\"video\" muted playsinline aria-label=\"").raw(words.live_label).raw("\"></video>");
    html.raw("<img id=\"still\" alt=\"").raw(words.live_label).raw("\" hidden>");
    html.raw("<noscript><img src=\"/frame.jpg\" alt=\"").raw(words.live_label).raw("\"></noscript>");
    html.raw("<p id=\"said\" data-still=\"").raw(words.live_still).raw("\">").raw(words.live_begins).raw("</p></div>\n");
    for (id, now, then) in [("pause", words.live_pause, words.live_play), ("sound", words.live_unmute, words.live_mute)] {
        html.raw("<button id=\"").raw(id).raw("\" type=\"button\" data-then=\"").raw(then).raw("\" hidden>").raw(now).raw("</button>\n");
    }
    html.raw("</section>\n");
}

fn heading(html: &mut Html, id: &str, words: &str) {
    html.raw("<h2 id=\"").raw(id).raw("-h\">").raw(words).raw("</h2>\n");
}

/// A term of a description list and its text.
fn row(html: &mut Html, name: &str, value: &str) {
    rows(html, name, &[value]);
}

/// The same with several texts.
fn rows(html: &mut Html, name: &str, values: &[&str]) {
    html.raw("<div><dt>").raw(name).raw("</dt>");
    for value in values {
        html.raw("<dd>").text(value).raw("</dd>");
    }
    html.raw("</div>\n");
}

/// The same with a text that is English in every language.
fn row_english(html: &mut Html, name: &str, value: &str) {
    html.raw("<div><dt>").raw(name).raw("</dt><dd lang=\"en\">").text(value).raw("</dd></div>\n");
}

/// The same with a bar that warns when little room is left.
fn bar(html: &mut Html, words: &Words, name: &str, (part, whole): (u64, u64)) {
    let said = fill(words.of, &[&words.size(part), &words.size(whole)]);
    meter(html, name, &said, &[("max", whole.max(1)), ("high", whole / 10 * 9), ("value", part.min(whole))]);
}

/// The same with a bar of these attributes.
fn meter(html: &mut Html, name: &str, said: &str, attributes: &[(&str, u64)]) {
    html.raw("<div class=\"bar\"><dt>").raw(name).raw("</dt><dd>").text(said).raw(" <meter aria-label=\"").raw(name).raw("\"");
    for (attribute, number) in attributes {
        html.raw(" ").raw(attribute).raw("=\"").number(*number).raw("\"");
    }
    html.raw("></meter></dd></div>\n");
}

fn time(html: &mut Html, at: jiff::Timestamp) {
    html.raw("<time datetime=\"").text(&at.to_string()).raw("\">").text(&moment(at)).raw("</time>");
}

fn plan_name(plan: Option<&Plan>, words: &Words) -> String {
    let Some(plan) = plan else { return words.no_plan.to_owned() };
    let mut name = plan.as_str().to_owned();
    if let Some(first) = name.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    name
}

/// The mode, where the plan's name does not say it already.
fn badge(html: &mut Html, plan: Option<&Plan>, mode: Mode, words: &Words) {
    if plan.is_none_or(|plan| plan.as_str() != mode.as_str()) {
        html.raw(" <span class=\"badge ").raw(mode.as_str()).raw("\">").text(words.code(mode.as_str())).raw("</span>");
    }
}

/// Plan, mode, what the uploads do, and what holds them up.
fn state(scene: &Scene, words: &Words, html: &mut Html) {
    let StatusDocument { plan, mode, spool, transfers, .. } = &scene.document;
    html.raw("<h2 id=\"state-h\">").text(&plan_name(plan.as_ref(), words));
    badge(html, plan.as_ref(), *mode, words);
    html.raw("</h2>\n<p class=\"lead\">");
    let count = |number: u32| number.to_string();
    let closed = scene.document.is_closed();
    let held_up = scene.document.held_up_by();
    let lead = match held_up {
        Some(_) => words.lead_held_up.to_owned(),
        None if plan.is_none() => words.lead_unbound.to_owned(),
        None if closed => words.lead_closed.to_owned(),
        None if transfers.in_flight > 0 => {
            fill(words.lead_sending, &[&count(transfers.in_flight), &count(spool.clips.saturating_sub(transfers.in_flight))])
        }
        None if spool.clips > 0 => fill(words.lead_waiting, &[&count(spool.clips)]),
        None => words.lead_idle.to_owned(),
    };
    html.text(&lead).raw("</p>\n");
    if let Some(Condition { sentence, advice, .. }) = held_up {
        html.raw("<p><b>").raw(words.because).raw("</b> <span lang=\"en\">").text(sentence).raw("</span></p>\n<p><b>");
        html.raw(words.what_to_do).raw("</b> <span lang=\"en\">").text(advice).raw("</span></p>\n");
    }
}

/// The conditions, most severe first, each with its advice. Severity is a word, not a colour alone.
fn wrong(scene: &Scene, words: &Words, html: &mut Html) {
    let conditions = &scene.document.conditions;
    if conditions.is_empty() {
        html.raw("<h2 id=\"wrong-h\" class=\"fine\">").raw(words.nothing_wrong).raw("</h2>\n");
        return;
    }
    html.raw("<h2 id=\"wrong-h\">").raw(words.wrong).raw(" <small>").number(conditions.len() as u64).raw("</small></h2>\n<ul>\n");
    for Condition { name, since, severity, sentence, advice } in conditions {
        let (class, word) = match severity {
            Severity::Warning => ("warning", words.warning),
            Severity::Error => ("error", words.error),
        };
        html.raw("<li class=\"")
            .raw(class)
            .raw("\"><p><b>")
            .raw(word)
            .raw("</b> <code>")
            .text(name)
            .raw("</code> <small>")
            .raw(words.since);
        html.raw(" ");
        time(html, *since);
        html.raw("</small></p>\n<p lang=\"en\">")
            .text(sentence)
            .raw("</p>\n<p class=\"advice\" lang=\"en\">")
            .text(advice)
            .raw("</p></li>\n");
    }
    html.raw("</ul>\n");
}

fn motion(scene: &Scene, words: &Words, html: &mut Html) {
    heading(html, "motion", words.motion);
    let Some(media) = &scene.document.media else { return };
    if scene.motion.is_empty() {
        html.raw("<p>").raw(words.no_motion).raw("</p>\n");
    } else {
        html.raw("<ol class=\"events\">\n");
        scene.motion.iter().for_each(|event| motion_event(event, words, html));
        html.raw("</ol>\n");
    }
    let status = &media.status;
    let counts = [status.motion_events, status.clips_recorded, status.clips_refused, status.events_missed].map(|count| count.to_string());
    html.raw("<p class=\"quiet\">").text(&fill(words.motion_counts, &counts.each_ref().map(String::as_str))).raw("</p>\n");
}

fn motion_event(event: &MotionEvent, words: &Words, html: &mut Html) {
    html.raw("<li id=\"event-").number(event.number).raw("\">");
    if event.pictured {
        // The script loads it: browsers show the first frame of a video.
        html.raw("<video muted playsinline preload=\"auto\" tabindex=\"-1\" width=\"128\" height=\"72\" data-src=\"/motion/");
        html.number(event.number).raw(".mp4\" aria-label=\"").raw(words.picture_of).raw("\"></video>");
    } else {
        html.raw("<span class=\"blank\"></span>");
    }
    let kind = match event.kind {
        ClipKind::Motion => "motion",
        ClipKind::Manual => "manual",
        ClipKind::Snapshot => "snapshot",
    };
    html.raw("<p><b>").text(words.code(kind)).raw("</b> ").text(&fill(words.ago, &[&words.span(event.ago.as_secs())]));
    html.raw("<br>");
    match event.became {
        Became::Running => html.raw(words.became_running),
        Became::Recorded(1) => html.raw(words.became_recorded),
        Became::Recorded(clips) => html.text(&fill(words.became_recorded_many, &[&clips.to_string()])),
        Became::NotAllowed => html.raw(words.became_not_allowed),
        Became::Missed => html.raw(words.became_missed),
        Became::Erased => html.raw(words.became_erased),
        Became::Ended => html.raw(words.became_ended),
    };
    html.raw("</p></li>\n");
}

fn switches(scene: &Scene, words: &Words, html: &mut Html) {
    heading(html, "switches", words.switches);
    let (mut shown, mut others) = (0, 0);
    html.raw("<ol class=\"switches\">\n");
    for (n, entry) in scene.timeline.iter().enumerate().rev() {
        match &entry.what {
            What::Switch(_) if shown == SWITCHES => break,
            What::Switch(change) => {
                shown += 1;
                let before = scene.timeline[..n].iter().rev().find_map(Entry::change);
                switch(change, before, words, html);
            }
            _ if others == OTHERS => {}
            what => {
                others += 1;
                other(entry, what, words, html);
            }
        }
    }
    html.raw("</ol>\n");
    if shown == 0 {
        html.raw("<p>").raw(words.no_switch).raw("</p>\n");
    }
}

/// What happened between switches.
fn other(entry: &Entry, what: &What, words: &Words, html: &mut Html) {
    html.raw("<li class=\"quiet\">");
    match &entry.at {
        Some(at) => time(html, at.0),
        None => _ = html.text(&fill(words.time_unknown, &[&words.span(entry.boot_s)])),
    }
    html.raw(" · ");
    match what {
        What::Condition(Episode { name, sentence, lasted_s, times }) => {
            html.raw("<code>").text(name).raw("</code> ");
            if let Some(lasted) = lasted_s {
                html.text(&fill(words.lasted, &[&words.span(*lasted)])).raw(" ");
            }
            if *times > 1 {
                html.text(&fill(words.times, &[&times.to_string()])).raw(" ");
            }
            html.raw("<span lang=\"en\">").text(sentence).raw("</span>");
        }
        What::Started(start) => {
            html.text(&fill(words.started, &[&start.agent])).raw(match start.previous {
                Some(End::Stopped) | None => "",
                Some(End::Killed) => words.after_kill,
                Some(End::PowerLost) => words.after_power_cut,
            });
        }
        What::Stopped {} => _ = html.raw(words.stopped),
        What::ClockStep(step) => _ = html.raw("<span lang=\"en\">").text(step).raw("</span>"),
        What::Switch(_) => {}
    }
    html.raw("</li>\n");
}

fn switch(Change { report, stages, .. }: &Change, before: Option<&Change>, words: &Words, html: &mut Html) {
    html.raw("<li><p><b>");
    if let Some(before) = before {
        html.text(&plan_name(before.report.plan.as_ref(), words)).raw(" → ");
    }
    html.text(&plan_name(report.plan.as_ref(), words)).raw("</b>");
    badge(html, report.plan.as_ref(), report.mode, words);
    html.raw("<br><small>").text(words.code(&report.reason)).raw(", ").text(words.code(report.cause.as_str())).raw(" · ");
    time(html, report.at);
    html.raw("</small></p>\n");
    stage_times(*stages, report.cause == Cause::Document, words, html);
    let number = |number: u64| number.to_string();
    if stages.cut.is_some() || report.cut.transfers > 0 {
        html.raw("<p class=\"quiet\">");
        if report.cut.transfers > 0 {
            let parts = [u64::from(report.cut.transfers), report.cut.micros].map(number);
            html.text(&fill(words.transfers_cut, &parts.each_ref().map(String::as_str))).raw(" · ");
        }
        html.text(&fill(words.bytes_after, &[&number(report.cut.bytes_after)]));
        if report.erased.clips > 0 {
            html.raw(" · ").text(&fill(words.clips_erased, &[&words.clips(report.erased.clips, report.erased.bytes)]));
        }
        html.raw("</p>\n");
    }
    if let Some(detail) = &report.detail {
        html.raw("<p class=\"quiet\" lang=\"en\">").text(detail).raw("</p>\n");
    }
    html.raw("</li>\n");
}

/// The stages that there were, in their order.
fn stage_times(stages: Stages, received: bool, words: &Words, html: &mut Html) {
    let named = [
        (words.cut, stages.cut),
        (words.written, stages.written),
        (words.acknowledged, stages.acknowledged),
        (words.reported, stages.reported),
    ];
    let mut there: Vec<(u64, &str)> = named.into_iter().filter_map(|(name, micros)| Some((micros?, name))).collect();
    if there.is_empty() {
        return;
    }
    there.sort_by_key(|(micros, _)| *micros);
    html.raw("<ol class=\"stages\"><li>").raw(if received { words.received } else { words.due }).raw("<br><b>0</b></li>");
    for (micros, name) in there {
        html.raw("<li>").raw(name).raw("<br><b>").text(&grouped(micros)).raw("</b>\u{a0}µs</li>");
    }
    html.raw("</ol>\n");
}

/// `12 340`, with no-break spaces.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    grouped
}

fn plan(scene: &Scene, words: &Words, html: &mut Html) {
    let document = &scene.document;
    heading(html, "plan", words.plan);
    html.raw("<dl>\n");
    if let Some(reason) = document.reason {
        row(html, words.why, words.code(reason.as_str()));
    }
    row(html, words.may_leave, &limits(&document.may_leave, words));
    if document.may_leave.clips {
        row(html, words.kept, &words.span(u64::from(document.may_leave.history_h) * 3600));
    }
    let next = document.next.as_ref().map_or_else(
        || words.next_none.to_owned(),
        |next| {
            let left = next.at.as_second().saturating_sub(document.at.as_second());
            let plan = plan_name(Some(&next.plan), words);
            let span = words.span(u64::try_from(left).unwrap_or(0));
            fill("{} ({})", &[&fill(words.next_at, &[&plan, &span]), &moment(next.at)])
        },
    );
    row(html, words.next, &next);
    let lease = match document.lease_left_s {
        None => words.none.to_owned(),
        Some(0) => words.lease_ended.to_owned(),
        Some(left) => fill(words.lease_left, &[&words.span(left)]),
    };
    match document.lease_left_s.zip(document.lease_s) {
        // In hundredths, so that an update seldom changes it. It warns when little is left.
        Some((left, whole @ 1..)) => {
            let left = left.saturating_mul(100) / whole;
            meter(html, words.lease, &lease, &[("max", 100), ("low", 10), ("optimum", 100), ("value", left.min(100))]);
        }
        _ => row(html, words.lease, &lease),
    }
    if document.seq > 0 {
        let written = if document.persisted { words.on_flash } else { words.not_on_flash };
        row(html, words.document, &fill("{}, {}", &[&document.position().to_string(), written]));
    }
    if let Some(order) = &document.order {
        row(html, words.order, order);
    }
    html.raw("</dl>\n");
}

fn limits(policy: &Policy, words: &Words) -> String {
    let clips = match policy.clips {
        true => {
            let parts = [policy.clip_max_s, policy.max_height, policy.cooldown_s].map(|number| number.to_string());
            fill(words.clips_to, &parts.each_ref().map(String::as_str))
        }
        false => words.no_clips.to_owned(),
    };
    fill("{}; {}", &[&clips, if policy.snapshots { words.snapshots } else { words.no_snapshots }])
}

fn uploads(scene: &Scene, words: &Words, html: &mut Html) {
    let StatusDocument { transfers, spool, uploader, .. } = &scene.document;
    heading(html, "uploads", words.uploads);
    if transfers.flights.is_empty() {
        html.raw("<p>").raw(words.no_transfer).raw("</p>\n");
    }
    for flight in &transfers.flights {
        let id = flight.id.simple().to_string();
        let name = fill(words.transfer, &[id.get(..8).unwrap_or_default()]);
        html.raw("<p class=\"bar\"><span>").text(&name).raw("</span> <span>");
        html.text(&fill(words.of, &[&words.size(flight.sent), &words.size(flight.bytes)])).raw("</span> <progress aria-label=\"");
        html.text(&name).raw("\" max=\"").number(flight.bytes.max(1)).raw("\" value=\"").number(flight.sent).raw("\"></progress></p>\n");
    }
    html.raw("<dl>\n");
    bar(html, words, words.memory, (spool.memory_bytes, spool.quota_bytes));
    if spool.flash_quota_bytes > 0 {
        bar(html, words, words.flash, (spool.flash_bytes, spool.flash_quota_bytes));
        bar(html, words, words.flash_today, (spool.flash_written_today, spool.flash_bytes_per_day));
    }
    row(html, words.stored, &words.clips(spool.stored_clips, spool.stored_bytes));
    row(html, words.erased, &words.clips(spool.erased_clips, spool.erased_bytes));
    if spool.dropped_clips > 0 {
        row(html, words.dropped, &words.clips(spool.dropped_clips, spool.dropped_bytes));
    }
    row(html, words.pace, &fill(words.per_second, &[&words.size(transfers.pace)]));
    if let Some(fault) = &transfers.last_fault {
        row_english(html, words.last_fault, fault);
    }
    if let Some(uploader) = uploader {
        row_english(html, words.uploader, &document::vendors(uploader));
    }
    html.raw("</dl>\n");
}

fn camera(scene: &Scene, words: &Words, html: &mut Html) {
    heading(html, "camera", words.camera);
    let Some(media) = &scene.document.media else { return };
    html.raw("<dl>\n");
    stream(&media.status.stream, words.picture, words, html);
    if let Some(low) = &media.status.low {
        stream(low, words.second_picture, words, html);
    }
    if let Some(sound) = &media.status.stream.sound {
        row_english(html, words.sound, sound);
    }
    if let (Some(card), Some(quota)) = (&media.status.recording, scene.document.card_quota_bytes) {
        bar(html, words, words.card, (card.bytes, quota));
        row(html, words.recorded, &frames(card.frames, card.dropped, words));
        if let Some(fault) = &card.fault {
            row_english(html, words.failing, fault);
        }
    }
    html.raw("</dl>\n");
}

fn stream(stream: &StreamStatus, name: &str, words: &Words, html: &mut Html) {
    let size = match stream.height {
        0 => String::new(),
        height => fill("{} × {}", &[&stream.width.to_string(), &height.to_string()]),
    };
    let coding = stream.coding.as_deref().unwrap_or_default();
    let picture = fill("{} {}", &[&size, coding]);
    rows(html, name, &[&picture, &frames(stream.frames, stream.dropped, words), &stream.source]);
    if let Some(fault) = &stream.fault {
        row_english(html, words.failing, fault);
    }
}

fn frames(come: u64, lost: u64, words: &Words) -> String {
    fill(words.frames, &[&grouped(come), &grouped(lost)])
}

fn link(scene: &Scene, words: &Words, html: &mut Html) {
    let link = &scene.document.link;
    heading(html, "link", words.link);
    html.raw("<dl>\n");
    let (state, confirmed) = match (link.up, link.confirmed) {
        (true, true) => (words.connected, words.confirmed),
        (true, false) => (words.connected, words.not_confirmed),
        (false, _) => (words.not_connected, words.not_confirmed),
    };
    row(html, words.broker, &fill("{}: {}, {}", &[&link.broker, state, confirmed]));
    if let Some(fault) = &link.fault {
        row_english(html, words.failing, fault);
    }
    row(html, words.connections, &link.connections.to_string());
    html.raw("</dl>\n");
}

fn device(scene: &Scene, words: &Words, html: &mut Html) {
    let StatusDocument { certificate, clock, confinement, agent, up_s, .. } = &scene.document;
    heading(html, "device", words.device);
    html.raw("<dl>\n");
    if let Some(certificate) = certificate {
        let left = fill(words.days_left, &[&certificate.days_left.to_string(), &moment(certificate.expires)]);
        row(html, words.certificate, &left);
    }
    let confirmed = if clock.confirmed { words.clock_confirmed } else { words.clock_not_confirmed };
    row(html, words.clock, &fill("{}, {}", &[&moment(clock.trusted), confirmed]));
    row(html, words.agent, &fill("{}, {}", &[agent, &fill(words.up, &[&words.span(*up_s)])]));
    row_english(html, words.process, &document::rights(confinement));
    html.raw("</dl>\n");
}
