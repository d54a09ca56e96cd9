use care_protocol::{ClipKind, Policy};
use uuid::Uuid;

use super::{AT, FREE, PAID, admission, failed, now, record, spool, store, take, trouble};
use crate::upload::spool::{failures::*, troubles::Troubles, *};

/// Three clips of ten bytes, at 100, 110 and 120 s.
fn three(spool: &mut Spool) -> [Uuid; 3] {
    [100, 110, 120].map(|at| record(spool, ClipKind::Motion, at, 5, 10).unwrap())
}

fn fail(spool: &mut Spool, id: Uuid, end: Outcome, at_s: u64) {
    spool.settle(id, spool.generation, end, now(at_s));
}

/// What was taken at this moment, one after the other, each stored at once unless `poison` says otherwise.
fn drain(spool: &mut Spool, at_s: u64, poison: &[Uuid], end: &Outcome) -> Vec<Uuid> {
    let mut taken = Vec::new();
    while let Some(id) = take(spool, at_s) {
        taken.push(id);
        let end = if poison.contains(&id) { end.clone() } else { Outcome::Stored };
        fail(spool, id, end, at_s);
    }
    taken
}

#[test]
fn s91_a_clip_that_fails_for_ever_waits_longer_each_time_and_the_others_go_oldest_first() {
    for blame in [Blame::Server, Blame::Clip, Blame::Grant] {
        let mut spool = spool(PAID);
        let [poison, second, third] = three(&mut spool);
        assert_eq!(drain(&mut spool, 200, &[poison], &failed(blame)), [poison, second, third], "{blame:?}");
        // It is tried again though nothing else moves, and each pause is longer than the one before.
        let mut at = 200;
        let mut pauses = Vec::new();
        while at < 200 + 7200 {
            at += 1;
            if drain(&mut spool, at, &[poison], &failed(blame)) == [poison] {
                pauses.push(at);
            }
        }
        let gaps: Vec<u64> = pauses.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!((10..30).contains(&gaps.len()), "{gaps:?}");
        let growing = &gaps[1..8];
        assert!(growing.windows(2).all(|pair| pair[0] <= pair[1]) && growing[6] > 20, "{blame:?}: {gaps:?}");
        assert!(gaps.iter().all(|gap| *gap <= 901), "{gaps:?}");
        // A new clip is not held up by it.
        let fresh = record(&mut spool, ClipKind::Motion, at + 1, 5, 10).unwrap();
        assert!(drain(&mut spool, at + 7, &[poison], &failed(blame)).contains(&fresh));
        let troubles = spool.troubles(now(at + 7));
        match blame {
            Blame::Grant => assert!(troubles.bad_grant.is_some()),
            _ => assert!(troubles.clip_failing.is_some_and(|words| words.sentence.contains(&poison.to_string()))),
        }
        // Given up with its age.
        assert_eq!(spool.expire(now(101 + 720 * 3600)).clips, 1);
        let troubles = spool.troubles(now(101 + 720 * 3600));
        assert_eq!(troubles, Troubles::default());
    }
}

#[test]
fn a_clip_that_has_failed_lets_those_pass_that_have_not_even_when_it_is_due() {
    let mut spool = spool(PAID);
    let [poison, second, _] = three(&mut spool);
    assert_eq!(take(&mut spool, 200), Some(poison));
    fail(&mut spool, poison, failed(Blame::Server), 200);
    assert_eq!(take(&mut spool, 10_000), Some(second), "an attempt may take as long as a stall does");
}

#[test]
fn when_several_clips_fare_the_same_all_wait_and_one_success_ends_it() {
    let mut spool = spool(PAID);
    let ids: Vec<Uuid> = (0..30).map(|at| record(&mut spool, ClipKind::Motion, 100 + 10 * at, 5, 10).unwrap()).collect();
    for id in &ids[..3] {
        assert_eq!(spool.schedule.pause_until, Duration::ZERO);
        assert_eq!(take(&mut spool, 500), Some(*id));
        fail(&mut spool, *id, failed(Blame::Server), 500);
    }
    assert!(spool.schedule.pause_until > Duration::from_secs(500), "three in a row are the server's");
    assert!(spool.troubles(now(500)).failing.is_some_and(|words| words.sentence.contains("clips.example:443 answered 500")));
    assert_eq!(spool.troubles(now(500)).clip_failing, None, "no clip is singled out while none passes");
    // The pauses grow, so that a store that is down is asked less and less.
    let (mut tries, mut at) = (3, 500);
    while at < 500 + 3600 {
        at += 1;
        if let Some(id) = take(&mut spool, at) {
            tries += 1;
            fail(&mut spool, id, failed(Blame::Server), at);
        }
    }
    assert!((10..90).contains(&tries), "{tries} tries in an hour");
    let id = std::iter::from_fn(|| (at += 1, take(&mut spool, at)).1.map(Some).or(Some(None))).flatten().next().unwrap();
    store(&mut spool, id, at);
    assert_eq!(spool.troubles(now(at)), Troubles::default());
    assert_eq!(drain(&mut spool, at + 2, &[], &failed(Blame::Server)).len(), 29, "all are tried again soon");
}

