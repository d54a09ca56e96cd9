use std::sync::{
    OnceLock,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use http::{Method, header::DATE};
use ring::digest;

use super::{
    sink::{grant, grant_at, json, status},
    *,
};

#[test]
fn a_fast_link_is_felt_for_within_one_clip() {
    let sink = Sink::generous(true);
    let bench = Bench::new(&sink);
    bench.open(PAID);
    bench.record(1_500_000);
    until("stored", || bench.stored() == 1);
    assert!(bench.status().pace > 300_000, "{} bytes/s", bench.status().pace);
}

#[test]
fn a_clip_is_asked_for_and_put_over_tls_exactly_as_granted() {
    let sink = Sink::generous(true);
    let bench = Bench::new(&sink);
    bench.open(PAID);
    let content = bench.record(300_000);
    until("stored", || bench.stored() == 1);

    let asked = sink.asked();
    assert_eq!(asked.len(), 1);
    let hex: String = digest::digest(&digest::SHA256, &content).as_ref().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!((asked[0].bytes, &asked[0].sha256, asked[0].duration_ms), (300_000, &hex, 3));
    assert_eq!((asked[0].epoch, asked[0].seq, asked[0].kind), (3, 41, ClipKind::Motion));

    let put = sink.puts().remove(0);
    assert!(put.whole && put.body == content);
    assert_eq!(put.path, format!("/clips/{}?signature=s%2Fs", asked[0].clip));
    assert_eq!(put.headers["content-length"], "300000");
    assert_eq!(put.headers["host"], sink.authority());
    assert_eq!(
        (&put.headers["x-amz-meta-kind"], &put.headers["content-type"]),
        (&"motion".parse().unwrap(), &"video/mp4".parse().unwrap())
    );
    assert!(!put.headers.contains_key("transfer-encoding"));
    until("told", || bench.events().iter().any(|event| matches!(event, Event::Stored { bytes: 300_000, .. })));
    assert!(bench.events().contains(&Event::Date));
    assert_eq!(bench.status().spool, Erased::default());
}

#[test]
fn a_date_that_is_no_http_date_keeps_no_clip_back() {
    for date in
        ["", "yesterday", "1767225600000", "2026-01-01T00:00:00Z", "Thu, 01 Jan 2026 00:00:00 +0100", "Thu, 41 Jan 2026 00:00:00 GMT"]
    {
        let sink = Sink::start(true, move |call| {
            let mut answer = if *call.method == Method::PUT { status(204) } else { grant(call) };
            answer.headers_mut().insert(DATE, date.parse().unwrap());
            Some(answer)
        });
        let bench = Bench::new(&sink);
        bench.open(PAID);
        bench.record(1000);
        until(date, || bench.stored() == 1);
        assert!(!bench.events().contains(&Event::Date), "{date:?} is no time");
    }
}

#[test]
fn a_clip_that_is_there_already_is_not_sent() {
    let sink = Sink::start(false, |_| Some(json(200, &serde_json::json!({"stored": true}))));
    let bench = Bench::new(&sink);
    bench.open(PAID);
    bench.record(1000);
    until("stored", || bench.stored() == 1);
    assert!(sink.puts().is_empty());
}

#[test]
fn a_refused_clip_is_reported_and_asked_for_again_only_when_told() {
    for refusal in [402, 403] {
        let open = Arc::new(AtomicBool::new(false));
        let is_open = open.clone();
        let sink = Sink::start(false, move |call| {
            Some(match (call.method, is_open.load(Ordering::SeqCst)) {
                (&Method::PUT, _) => status(204),
                (_, true) => grant(call),
                (_, false) => status(refusal),
            })
        });
        let bench = Bench::new(&sink);
        bench.open(PAID);
        bench.record(1000);
        until("refused", || matches!(bench.events()[..], [Event::Refused { status, .. }] if status == refusal));
        bench.record(1000);
        until("the next refused", || bench.events().len() == 2);
        assert_eq!(sink.asked().len(), 2, "each asked once");
        open.store(true, Ordering::SeqCst);
        bench.gate.retry_refused();
        until("stored", || bench.stored() == 2);
        assert_eq!(sink.asked()[0].clip, sink.asked()[2].clip, "a clip keeps its name");
    }
}

#[test]
fn a_refused_clip_waits_though_its_refusal_cuts_at_once() {
    let sink = Sink::start(false, |_| Some(status(402)));
    let gate: Arc<OnceLock<Arc<Gate>>> = Arc::default();
    let (engine, refusals) = (gate.clone(), Arc::new(AtomicU32::new(0)));
    let told = refusals.clone();
    let spool = SpoolLimits { memory_bytes: 8_000_000, flash_bytes: 0, flash_bytes_per_day: 0 };
    let peers = Peers { api: sink.origin(), store: None };
    let spool_dir = PathBuf::from("/nowhere");
    let settings = Settings {
        device: "8006E5A1F0C2".parse().unwrap(),
        spool,
        spool_dir,
        upload: Upload { uplink_kbps: 0, while_recording: false },
        peers,
        uploader: None,
        conditions: crate::conditions::Conditions::default(),
    };
    // As the engine does: what exceeds Free is held, and the clip is one that does not.
    let uploads = start(settings, Clock::start(None), move |event| {
        if matches!(event, Event::Refused { .. }) && told.fetch_add(1, Ordering::SeqCst) == 0 {
            let gate = engine.get().unwrap();
            gate.cut(None);
            gate.open(Admission { record: PAID, keep: PAID, leave: PAID, position: AT });
        }
    });
    let bench = Bench { gate: uploads.as_ref().unwrap().gate(), uploads: uploads.ok(), events: Arc::default() };
    gate.set(bench.gate.clone()).unwrap();
    bench.open(PAID);
    bench.record(1000);
    until("refused", || refusals.load(Ordering::SeqCst) == 1);
    bench.record(1000);
    until("the next refused", || refusals.load(Ordering::SeqCst) == 2);
    let asked: Vec<_> = sink.asked().into_iter().map(|asked| asked.clip).collect();
    assert!(asked.len() == 2 && asked[0] != asked[1], "{asked:?}: each asked once");
}

#[test]
fn an_expired_url_gets_a_fresh_grant_at_once() {
    let puts = AtomicU32::new(0);
    let sink = Sink::start(true, move |call| {
        let first_put = *call.method == Method::PUT && puts.fetch_add(1, Ordering::SeqCst) == 0;
        Some(match *call.method {
            Method::PUT => status(if first_put { 403 } else { 200 }),
            _ => grant(call),
        })
    });
    let bench = Bench::new(&sink);
    bench.open(PAID);
    bench.record(1000);
    until("stored", || bench.stored() == 1);
    let asked = sink.asked();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[0].clip, asked[1].clip);
    assert_eq!(bench.status().last_fault, None);
}

