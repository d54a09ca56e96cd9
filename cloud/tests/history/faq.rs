//! The FAQ's table as the owner sees it: exactly the clips that the page announces are erased from the store, and the others still
//! play.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use care_cloud::domain::{
    actions::{Action, PaidPlan, Quote},
    catalogue::Cycle::{Annual, Monthly},
};

use super::world::{HOUR, NOW, World};

/// Hours before the change: on both sides of every limit there is.
const AGES: [u64; 8] = [0, 1, 47, 49, 335, 337, 719, 721];

fn clip(hours: u64) -> String {
    format!("h{hours:03}")
}

#[tokio::test]
async fn what_is_shown_before_a_change_is_gone_after_it_and_the_rest_still_plays() {
    let changes = [(PaidPlan::Plus, false), (PaidPlan::Premium, false), (PaidPlan::Premium, true)];
    for cycle in [Monthly, Annual] {
        for (from, downgrade) in changes {
            for others in [false, true] {
                let row = format!("{} {from:?}, downgrade {downgrade}, others {others}", cycle.as_str());
                let world = World::new();
                world.add_to("ann", "CAM0", "KC420WS");
                for n in 1..=10 {
                    world.add_to("ann", &format!("CAM{n}"), "EC70");
                }
                world.subscribe_by("CAM0", from, cycle).await;
                if others {
                    // The eleventh has no seat in Premium, so it may have its own Plus beside it.
                    world.subscribe_by("CAM10", PaidPlan::Plus, cycle).await;
                }
                for hours in AGES {
                    world.stored("CAM0", &clip(hours), hours * HOUR);
                    world.stored("CAM10", &format!("other-{}", clip(hours)), hours * HOUR);
                }
                // What is too old already goes by time, and is no part of the change.
                world.cloud.sweep().await.unwrap();
                let before = world.listed("CAM0").await;
                let before_other = world.listed("CAM10").await;
                assert!(!before.contains("h721"), "{row}: nothing is older than 30 days");

                let shown = world.offer("CAM0", downgrade);
                let camera = "CAM0".parse().unwrap();
                let quote =
                    Some(Quote { order_id: shown.order_id.clone(), kind: shown.kind, amount_minor: shown.amount_minor, at: shown.at });
                world.act(if downgrade { Action::Downgrade { camera, quote } } else { Action::Cancel { camera, quote } }).await;

                let kept_h = if downgrade { 336 } else { 48 };
                let after = world.listed("CAM0").await;
                let kept: BTreeSet<_> = AGES.into_iter().filter(|hours| *hours <= kept_h).map(clip).collect();
                assert_eq!(after, kept, "{row}");
                let gone: Vec<_> = before.difference(&after).collect();
                let loss = shown.losses.iter().find(|loss| loss.device.as_str() == "CAM0");
                assert_eq!(loss.map_or(0, |loss| loss.clips), gone.len() as u64, "{row}: shown and gone");
                if let Some(loss) = loss {
                    assert_eq!((loss.kept, loss.bytes), (after.len() as u64, 9 * gone.len() as u64), "{row}");
                    let oldest = AGES.into_iter().filter(|hours| before.contains(&clip(*hours))).max().unwrap();
                    let newest = AGES.into_iter().filter(|hours| *hours > kept_h).min().unwrap();
                    let began = |hours: u64| (NOW - hours * HOUR) * 1000;
                    assert_eq!((loss.oldest_ms, loss.newest_ms), (began(oldest), began(newest)), "{row}");
                }
                for hours in AGES {
                    let (status, content) = world.watch("ann", "CAM0", &clip(hours)).await;
                    match hours <= kept_h {
                        true => assert_eq!((status, content), (StatusCode::OK, clip(hours)), "{row}: {hours} hours old"),
                        false => assert_eq!(status, StatusCode::NOT_FOUND, "{row}: {hours} hours old"),
                    }
                }
                assert_eq!(world.listed("CAM10").await, before_other, "{row}: the other camera loses nothing");
                assert!(shown.plans.iter().all(|change| change.device.as_str() != "CAM10"), "{row}");
            }
        }
    }
}