#[test]
fn an_api_that_is_away_stops_all_at_once_and_blames_no_clip() {
    let mut spool = spool(PAID);
    let [first, second, third] = three(&mut spool);
    assert_eq!(take(&mut spool, 200), Some(first));
    fail(&mut spool, first, failed(Blame::Away), 200);
    assert!(spool.troubles(now(200)).failing.is_some());
    spool.schedule.pause_until = Duration::from_secs(210);
    spool.schedule.fresh_from = Duration::from_secs(210);
    assert_eq!(take(&mut spool, 209), None);
    assert_eq!(drain(&mut spool, 211, &[], &failed(Blame::Away)), [first, second, third]);
    assert_eq!(spool.troubles(now(211)), Troubles::default());
}

#[test]
fn a_server_that_asks_for_patience_is_given_it() {
    let patient = |seconds| Outcome::Failed(Trouble { retry_after: Some(Duration::from_secs(seconds)), ..trouble(Blame::Server) });
    let mut spool = spool(PAID);
    let [first, second, third] = three(&mut spool);
    assert_eq!(take(&mut spool, 200), Some(first));
    fail(&mut spool, first, patient(60), 200);
    assert_eq!(take(&mut spool, 200), Some(second), "what one clip is told need not hold for another");
    fail(&mut spool, second, patient(60), 200);
    assert_eq!(take(&mut spool, 259), None, "the second is told the same: all wait");
    assert_eq!(take(&mut spool, 267), Some(third));
    store(&mut spool, third, 267);
    // Each for an hour at most, whatever was asked.
    assert_eq!(drain(&mut spool, 300, &[], &patient(0)).len(), 2);
    let fourth = record(&mut spool, ClipKind::Motion, 300, 5, 10).unwrap();
    assert_eq!(take(&mut spool, 310), Some(fourth));
    fail(&mut spool, fourth, patient(1_000_000), 310);
    assert_eq!(take(&mut spool, 3909), None);
    assert_eq!(take(&mut spool, 310 + 3961), Some(fourth));
}

#[test]
fn the_clips_own_pause_does_not_outlive_a_cut_and_its_trouble_goes_with_it() {
    let mut spool = spool(PAID);
    let [first, ..] = three(&mut spool);
    assert_eq!(take(&mut spool, 200), Some(first));
    fail(&mut spool, first, failed(Blame::Clip), 200);
    assert!(spool.troubles(now(200)).clip_failing.is_some());
    spool.recall(Generation(1));
    spool.admit(admission(PAID), now(200));
    assert_eq!(take(&mut spool, 200).map(|id| id != first), Some(true), "those that have not failed still go first");
    spool.recall(Generation(2));
    spool.keep(Policy::CLOSED, AT, now(201));
    assert_eq!(spool.troubles(now(201)), Troubles::default());
}

/// A clip that was overtaken is judged by what left before it and by what left after it, not by the newest alone.
#[test]
fn the_cooldown_holds_on_both_sides_of_a_clip_that_was_overtaken() {
    let mut spool = spool(PAID);
    let far = record(&mut spool, ClipKind::Motion, 1000, 5, 10).unwrap();
    let near = record(&mut spool, ClipKind::Motion, 2000, 5, 10).unwrap();
    let overtaking = record(&mut spool, ClipKind::Motion, 2100, 5, 10).unwrap();
    assert_eq!(drain(&mut spool, 2200, &[far, near], &failed(Blame::Clip)), [far, near, overtaking]);
    spool.recall(Generation(1));
    // Free: 300 s between clips. The far one is kept, the near one would be too close to what has left.
    assert_eq!(spool.keep(FREE, AT, now(2200)).clips, 1);
    spool.admit(admission(FREE), now(2200));
    assert_eq!(drain(&mut spool, 2200, &[], &failed(Blame::Clip)), [far]);
}