#[test]
fn a_grant_that_has_ended_already_is_not_used() {
    let sink = Sink::start(false, |call| {
        let here = format!("http://localhost:{}", call.sink.port());
        Some(if *call.method == Method::PUT { status(200) } else { grant_at(call, &here, -5) })
    });
    let bench = Bench::new(&sink);
    bench.open(PAID);
    bench.record(1000);
    until("given up for now", || bench.status().last_fault.is_some_and(|fault| fault.contains("grant ended")));
    assert!(sink.asked().len() >= 2, "a fresh one was asked for first");
    assert!(sink.puts().is_empty());
}

#[test]
fn faults_of_the_cloud_are_retried_under_the_same_name() {
    let retried = |fault: u16| {
        let calls = AtomicU32::new(0);
        let sink = Sink::start(false, move |call| {
            Some(match (call.method, calls.fetch_add(1, Ordering::SeqCst)) {
                (_, 0) | (&Method::PUT, 2) => status(fault),
                (&Method::PUT, _) => status(200),
                _ => grant(call),
            })
        });
        let bench = Bench::new(&sink);
        bench.open(PAID);
        bench.record(1000);
        until("stored", || bench.stored() == 1);
        let asked = sink.asked();
        assert_eq!(asked.len(), 3, "{fault}: once for the fault on the grant, once for the one on the PUT");
        assert!(asked.iter().all(|other| other.clip == asked[0].clip));
        assert!(!bench.events().iter().any(|event| matches!(event, Event::Refused { .. })), "{fault} is no entitlement matter");
    };
    thread::scope(|scope| {
        for fault in [401, 413, 429, 500, 503] {
            scope.spawn(move || retried(fault));
        }
    });
}

fn refused_grant(sink: &Sink, store: Option<Store>, rule: &str) {
    let bench = Bench::with(Peers { api: sink.origin(), store }, 0);
    bench.open(PAID);
    bench.record(1000);
    let told = |bench: &Bench| bench.events().iter().any(|event| matches!(event, Event::GrantFault { why } if why.contains(rule)));
    until(rule, || told(&bench));
    assert_eq!(bench.stored(), 0);
}

#[test]
fn a_grant_to_a_foreign_host_gets_no_connection() {
    let elsewhere = Sink::generous(true);
    let base = format!("https://{}", elsewhere.authority());
    let sink = Sink::start(true, move |call| Some(grant_at(call, &base, 60)));
    refused_grant(&sink, None, "neither");
    assert_eq!(elsewhere.connections(), 0);
}

