//! The page as HTML: what it says, and that nothing from outside becomes markup.

use std::{path::Path, time::Duration};

use care_engine::trusted_time::{Now, timestamp};
use care_protocol::{Cut, Erased, Report};
use http::{HeaderMap, HeaderValue, header::ACCEPT_LANGUAGE};

use super::*;
use crate::{
    conditions::{Conditions, Kind},
    config::Config,
    media::{MediaStatus, RecordingStatus},
    status::MediaPart,
    timeline::{Change, Moment, Start, tests as timeline},
    upload::Flight,
};

fn now() -> Now {
    Now { trusted: Duration::from_secs(1_767_225_600), confirmed: true, ..Now::default() }
}

fn document() -> StatusDocument {
    let config = Config::parse(include_str!("../../../systemd/config.toml"), Path::new("config.toml")).unwrap();
    StatusDocument::new(&config)
}

fn scene(document: StatusDocument) -> Scene {
    Scene { document, timeline: Vec::new(), motion: Vec::new() }
}

fn words(language: &'static str) -> &'static Words {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT_LANGUAGE, HeaderValue::from_static(language));
    Words::of(&headers)
}

fn english(scene: &Scene) -> String {
    render(scene, words("en"))
}

fn report(plan: Option<&str>, mode: Mode) -> Report {
    Report {
        plan: plan.map(|plan| plan.parse().unwrap()),
        mode,
        cut: Cut { transfers: 1, micros: 412, bytes_after: 0 },
        erased: Erased { clips: 3, bytes: 2_000_000 },
        at: "2026-12-01T21:15:12Z".parse().unwrap(),
        ..timeline::report(41)
    }
}

fn switched(report: Report, stages: Stages) -> What {
    What::Switch(Box::new(Change { report, order: None, stages }))
}

fn start(previous: Option<End>, agent: &str) -> What {
    What::Started(Start { agent: agent.into(), boot: String::new(), previous })
}

/// The oldest first; the time of the first is not known.
fn entries(what: impl Iterator<Item = What>) -> Vec<Entry> {
    let at = |n: u64| (n > 0).then(|| Moment(timestamp(now().trusted + Duration::from_secs(n))));
    what.zip(0..).map(|(what, number)| Entry { number, epoch: 3, at: at(number), boot_s: 90, what }).collect()
}

/// All that a page can show at once.
fn busy(hostile: &str) -> Scene {
    let conditions = Conditions::default();
    for kind in Kind::ALL.iter().take(12) {
        conditions.raise_advising(*kind, format!("{hostile} {}", "a long sentence of what is wrong ".repeat(4)), "Do this.");
    }
    let mut document = document();
    document.conditions = conditions.list(now());
    document.model = hostile.into();
    document.order = Some(hostile.into());
    document.link.fault = Some(hostile.into());
    document.transfers.last_fault = Some(hostile.into());
    document.transfers.flights = vec![Flight { id: uuid::Uuid::from_u128(7), sent: 500_000, bytes: 2_000_000 }];
    let stream = StreamStatus { source: hostile.into(), fault: Some(hostile.into()), coding: Some(hostile.into()), ..Default::default() };
    let recording = Some(RecordingStatus { bytes: 7, fault: Some(hostile.into()), ..Default::default() });
    let status = MediaStatus { stream: stream.clone(), low: Some(stream), recording, ..Default::default() };
    document.media = Some(MediaPart { why_not: None, status });
    document.card_quota_bytes = Some(100_000_000);
    (document.lease_left_s, document.lease_s) = (Some(7_200), Some(172_800));
    let stages = Stages { cut: Some(840), written: Some(12_340), acknowledged: Some(12_400), reported: Some(14_002) };
    let changes =
        (0..=SWITCHES).map(|_| Report { detail: Some(hostile.into()), reason: hostile.into(), ..report(Some("free"), Mode::Free) });
    let became = [Became::Recorded(1), Became::Recorded(2), Became::NotAllowed, Became::Missed, Became::Erased, Became::Running];
    let event =
        |(n, became)| MotionEvent { number: n as u64, kind: ClipKind::Motion, ago: Duration::from_secs(70), became, pictured: n % 2 == 0 };
    let episode = Episode { name: hostile.into(), sentence: hostile.into(), lasted_s: Some(7), times: 3 };
    let others = [What::Condition(episode), What::ClockStep(hostile.into()), start(Some(End::Killed), hostile), What::Stopped {}];
    let what = changes.map(|report| switched(report, stages)).chain(others.into_iter().cycle().take(2 * OTHERS));
    Scene { document, timeline: entries(what), motion: became.into_iter().enumerate().map(event).collect() }
}