/// The moment after "again at", if the condition names one.
fn again(spool: &mut Spool, at_s: u64) -> Option<jiff::Timestamp> {
    let sentence = spool.troubles(now(at_s)).clip_failing?.sentence;
    let (_, after) = sentence.split_once("again at ")?;
    Some(after[..20].parse().unwrap())
}

#[test]
fn no_condition_names_an_attempt_in_the_past() {
    let mut spool = spool(PAID);
    let [poison, ..] = three(&mut spool);
    drain(&mut spool, 200, &[poison], &failed(Blame::Clip));
    for at in 200..260 {
        let time = jiff::Timestamp::from_second(i64::try_from(now(at).trusted.as_secs()).unwrap()).unwrap();
        let troubles = spool.troubles(now(at));
        let sentence = troubles.clip_failing.unwrap().sentence;
        match again(&mut spool, at) {
            Some(named) => assert!(named > time && troubles.again.is_some_and(|again| again > now(at).boot), "{at}: {sentence}"),
            None => assert!(sentence.contains("again in its turn") && troubles.again.is_none(), "{at}: {sentence}"),
        }
    }
    assert_eq!(again(&mut spool, 259), None, "its pause is over");
}

#[test]
fn while_nothing_can_be_uploaded_no_clip_is_singled_out() {
    let alone = |spool: &mut Spool, at_s: u64| {
        let Troubles { failing, clip_failing, .. } = spool.troubles(now(at_s));
        assert!(failing.is_none() || clip_failing.is_none(), "{failing:?} {clip_failing:?}");
        (failing.is_some(), clip_failing.is_some())
    };
    for outage in [Blame::Server, Blame::Away] {
        let mut spool = spool(PAID);
        let [poison, ..] = three(&mut spool);
        drain(&mut spool, 200, &[poison], &failed(Blame::Clip));
        assert_eq!(alone(&mut spool, 200), (false, true));
        // Then the store fails for all.
        let later = [300, 310, 320].map(|at| record(&mut spool, ClipKind::Motion, at, 5, 10).unwrap());
        for _ in later {
            let id = take(&mut spool, 330).unwrap();
            assert!(later.contains(&id), "the one that has failed comes last");
            fail(&mut spool, id, failed(outage), 330);
            spool.schedule.clear_pauses();
        }
        assert_eq!(alone(&mut spool, 330), (true, false), "{outage:?}");
        // Until a clip is stored.
        let end = if outage == Blame::Away { take(&mut spool, 2000).unwrap() } else { later[0] };
        spool.ledger.clips.iter_mut().find(|clip| clip.id == end).unwrap().state = State::InFlight(spool.generation);
        store(&mut spool, end, 2000);
        assert_eq!(alone(&mut spool, 2000), (false, true), "{outage:?}");
    }
}

#[test]
fn an_outage_is_over_when_a_refusal_of_one_clip_shows_that_all_are_reached() {
    let mut spool = spool(PAID);
    let poison = record(&mut spool, ClipKind::Motion, 100, 5, 10).unwrap();
    assert_eq!(take(&mut spool, 200), Some(poison));
    fail(&mut spool, poison, failed(Blame::Away), 200);
    assert!(spool.troubles(now(200)).failing.is_some());
    assert_eq!(take(&mut spool, 600), Some(poison));
    fail(&mut spool, poison, failed(Blame::Clip), 600);
    let troubles = spool.troubles(now(600));
    assert!(troubles.failing.is_none() && troubles.clip_failing.is_some(), "{troubles:?}");
    // The same where the store was said to fail, and the clip turns out to.
    let mut spool = super::spool(PAID);
    let poison = record(&mut spool, ClipKind::Motion, 100, 5, 10).unwrap();
    for (at, blame) in [(200, Blame::Server), (600, Blame::Server), (1000, Blame::Clip)] {
        assert_eq!(take(&mut spool, at), Some(poison));
        fail(&mut spool, poison, failed(blame), at);
        let troubles = spool.troubles(now(at));
        assert_eq!((troubles.failing.is_some(), troubles.clip_failing.is_some()), (at == 600, at == 1000), "{at}: {troubles:?}");
    }
}