#[test]
fn a_grant_to_plain_http_gets_no_connection() {
    let elsewhere = Sink::generous(false);
    let base = format!("http://{}", elsewhere.authority());
    let sink = Sink::start(true, move |call| Some(grant_at(call, &base, 60)));
    refused_grant(&sink, Some(Store { hosts: BTreeSet::from([("localhost".into(), elsewhere.address.port())]), ..sink.store() }), "http");
    assert_eq!(elsewhere.connections(), 0);
}

#[test]
fn a_redirect_is_not_followed_from_the_store_nor_from_the_cloud() {
    let elsewhere = Sink::generous(false);
    let location = format!("http://{}/k", elsewhere.authority());
    let redirect = move || {
        let mut reply = status(307);
        reply.headers_mut().insert("location", location.parse().unwrap());
        reply
    };
    let from_store = redirect.clone();
    let sink = Sink::start(true, move |call| Some(if *call.method == Method::PUT { from_store() } else { grant(call) }));
    refused_grant(&sink, None, "redirect");
    let sink = Sink::start(true, move |_| Some(redirect()));
    refused_grant(&sink, None, "redirect");
    assert_eq!(elsewhere.connections(), 0);
}

#[test]
fn a_listed_store_is_reached_with_its_own_trust() {
    let store = Sink::generous(true);
    let base = format!("https://{}", store.authority());
    let sink = Sink::start(true, move |call| Some(grant_at(call, &base, 60)));
    let bench = Bench::with(Peers { api: sink.origin(), store: Some(store.store()) }, 0);
    bench.open(PAID);
    let content = bench.record(50_000);
    until("stored", || bench.stored() == 1);
    assert!(store.puts()[0].whole && store.puts()[0].body == content);

    // With the cloud's certificate for the store's authority the store is not believed.
    let bench = Bench::with(Peers { api: sink.origin(), store: Some(Store { tls: sink.store().tls, ..store.store() }) }, 0);
    bench.open(PAID);
    bench.record(1000);
    until("tls fault", || bench.status().last_fault.is_some_and(|fault| fault.contains("TLS: ")));
    assert_eq!(store.puts().len(), 1);
}

#[test]
fn an_answer_that_is_no_grant_is_a_fault() {
    for body in ["", "{}", "null", "{\"method\":\"PUT\"}", "[]"] {
        let sink = Sink::start(false, move |_| {
            let mut reply = status(201);
            *reply.body_mut() = http_body_util::Full::new(Bytes::from_static(body.as_bytes()));
            Some(reply)
        });
        refused_grant(&sink, None, "cannot be read");
    }
    let sink = Sink::start(false, |_| Some(json(200, &serde_json::json!({"stored": false}))));
    refused_grant(&sink, None, "stored");
}

#[test]
fn the_engine_gets_answers_and_the_stage_of_what_fails() {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let wait = Duration::from_secs(5);
    let sink = Sink::start(true, |call| match call.path {
        "/v1/keyset" => Some(json(200, &serde_json::json!("a keyset"))),
        "/none" => Some(status(404)),
        _ => None,
    });
    let get = |origin: &Origin, path: &str, limit, wait| runtime.block_on(crate::http::get(origin, path, limit, wait));
    let stage = |origin: &Origin, wait| get(origin, "/hang", 100, wait).unwrap_err().stage().unwrap().to_string();

    let answer = get(&sink.origin(), "/v1/keyset", 100, wait).unwrap();
    assert_eq!((answer.status, &answer.body[..]), (200, &b"\"a keyset\""[..]));
    assert!(answer.date.unwrap() > Duration::from_secs(1_700_000_000));
    assert_eq!(get(&sink.origin(), "/none", 100, wait).unwrap().status, 404);
    assert!(matches!(get(&sink.origin(), "/v1/keyset", 5, wait), Err(crate::http::Fault::TooLarge { limit: 5, .. })));
    assert_eq!(stage(&sink.origin(), Duration::from_millis(100)), "http");

    let mut origin = sink.origin();
    origin.endpoint.host = "no-such-host.invalid".into();
    assert_eq!(stage(&origin, wait), "dns");
    let mut origin = sink.origin();
    origin.endpoint.port = 1;
    assert_eq!(stage(&origin, wait), "tcp");
    let stranger = Sink::generous(true);
    let origin = Origin { tls: stranger.origin().tls, ..sink.origin() };
    assert_eq!(stage(&origin, wait), "tls");
}
