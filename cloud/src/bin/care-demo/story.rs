//! The story of the demo: Premium, a clip in flight, cancel, Free, subscribe again, downgrade to Plus, and an
//! app-store cancel that takes effect while the broker is down; then the same with clips that leave while they are
//! filmed, cancelled in mid-event. Each step waits for its effect and fails when its deadline passes.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::{
    describe,
    play::{CAMERA, Play},
};

/// At most this much of a cut upload may still reach the store: one TLS record in transit.
const ONE_RECORD: u64 = 16 * 1024 + 256;

/// The steps shown so far, and the figures of the cancel.
pub struct Story<'a> {
    play: &'a Play,
    steps: Vec<Value>,
    cut_micros: Option<u64>,
    report_ms: Option<f64>,
    bytes_after: Option<u64>,
}

impl<'a> Story<'a> {
    /// No step yet.
    pub fn new(play: &'a Play) -> Self {
        Self { play, steps: Vec::new(), cut_micros: None, report_ms: None, bytes_after: None }
    }

    /// Runs the steps; stops at the first one that fails.
    pub async fn tell(&mut self) -> Result<()> {
        self.step("premium", "a camera is bound, and its owner subscribes to Premium", |s| Box::pin(s.premium("portal"))).await?;
        self.step("upload", "the camera uploads a clip of what moved", |s| Box::pin(s.upload())).await?;
        self.step("in_flight", "another clip is on its way", |s| Box::pin(s.in_flight())).await?;
        self.step("cancel", "the owner cancels on the portal", |s| Box::pin(s.cancel())).await?;
        self.step("free", "nothing that Free forbids leaves any more", |s| Box::pin(s.free())).await?;
        self.step("subscribe_again", "the owner subscribes again", |s| Box::pin(s.premium("portal"))).await?;
        self.step("in_flight_again", "a clip is on its way again", |s| Box::pin(s.in_flight())).await?;
        self.step("downgrade", "the owner downgrades to Plus", |s| Box::pin(s.downgrade())).await?;
        self.step("app_store", "Premium is bought again, in the app this time", |s| Box::pin(s.premium("app_store"))).await?;
        self.step("app_store_cancel", "it is cancelled in the app store, to end in 5 s", |s| Box::pin(s.app_store_cancel())).await?;
        self.step("ends_without_broker", "the broker is stopped; the plan ends all the same", |s| Box::pin(s.ends_alone())).await?;
        self.step("broker_back", "the broker is back", |s| Box::pin(s.broker_back())).await?;
        self.step("premium_again", "the owner subscribes once more", |s| Box::pin(s.premium("portal"))).await?;
        self.step("while_recording", "a clip leaves while it is being filmed", |s| Box::pin(s.while_recording())).await?;
        self.step("cancel_in_mid_event", "the owner cancels in the middle of it", |s| Box::pin(s.cancel_in_mid_event())).await
    }

    /// The figures as one JSON line.
    pub async fn figures(&self) -> Value {
        let status = self.play.agent_status().await.unwrap_or_default();
        let uploaded = self.play.state().await.ok().map(|state| stored_clips(&state).count());
        json!({
            "cut_micros": self.cut_micros, "report_ms": self.report_ms, "bytes_after": self.bytes_after,
            "clips_uploaded": uploaded, "clips_erased": status["spool"]["erased_clips"], "steps": self.steps,
        })
    }

