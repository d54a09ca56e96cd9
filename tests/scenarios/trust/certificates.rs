//! Scenarios 79 and 80: certificates, authorities and revocation lists are replaced while the agent runs.

use std::time::Duration;

use care_protocol::{Mode, Outcome};
use care_tests::{
    cloud::Cloud,
    pki::{Authority, Identity, server_params},
    wait::{PATIENCE, RECONNECT, until},
    world::{DEVICE, World},
};

/// The certificate that a request came with.
fn shown(world: &World, identity: &Identity) -> bool {
    let leaf = identity.certificates()[0].to_vec();
    world.cloud.lock().calls.iter().any(|call| call.certificate.as_ref() == Some(&leaf))
}

/// Switches the plan while `exchange` runs, and checks every document.
async fn exchange(world: &mut World, identity: &Identity, hangup: bool) {
    let connects = world.broker.connects_of(DEVICE);
    identity.write(world.agent.dir(), "device");
    if hangup {
        world.agent.signal(libc::SIGHUP);
    }
    let mut documents = Vec::new();
    let mut renewed = false;
    for _ in 0..40 {
        let draft = if documents.len() % 2 == 0 { world.free() } else { world.premium() };
        let document = world.issue(draft).await;
        world.issuer.judged(&document, Outcome::Applied).await;
        documents.push(document);
        renewed |= world.broker.connects_of(DEVICE) > connects;
        if renewed && documents.len() % 2 == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let log = world.broker.log().clone();
    assert!(renewed, "the camera did not connect again: {:?}", log.find(0, |line| line.contains(" as ")));
    world.issuer.in_force(documents.last().unwrap(), Mode::Paid).await;
    until("a request with the new certificate", PATIENCE, || shown(world, identity).then_some(())).await;
    world.agent.assert_running();
}

#[tokio::test]
async fn s79_a_renewed_certificate_is_reloaded_by_itself_or_on_sighup_without_losing_a_document() {
    let mut world = World::new().await;
    world.start_premium().await;
    let status = world.agent.status("the certificate", |status| status.certificate_days_left() > 300).await;
    assert!(!status.warnings().contains("certificate"), "{}", status.warnings());

    // A certificate that expires soon: the agent loads it and warns.
    let short = world.pki.ca.client_for(DEVICE, 13);
    exchange(&mut world, &short, false).await;
    let status = world.agent.status("the shorter certificate", |status| status.certificate_days_left() < 14).await;
    assert!(status.sentence("certificate_ends").contains("the device certificate ends"), "{}", status.warnings());
    world.agent.logged(0, "its end", |line| line.contains("WARN") && line.contains("certificate_ends")).await;

    let long = world.pki.ca.client(DEVICE);
    exchange(&mut world, &long, true).await;
    let status = world.agent.status("the longer certificate", |status| status.certificate_days_left() > 300).await;
    assert!(!status.warnings().contains("certificate"), "{}", status.warnings());
}

#[tokio::test]
async fn s79_a_certificate_of_another_device_is_not_loaded() {
    let mut world = World::new().await;
    world.start_premium().await;
    let connects = world.broker.connects_of(DEVICE);
    let seen = world.agent.log().len();
    world.pki.ca.client("ANOTHER").write(world.agent.dir(), "device");
    world.agent.logged(seen, "the other device's certificate", |line| line.contains("ERROR") && line.contains("common name")).await;
    let cancel = world.free();
    world.switch(cancel, Mode::Free).await;
    assert_eq!(world.broker.connects_of(DEVICE), connects, "the connection with the good certificate stays open");
}

#[tokio::test]
async fn s79_a_replaced_revocation_list_is_reloaded_and_enforced() {
    const SERIAL: u64 = 4711;
    let mut world = World::new().await;
    let mut params = server_params(&["127.0.0.1"]);
    params.serial_number = Some(SERIAL.into());
    let api = Cloud::start_with(Some(world.pki.mutual_tls(&world.pki.ca.sign(params)))).await;
    world.move_to(api).await;
    let list = world.agent.dir().join("ca.crl");
    std::fs::write(&list, world.pki.ca.crl(&[])).unwrap();
    world.agent.config.crl = Some(list.clone());
    world.start_premium().await;
    world.cloud.wait("the camera", |seen| (!seen.calls.is_empty()).then_some(())).await;

    let log = world.agent.log().len();
    std::fs::write(&list, world.pki.ca.crl(&[SERIAL])).unwrap();
    world.agent.logged(log, "the new list", |line| line.contains("read again")).await;
    let calls = world.cloud.lock().calls.len();
    // The camera may miss a document over MQTT; make it poll the API now if it has not done so.
    world.proxy.cut().await;
    world.agent.logged(log, "the revoked API", |line| line.contains("revoked")).await;
    assert_eq!(world.cloud.lock().calls.len(), calls, "the revoked API received a request");
}

#[tokio::test]
async fn s80_two_authorities_work_throughout_and_a_removed_one_is_no_longer_trusted() {
    let mut world = World::new().await;
    let new_ca = Authority::root("Care test CA of next year");
    // The API has moved to the new authority, the broker has not.
    let api = Cloud::start_with(Some(world.pki.mutual_tls(&new_ca.server()))).await;
    let old_api = world.move_to(api).await;
    let (old, new) = (world.pki.ca.pem(), new_ca.pem());
    std::fs::write(&world.agent.config.ca, format!("{old}{new}")).unwrap();
    world.start_premium().await;
    world.cloud.wait("the camera", |seen| (!seen.calls.is_empty()).then_some(())).await;

    // Without the old authority the broker connection ends; HTTPS goes on and brings the cancel.
    let (log, connects) = (world.agent.log().len(), world.broker.connects_of(DEVICE));
    std::fs::write(&world.agent.config.ca, &new).unwrap();
    world.agent.signal(libc::SIGHUP);
    world.agent.logged(log, "the broker's authority", |line| line.contains("authority") && line.to_lowercase().contains("tls")).await;
    let cancel = world.free();
    let cancel = world.issue(cancel).await;
    world.agent.status_within("Free over HTTPS", RECONNECT, |status| status.mode() == "free" && status.seq() == cancel.position.seq).await;
    assert_eq!(world.broker.connects_of(DEVICE), connects, "the broker received CONNECT");

    // With both authorities again, everything works, without SIGHUP.
    std::fs::write(&world.agent.config.ca, format!("{new}{old}")).unwrap();
    until("the camera at the broker", RECONNECT, || (world.broker.connects_of(DEVICE) > connects).then_some(())).await;
    let premium = world.premium();
    world.switch(premium, Mode::Paid).await;
    drop(old_api);
}