#[test]
fn text_from_outside_stays_text() {
    let hostile = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>&";
    for language in ["en", "fr"] {
        let page = render(&busy(hostile), words(language));
        assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&quot;&gt;&lt;img"), "{page}");
        assert!(!page.contains("<script>") && !page.contains("<img src=x"), "{page}");
    }
}

/// The budget of the whole page, uncompressed, however much is wrong.
#[test]
fn a_busy_page_with_style_and_script_is_small() {
    for language in ["en", "fr"] {
        let html = render(&busy("rtsp://192.168.1.20:554/stream1"), words(language)).len();
        let all = html + STYLE.len() + SCRIPT.len() + ICON.len();
        assert!(all < 40_000, "{html} bytes of HTML, {all} in all");
    }
}

#[test]
fn conditions_are_shown_worst_first_with_advice_in_english() {
    let mut document = document();
    assert!(english(&scene(document.clone())).contains("Nothing is wrong"));
    let conditions = Conditions::default();
    conditions.raise(Kind::LowStream, "no picture from the low stream");
    conditions.raise_advising(Kind::ClipsDropped, "2 clips were dropped", "Ask & wait.");
    document.conditions = conditions.list(now());
    let page = render(&scene(document), words("fr"));
    let at = |text: &str| page.find(text).unwrap_or_else(|| panic!("{text} is missing in {page}"));
    assert!(at("2 clips were dropped") < at("no picture from the low stream"), "{page}");
    assert!(at("<p class=\"advice\" lang=\"en\">Ask &amp; wait.") < at("<code>low_stream"), "{page}");
    assert!(page.contains("<time datetime=\"20") && page.contains("Anomalies <small>2</small>") && page.contains("Erreur"), "{page}");
}

#[test]
fn what_holds_uploads_is_said_at_the_top_with_what_to_do() {
    let mut document = document();
    let conditions = Conditions::default();
    conditions.raise_advising(Kind::UploadsFailing, "the store answers 503", "Wait for the store.");
    document.conditions = conditions.list(now());
    document.may_leave = Policy { clips: true, ..document.may_leave };
    let state = |document: &StatusDocument| SECTIONS[0].html(&scene(document.clone()), words("en"));
    assert!(state(&document).contains("No plan") && !state(&document).contains("503"), "nothing waits");
    document.spool.clips = 2;
    let held = state(&document);
    let at = |text: &str| held.find(text).unwrap_or_else(|| panic!("{text} is missing in {held}"));
    assert!(at("Uploads wait.") < at("the store answers 503") && at("What to do:") < at("Wait for the store."), "{held}");
    document.conditions.clear();
    document.plan = Some("premium".parse().unwrap());
    assert!(state(&document).contains("Clips waiting for upload: 2"), "{}", state(&document));
}

#[test]
fn a_switch_shows_its_stages_in_order_and_what_it_cut() {
    let stages = Stages { cut: Some(840), written: Some(12_340), acknowledged: Some(12_400), reported: None };
    let changes = [report(Some("premium"), Mode::Paid), report(Some("free"), Mode::Free)];
    let timeline = entries(changes.into_iter().map(|report| switched(report, stages)));
    let html = SECTIONS[3].html(&Scene { timeline, ..scene(document()) }, words("en"));
    assert!(html.contains("Premium → Free</b><br><small>cancelled, by a document · <time"), "{html}");
    let stages =
        "received<br><b>0</b></li><li>cut<br><b>840</b>\u{a0}µs</li><li>written<br><b>12\u{202f}340</b>\u{a0}µs</li><li>acknowledged";
    assert!(html.contains(stages) && !html.contains("reported"), "{html}");
    assert!(html.contains("transfers aborted: 1 in 412 µs · 0 bytes after the cut · erased: 3 clips, 2000\u{a0}kB"), "{html}");
    assert!(html.contains("Premium</b> <span class=\"badge paid\">paid</span>"), "{html}");
}