    async fn step<F>(&mut self, name: &str, words: &str, work: F) -> Result<()>
    where
        F: for<'s> FnOnce(&'s mut Self) -> std::pin::Pin<Box<dyn Future<Output = Result<Value>> + 's>>,
    {
        println!("• {words}");
        let began = Instant::now();
        let done = work(self).await;
        let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut entry = json!({ "step": name, "held": done.is_ok(), "ms": ms });
        match &done {
            Ok(Value::Object(figures)) => {
                for (figure, value) in figures {
                    entry[figure] = value.clone();
                }
            }
            Ok(_) => {}
            Err(e) => entry["why"] = format!("{e:#}").into(),
        }
        self.steps.push(entry);
        done.map(drop).with_context(|| format!("step {name}"))
    }

    async fn premium(&mut self, channel: &str) -> Result<Value> {
        let action = json!({ "action": "subscribe", "camera": CAMERA, "plan": "premium", "channel": channel });
        let seq = self.act(action).await?;
        let switch = self.reported(seq, Duration::from_secs(15)).await?;
        says(&switch["report"], "plan", "premium")?;
        // Paid media may wait a moment until the cloud has confirmed it.
        self.until("the camera is in mode paid", Duration::from_secs(10), |_, agent| agent["mode"] == "paid").await?;
        Ok(json!({ "seq": seq }))
    }

    async fn upload(&mut self) -> Result<Value> {
        let state = self.until("a clip is stored", Duration::from_secs(30), |state, _| stored_clips(state).next().is_some()).await?;
        let clip = stored_clips(&state).next().context("a stored clip is listed")?;
        println!("    stored {} bytes", clip["received"]);
        Ok(json!({ "bytes": clip["received"] }))
    }

    /// Waits until an upload has neither just begun nor nearly finished.
    async fn in_flight(&mut self) -> Result<Value> {
        let state = self.until("a clip is in flight", Duration::from_secs(25), |state, _| in_flight(state).is_some()).await?;
        let transfer = in_flight(&state).context("it is listed")?;
        println!("    {} of {} bytes so far", transfer["received"], transfer["expected"]);
        Ok(json!({ "received": transfer["received"], "expected": transfer["expected"] }))
    }

    async fn cancel(&mut self) -> Result<Value> {
        let (switch, cut) = self.cut(json!({ "action": "cancel", "camera": CAMERA })).await?;
        let report = &switch["report"];
        says(report, "plan", "free")?;
        says(report, "mode", "free")?;
        ensure!(report["erased"]["clips"].as_u64() >= Some(1), "the clip in flight was not erased: {report}");
        ensure!(cut.iter().all(|transfer| transfer["stored"] == false), "a clip that Free forbids was kept");
        self.cut_micros = report["cut"]["micros"].as_u64();
        self.report_ms = Some(report_ms(&switch)?);
        self.bytes_after = Some(bytes(&cut, "after_reported"));
        ensure!(self.bytes_after <= Some(ONE_RECORD), "the store received {:?} bytes after the report", self.bytes_after);
        let order = &switch["order"];
        let text = |field: &str| order[field].as_str().unwrap_or("?").to_owned();
        println!("    order {}: a {} of {} {} in minor units", text("id"), text("kind"), order["amount_minor"], text("currency"));
        Ok(json!({
            "cut_micros": self.cut_micros, "report_ms": self.report_ms, "transfers": report["cut"]["transfers"],
            "bytes_after": self.bytes_after, "bytes_after_published": bytes(&cut, "after_published"),
        }))
    }

    /// Watches for a while in which, before, a clip was begun and sent.
    async fn free(&mut self) -> Result<Value> {
        let before = self.play.state().await?;
        let until = Instant::now() + Duration::from_secs(4);
        while Instant::now() < until {
            let state = self.play.state().await?;
            ensure!(transfers(&state).len() == transfers(&before).len(), "an upload began that Free forbids");
            ensure!(stored_clips(&state).count() == stored_clips(&before).count(), "a clip was stored that Free forbids");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let agent = self.play.agent_status().await?;
        says(&agent, "mode", "free")?;
        Ok(json!({}))
    }

    async fn downgrade(&mut self) -> Result<Value> {
        let (switch, cut) = self.cut(json!({ "action": "downgrade", "camera": CAMERA })).await?;
        let report = &switch["report"];
        says(report, "plan", "plus")?;
        says(report, "mode", "paid")?;
        // Plus allows this clip: it is cut with the rest, judged again, and uploaded under a new grant.
        let clip = cut.first().context("a transfer was cut")?["clip"].clone();
        self.until("the clip that was cut arrives under Plus", Duration::from_secs(20), |state, _| {
            transfers(state).iter().any(|transfer| transfer["clip"] == clip && transfer["stored"] == true)
        })
        .await?;
        println!("    the clip that was cut was allowed under Plus and has arrived");
        Ok(json!({ "cut_micros": report["cut"]["micros"], "report_ms": report_ms(&switch)?, "requeued": clip }))
    }

    async fn app_store_cancel(&mut self) -> Result<Value> {
        let seq = self.act(json!({ "action": "store_cancel", "camera": CAMERA, "ends_in_s": 5 })).await?;
        let switch = self.reported(seq, Duration::from_secs(4)).await?;
        says(&switch["report"], "plan", "premium")?;
        says(&switch["report"], "mode", "paid")?;
        self.play.broker(false).await?;
        println!("    Premium until then; the broker is stopped now");
        Ok(json!({ "seq": seq }))
    }

    async fn ends_alone(&mut self) -> Result<Value> {
        let state = self.play.state().await?;
        ensure!(state["broker_running"] == false, "the broker still runs");
        let at = state["switches"][0]["next"][1].as_u64().context("the document carries no next")?;
        let what = "the camera has performed next by itself";
        let performed = |_: &Value, agent: &Value| agent["mode"] == "free" && agent["last_switch"]["cause"] == "next";
        self.until(what, Duration::from_secs(10), performed).await?;
        let agent = self.play.agent_status().await?;
        // Read after the switch was seen: its time is not earlier.
        let afterwards = self.play.state().await?;
        ensure!(agent["link"]["up"] == false, "the camera is connected to a broker that does not run");
        let late_ms = afterwards["now_us"].as_i64().unwrap_or(0) / 1000 - i64::try_from(at).unwrap_or(0) * 1000;
        ensure!((0..2000).contains(&late_ms), "it switched {late_ms} ms after the period's end");
        println!("    {}, {late_ms} ms after the period's end", describe(&agent["last_switch"]));
        Ok(json!({ "late_ms": late_ms }))
    }

    async fn broker_back(&mut self) -> Result<Value> {
        self.play.broker(true).await?;
        let state = self
            // Its attempts are spread over up to two minutes, so that not all cameras reconnect at once.
            .until("the camera has reported Free", Duration::from_secs(150), |state, _| {
                let camera = &state["cameras"][0];
                camera["status"] == "online" && camera["report"]["mode"] == "free" && camera["report"]["seq"] == camera["seq"]
            })
            .await?;
        println!("    {}", describe(&state["cameras"][0]["report"]));
        Ok(json!({}))
    }

    /// Waits until a clip that is still being filmed is in the store in part.
    async fn while_recording(&mut self) -> Result<Value> {
        self.play.upload_while_recording()?;
        let what = "two parts of a clip are stored, and it is being filmed";
        let state = self
            .until(what, Duration::from_secs(30), |state, agent| agent["media"]["clip_running"] == true && in_parts(state).is_some())
            .await?;
        let clip = in_parts(&state).context("it is listed")?.to_owned();
        let sizes: Vec<u64> =
            stored_clips(&state).filter(|part| part["clip"] == clip).filter_map(|part| part["received"].as_u64()).collect();
        println!("    {} bytes of it in {} parts so far", sizes.iter().sum::<u64>(), sizes.len());
        Ok(json!({ "clip": clip, "parts": sizes.len() }))
    }

    async fn cancel_in_mid_event(&mut self) -> Result<Value> {
        let seq = self.act(json!({ "action": "cancel", "camera": CAMERA })).await?;
        let switch = self.reported(seq, Duration::from_secs(5)).await?;
        let report = &switch["report"];
        says(report, "mode", "free")?;
        ensure!(report["erased"]["clips"].as_u64() >= Some(1), "what was filmed and had not left was not erased: {report}");
        println!("    {}; reported after {:.1} ms", describe(report), report_ms(&switch)?);
        // No further part comes, although the event goes on.
        self.free().await?;
        let state = self.play.state().await?;
        let after: Vec<_> = revoked(&state, seq).cloned().collect();
        ensure!(after.iter().all(|part| part["stored"] == false), "a part that Free forbids was kept");
        let bytes_after = bytes(&after, "after_reported");
        ensure!(bytes_after <= ONE_RECORD, "the store received {bytes_after} bytes after the report");
        Ok(json!({ "cut_micros": report["cut"]["micros"], "report_ms": report_ms(&switch)?, "bytes_after": bytes_after }))
    }

    /// Makes a change that must cut the uploads in flight. Returns the switch with its report, and the uploads it cut,
    /// as the store counted them.
    async fn cut(&mut self, action: Value) -> Result<(Value, Vec<Value>)> {
        let seq = self.act(action).await?;
        let switch = self.reported(seq, Duration::from_secs(5)).await?;
        let report = &switch["report"];
        ensure!(report["cut"]["transfers"].as_u64() >= Some(1), "nothing was cut: {report}");
        let state = self
            .until("the store sees the end of what was cut", Duration::from_secs(5), |state, _| {
                let mut revoked = revoked(state, seq).peekable();
                revoked.peek().is_some() && revoked.all(|transfer| !transfer["ended_us"].is_null())
            })
            .await?;
        println!("    {}; reported after {:.1} ms", describe(report), report_ms(&switch)?);
        let cut = revoked(&state, seq).cloned().collect();
        Ok((switch, cut))
    }

    /// Acts, and returns the sequence of the document that follows.
    async fn act(&self, action: Value) -> Result<u64> {
        let done = self.play.act(action).await?;
        done["documents"][0]["seq"].as_u64().with_context(|| format!("no document followed: {done}"))
    }

    /// The switch of this sequence, once the camera has reported it as applied.
    async fn reported(&self, seq: u64, within: Duration) -> Result<Value> {
        let of = |state: &Value| {
            let switches = state["switches"].as_array()?;
            switches.iter().find(|switch| switch["seq"] == seq && switch["report"]["outcome"] == "applied").cloned()
        };
        let state = self.until(&format!("the report of document {seq}"), within, |state, _| of(state).is_some()).await?;
        of(&state).context("it is listed")
    }

    /// Waits until `holds` for the portal's state and the agent's status; the state it held for.
    async fn until(&self, what: &str, within: Duration, holds: impl Fn(&Value, &Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + within;
        loop {
            let state = self.play.state().await?;
            // The agent's page may not be up yet.
            let agent = self.play.agent_status().await.unwrap_or_default();
            if holds(&state, &agent) {
                return Ok(state);
            }
            ensure!(
                Instant::now() < deadline,
                "not within {within:?}: {what}; the agent says {}, the cloud {}",
                brief(&agent),
                state["cameras"]
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn brief(agent: &Value) -> Value {
    json!({ "mode": agent["mode"], "link": agent["link"], "transfers": agent["transfers"], "spool": agent["spool"], "warnings": agent["warnings"] })
}

fn says(object: &Value, field: &str, expected: &str) -> Result<()> {
    ensure!(object[field] == expected, "{field} is {}, not {expected}: {object}", object[field]);
    Ok(())
}

fn transfers(state: &Value) -> &[Value] {
    state["transfers"].as_array().map_or(&[], Vec::as_slice)
}

/// Clips that the store has taken; snapshots are not counted.
fn stored_clips(state: &Value) -> impl Iterator<Item = &Value> {
    transfers(state).iter().filter(|transfer| transfer["stored"] == true && transfer["kind"] == "motion")
}

/// A clip of which two parts are stored.
fn in_parts(state: &Value) -> Option<&str> {
    let clips = stored_clips(state).filter_map(|part| part["clip"].as_str());
    let mut seen = std::collections::HashSet::new();
    clips.into_iter().find(|clip| !seen.insert(*clip))
}

fn in_flight(state: &Value) -> Option<&Value> {
    transfers(state).iter().find(|transfer| {
        let (received, expected) = (transfer["received"].as_u64().unwrap_or(0), transfer["expected"].as_u64().unwrap_or(0));
        let open = transfer["kind"] == "motion" && transfer["ended_us"].is_null();
        open && received > expected / 20 && received < expected * 7 / 10
    })
}

/// The uploads that the document of this sequence ended.
fn revoked(state: &Value, seq: u64) -> impl Iterator<Item = &Value> {
    let before = move |transfer: &&Value| transfer["granted_under"]["seq"].as_u64().is_some_and(|granted| granted + 1 == seq);
    transfers(state).iter().filter(|transfer| transfer["revoked"] == true).filter(before)
}

fn bytes(transfers: &[Value], which: &str) -> u64 {
    transfers.iter().filter_map(|transfer| transfer[which].as_u64()).sum()
}

fn report_ms(switch: &Value) -> Result<f64> {
    let at = |field: &str| switch[field].as_f64().with_context(|| format!("the switch has no {field}"));
    Ok(((at("reported_us")? - at("published_us")?) / 10.0).round() / 100.0)
}
