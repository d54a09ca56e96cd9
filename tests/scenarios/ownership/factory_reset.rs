//! Scenario 87: a camera that was reset may have been sold. A document on its way to the previous owner's camera
//! must not bind it.

use std::time::Duration;

use care_protocol::{Cause, Mode, Outcome, Position, Reason};
use care_tests::{wait::holds, world::World};

#[tokio::test]
async fn s87_after_a_factory_reset_only_a_higher_epoch_binds() {
    let mut world = World::with_camera().await;
    world.start_premium().await;
    world.agent.stop().await;
    let output = world.agent.command(&["factory-reset"]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let mark = world.issuer.mark();
    world.agent.start();
    let told = world.issuer.report_since(mark, "the reset", |report| report.cause == Cause::FactoryReset).await;
    assert_eq!((told.outcome, told.mode, told.epoch, told.seq), (Outcome::Applied, Mode::Unbound, 0, 0));
    // The cloud does not yet know of the reset and keeps renewing the binding.
    for _ in 0..2 {
        let mark = world.issuer.mark();
        let renewal = world.premium().because(Reason::Renewed);
        let renewal = world.issue(renewal).await;
        let refused = world.issuer.report_since(mark, "the refusal", |report| renewal.judged(report, Outcome::Rejected)).await;
        assert_eq!((refused.reason.as_str(), refused.mode), ("factory_reset", Mode::Unbound));
    }
    let status = world.agent.status("the condition", |status| status.condition("factory_reset").is_some()).await;
    assert!(status.sentence("factory_reset").contains("epoch above 3"), "{:#}", status.0["conditions"]);
    assert!(status.condition("document_rejected").is_none(), "the publisher has done nothing wrong: {:#}", status.0["conditions"]);
    world.agent.motion().await.report_motion().await;
    holds("nothing is uploaded", Duration::from_secs(4), || {
        let cloud = world.cloud.lock();
        cloud.asked.last().map(|asked| format!("{asked:?}"))
    })
    .await;

    // The report was delivered, so a restart does not repeat it, and the camera still rejects a renewal.
    world.agent.stop().await;
    let mark = world.issuer.mark();
    world.agent.start();
    let refused = world.issuer.report_since(mark, "the refusal", |report| report.outcome == Outcome::Rejected).await;
    assert_eq!(refused.reason, "factory_reset");
    assert!(world.issuer.reports(mark).iter().all(|report| report.cause != Cause::FactoryReset));

    // A new binding, which may be for the same account.
    world.position = Position { epoch: 4, seq: 0 };
    let bound = world.premium().because(Reason::Bound);
    world.switch(bound, Mode::Paid).await;
    world.agent.status("no message about the reset", |status| status.condition("factory_reset").is_none()).await;
    world.upload_in_flight(16_000).await;
}
