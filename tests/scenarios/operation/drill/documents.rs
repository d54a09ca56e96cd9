//! What the cloud publishes is wrong, late, or missing.

use care_protocol::Mode;
use care_tests::{
    pki::{KID, signer},
    world::World,
};

use super::{Drill, Group};

/// A valid document, which ends what a bad one began.
async fn mend(world: &mut World) {
    let good = world.premium();
    world.switch(good, Mode::Paid).await;
}

#[tokio::test]
async fn documents() {
    let mut drill = Drill::new(Group::Documents);
    let mut world = World::new().await;
    world.start_premium().await;

    let mut bad = Vec::new();
    let draft = world.free();
    bad.push(("A document has a forged signature", draft.signed(&signer(KID)).token));
    let mut draft = world.free();
    draft.0.aud = "8006E5A1F0C3".parse().unwrap();
    bad.push(("A document is for another camera", world.sign(&draft).token));
    let mut draft = world.free();
    draft.0.iss = "prod".into();
    bad.push(("A document is of another issuer", world.sign(&draft).token));
    bad.push(("A document is no JWS", "{\"plan\":\"premium\"}".into()));
    bad.push(("A document is larger than any may be", "x".repeat(20_000)));
    for (what, token) in bad {
        let meeting = drill.fault(&world.agent, what);
        world.issuer.publish_entitlement(&token).await;
        meeting.named(&world.agent).await;
        mend(&mut world).await;
        meeting.over(&world.agent).await;
    }

    let other = drill.fault(&world.agent, "A document changes the account and not the epoch");
    let draft = world.premium().of("acct-other");
    world.issuer.publish_entitlement(&world.sign(&draft).token).await;
    other.named(&world.agent).await;
    mend(&mut world).await;
    other.over(&world.agent).await;

    let old = drill.fault(&world.agent, "A keyset is older than the camera's");
    world.issuer.publish_keyset(&world.pki.keyset(6).sign(&world.pki.root)).await;
    old.named(&world.agent).await;
    world.hand_out_keyset(&world.pki.keyset(8).sign(&world.pki.root)).await;
    old.over(&world.agent).await;

    let conflict = drill.fault(&world.agent, "Two documents carry the same sequence");
    let mut twin = world.free();
    twin.0.seq = (world.position.seq - 1).try_into().unwrap();
    world.issuer.publish_entitlement(&world.sign(&twin).token).await;
    conflict.named(&world.agent).await;
    mend(&mut world).await;
    conflict.over(&world.agent).await;

    let ended = drill.fault(&world.agent, "The lease has ended");
    let brief = world.premium().leased(2);
    world.issue(brief).await;
    ended.named(&world.agent).await;
    mend(&mut world).await;
    ended.over(&world.agent).await;

    // The new key is in no keyset that the camera can get.
    let key = signer("2027-01");
    let missing = drill.fault(&world.agent, "The keyset with the document's key is missing");
    let signed = world.premium().signed(&key);
    world.hand_out(&signed).await;
    missing.named(&world.agent).await;
    world.hand_out_keyset(&world.pki.keyset(9).with(&key).sign(&world.pki.root)).await;
    world.hand_out(&signed).await;
    world.issuer.in_force(&signed, Mode::Paid).await;
    missing.over(&world.agent).await;

    let reset = drill.fault(&world.agent, "The camera was reset to factory settings");
    world.agent.stop().await;
    let output = world.agent.command(&["factory-reset"]).await;
    assert!(output.status.success(), "{output:?}");
    world.agent.start();
    reset.named(&world.agent).await;
    world.position.epoch += 1;
    world.position.seq = 0;
    mend(&mut world).await;
    reset.over(&world.agent).await;
    drill.end();
}