#[test]
fn restarts_and_conditions_stand_between_the_switches() {
    let episode = Episode { name: "stream".into(), sentence: "no picture".into(), lasted_s: Some(60), times: 3 };
    let what = [
        switched(report(Some("premium"), Mode::Paid), Stages::default()),
        What::Condition(episode),
        start(Some(End::PowerLost), "1.2.3"),
        switched(report(Some("free"), Mode::Free), Stages::default()),
    ];
    let mut timeline = entries(what.into_iter());
    timeline[2].at = None;
    let html =
        |timeline: &[Entry], language| SECTIONS[3].html(&Scene { timeline: timeline.to_vec(), ..scene(document()) }, words(language));
    let page = html(&timeline, "en");
    let at = |text: &str| page.find(text).unwrap_or_else(|| panic!("{text} is missing in {page}"));
    assert!(at("Premium → Free") < at("Agent 1.2.3 started after a power cut or a reset"), "{page}");
    assert!(at("time unknown, 90\u{a0}s after boot · Agent") < at("<code>stream</code> for 60\u{a0}s: 3 times <span"), "{page}");
    assert!(at("no picture") < at("Premium</b> <span class=\"badge paid\">"), "{page}");
    assert!(html(&timeline, "fr").contains("Agent 1.2.3 démarré après une coupure de courant"));
    assert!(html(&timeline[1..3], "en").contains("None on record."));
    let flood = entries(std::iter::once(timeline[0].what.clone()).chain((0..100).map(|_| What::Stopped {})));
    let page = html(&flood, "en");
    assert!(page.matches("Agent stopped").count() == OTHERS && page.contains("Premium"), "{page}");
}

#[test]
fn transfers_spool_and_card_are_bars_with_a_name() {
    let page = english(&busy("x"));
    assert!(page.contains("<progress aria-label=\"Clip 00000000\" max=\"2000000\" value=\"500000\">"), "{page}");
    for name in ["Waiting in memory", "SD card"] {
        assert!(page.contains(&format!("<meter aria-label=\"{name}\" max=")), "{name}");
    }
}

#[test]
fn the_lease_is_a_bar_of_what_is_left_where_its_beginning_is_known() {
    let plan = |left, whole, language| {
        let document = StatusDocument { lease_left_s: left, lease_s: whole, ..document() };
        SECTIONS[4].html(&scene(document), words(language))
    };
    let bar = "<div class=\"bar\"><dt>Lease</dt><dd>36\u{a0}h left <meter aria-label=\"Lease\" max=\"100\" low=\"10\" optimum=\"100\" value=\"75\">";
    let page = plan(Some(129_600), Some(172_800), "en");
    assert!(page.contains(bar), "{page}");
    let page = plan(Some(129_600), Some(172_800), "fr");
    assert!(page.contains("<dd>encore 36\u{a0}h <meter aria-label=\"Bail\""), "{page}");
    let ended = plan(Some(0), Some(172_800), "en");
    assert!(ended.contains("<dd>ended <meter") && ended.contains("value=\"0\""), "{ended}");
    for (left, whole, said) in [(None, None, "none"), (Some(129_600), None, "36\u{a0}h left"), (Some(0), Some(0), "ended")] {
        let page = plan(left, whole, "en");
        assert!(!page.contains("<meter") && page.contains(&format!("<dt>Lease</dt><dd>{said}</dd>")), "{page}");
    }
}

#[test]
fn without_a_camera_the_page_has_neither_live_view_nor_motion() {
    let mut document = document();
    document.media = None;
    let page = english(&scene(document));
    assert!(!page.contains("<video") && !page.contains("id=\"camera\"") && !page.contains("id=\"motion\""), "{page}");
    assert!(page.contains("id=\"switches\"") && page.contains("id=\"uploads\""), "{page}");
}

/// Landmarks, one heading for each section, no element twice with one id, and a reload where there is no script.
#[test]
fn the_page_is_whole_without_script_and_for_a_screen_reader() {
    let page = english(&busy("x"));
    for needed in
        ["<html lang=\"en\">", "<noscript><meta http-equiv=\"refresh\"", "<main id=\"main\"", "href=\"#main\"", "aria-live=\"polite\""]
    {
        assert!(page.contains(needed), "{needed}");
    }
    let mut ids: Vec<&str> = page.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    let all = ids.len();
    for section in page.split("<section id=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert_eq!(page.matches(&format!("<h2 id=\"{section}-h\"")).count(), 1, "{section}");
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all, "an id stands twice");
    for open in ["section", "div", "ol", "ul", "dl", "li", "p", "dt", "dd"] {
        let (opened, closed) = (
            page.matches(&format!("<{open}>")).count() + page.matches(&format!("<{open} ")).count(),
            page.matches(&format!("</{open}>")).count(),
        );
        assert_eq!(opened, closed, "{open}");
    }
}
