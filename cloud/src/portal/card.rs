//! A camera as its owner sees it, in words: the same on the page of all cameras and on its own.

use jiff::tz::TimeZone;

use super::{
    language::Language,
    page::Notice,
    translations::{fill, judgement, name_of},
};
use crate::{
    domain::{catalogue::Tier, issuer::Phase},
    portal::account_view::{AccountView, CameraView, ClipView, SubscriptionView},
    transport::store::TransferView,
};

/// The camera.
#[derive(Debug)]
pub struct Card {
    /// Its id.
    pub device: String,
    /// Its model.
    pub model: String,
    /// Its plan, as a code.
    pub plan_code: &'static str,
    /// And in words.
    pub plan: String,
    /// Whether it is there, as a code.
    pub status_code: String,
    /// And in words.
    pub status: String,
    /// The state of its upload.
    pub mode: String,
    /// How long its clips are kept.
    pub history: String,
    /// The stored clips.
    pub clips: String,
    /// A notice for its owner.
    pub notices: Vec<Notice>,
    /// The upload in progress.
    pub upload: Option<Upload>,
    /// Its last report.
    pub report: String,
    /// The order it is paid with.
    pub order: Option<String>,
    /// Its newest clip.
    pub picture: Option<Picture>,
    /// It has a paid plan, or waits for one.
    pub paid: bool,
    /// That is ended here.
    pub cancellable: bool,
    /// The text for screen readers when it changes.
    pub said: String,
}

/// An upload under way.
#[derive(Debug)]
pub struct Upload {
    /// What.
    pub text: String,
    /// How much of it.
    pub amount: String,
    /// And in percent.
    pub percent: u64,
}

/// The newest clip, shown by its first frame; a snapshot has no other.
#[derive(Debug)]
pub struct Picture {
    /// The clip.
    pub clip: String,
    /// Its kind.
    pub alt: String,
    /// A JPEG, and no video.
    pub still: bool,
}

impl Card {
    /// The card of one camera of an account.
    pub fn new(
        language: Language,
        zone: &TimeZone,
        account: &AccountView,
        camera: &CameraView,
        transfers: &[TransferView],
        now_us: i64,
    ) -> Self {
        let t = language.translations();
        let plan_code = camera.plan.as_str();
        let plan = name_of(&t.plan, plan_code);
        let status = name_of(&t.status, &camera.reported.status);
        let running =
            transfers.iter().rev().find(|transfer| transfer.device == camera.device && transfer.ended_us.is_none() && !transfer.revoked);
        let subscription = camera.subscription.as_ref();
        Self {
            device: camera.device.to_string(),
            model: camera.model.clone(),
            said: fill(&t.said, &[("model", &camera.model), ("plan", &plan), ("status", &status)]),
            plan,
            plan_code,
            status,
            status_code: camera.reported.status.clone(),
            mode: name_of(&t.mode, camera.mode.map_or("unknown", |mode| mode.as_str())),
            history: language.history(camera.history_h),
            clips: match camera.clips {
                0 => t.none.clone(),
                n => {
                    let clips = language.count(n, &t.clips_one, &t.clips_other);
                    fill(&t.clips_and_size, &[("clips", &clips), ("size", &language.size(camera.clip_bytes))])
                }
            },
            notices: notices(language, zone, account, camera),
            upload: running.map(|transfer| Upload {
                text: t.uploading.clone(),
                amount: fill(
                    &t.of_size,
                    &[("received", &language.size(transfer.received)), ("expected", &language.size(transfer.expected))],
                ),
                percent: (transfer.received * 100).checked_div(transfer.expected).unwrap_or(0),
            }),
            report: report(language, camera, now_us),
            order: subscription.map(|subscription| subscription.order_id.clone()),
            picture: camera.latest.as_ref().map(|clip| picture(language, zone, clip)),
            paid: subscription.is_some(),
            cancellable: subscription.is_some_and(|subscription| subscription.changes_here),
        }
    }
}

fn picture(language: Language, zone: &TimeZone, clip: &ClipView) -> Picture {
    let t = language.translations();
    let at = language.moment(clip.started_ms / 1000, zone);
    let what = if clip.kind == "snapshot" { &t.picture_of } else { &t.clip_of };
    Picture { clip: clip.clip.clone(), alt: fill(what, &[("at", &at)]), still: clip.still }
}

fn report(language: Language, camera: &CameraView, now_us: i64) -> String {
    let t = language.translations();
    let Some((report, at)) = camera.reported.report.as_ref().zip(camera.reported.reported_us) else { return t.no_report.clone() };
    fill(
        &t.last_report,
        &[
            ("ago", &language.ago((now_us - at).max(0))),
            ("judgement", &judgement(t, report)),
            ("position", &format!("{}.{}", report.epoch, report.seq)),
            ("agent", &report.agent),
        ],
    )
}

/// The notice for the owner of a camera.
fn notices(language: Language, zone: &TimeZone, account: &AccountView, camera: &CameraView) -> Vec<Notice> {
    let t = language.translations();
    let mut notices = Vec::new();
    if camera.reset {
        notices.push(Notice::warning("reset", t.was_reset.as_str()));
    }
    if camera.reported.silent {
        notices.push(Notice::warning("silent", t.silent.as_str()));
    }
    if camera.seatless {
        notices.push(Notice::new("seatless", fill(&t.seatless, &[("seats", &language.number(account.seats as u64))])));
    }
    if let Some(subscription) = &camera.subscription {
        notices.extend(about(language, zone, subscription));
    }
    let said_already = camera.subscription.as_ref().is_some_and(|subscription| subscription.trial || subscription.phase == Phase::Grace);
    if let Some(next) = camera.next.as_ref().filter(|_| !said_already) {
        let values = [("plan", name_of(&t.plan, &next.plan)), ("at", language.moment(next.at, zone))];
        notices.push(Notice::new("next", fill(&t.changes_to, &values.each_ref().map(|(name, value)| (*name, value.as_str())))));
    }
    notices
}

/// The notice for the owner of a subscription.
pub fn about(language: Language, zone: &TimeZone, subscription: &SubscriptionView) -> Option<Notice> {
    let t = language.translations();
    let due = language.moment(subscription.due_at, zone);
    let plan = name_of(&t.plan, subscription.plan.as_str());
    let values = [("plan", plan.as_str()), ("at", due.as_str())];
    match subscription.phase {
        _ if subscription.trial => Some(Notice::new("trial", fill(&t.trial_runs, &values))),
        Phase::Grace => Some(Notice::warning("grace", fill(&t.payment_grace, &values)).leading_to("/orders", t.orders.as_str())),
        Phase::Hold => Some(Notice::warning("hold", fill(&t.payment_hold, &values)).leading_to("/orders", t.orders.as_str())),
        _ if !subscription.changes_here && subscription.plan != Tier::Free => {
            let store = name_of(&t.channel, subscription.channel.as_str());
            let until = language.moment(subscription.period_end, zone);
            Some(Notice::new("in-app", fill(&t.bought_in, &[("store", store.as_str()), ("at", until.as_str())])))
        }
        _ => None,
    }
}
