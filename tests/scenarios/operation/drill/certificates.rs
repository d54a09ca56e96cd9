//! Certificates, and the files that the agent reads again while it runs.

use std::fs;

use care_tests::{
    impostor::Impostor,
    pki::{Authority, Identity, Pki, plain_tls, server_params, validity},
    world::{DEVICE, World},
};

use super::{Drill, Group, lead_astray};

/// The broker's certificates that the camera must not trust.
fn untrusted(pki: &Pki) -> [(&'static str, Identity); 3] {
    let mut expired = server_params(&["127.0.0.1"]);
    validity(&mut expired, -3000, -1000);
    [
        ("The broker's certificate has expired", pki.ca.sign(expired)),
        ("The broker's certificate is for another name", pki.ca.sign(server_params(&["care.example"]))),
        ("The broker's certificate is of an unknown authority", Authority::root("Somebody").server()),
    ]
}

#[tokio::test]
async fn servers_certificates_and_reloads() {
    let mut drill = Drill::new(Group::Certificates);
    let mut world = World::new().await;
    world.start_premium().await;
    let agent = &world.agent;

    for (what, identity) in untrusted(&world.pki) {
        let meeting = drill.fault(agent, what);
        let impostor = Impostor::listen(([127, 0, 0, 1], 0).into(), plain_tls(&identity)).await;
        lead_astray(&world, meeting, impostor.addr).await;
    }

    // The broker knows the devices of another maker.
    let refused = drill.fault(agent, "The broker refuses the camera's certificate");
    let tls = Pki::new().mutual_tls(&world.pki.ca.server());
    let other = Impostor::listen(([127, 0, 0, 1], 0).into(), tls).await;
    lead_astray(&world, refused, other.addr).await;

    let config = fs::read_to_string(agent.config_path()).unwrap();
    for (what, bad) in [
        ("A reload finds a key of the configuration misspelt", config.replace("uplink_kbps", "uplnk_kbps")),
        ("A reload finds a number written as a word", config.replace("history_h = 12", "history_h = \"twelve\"")),
    ] {
        let meeting = drill.fault(agent, what);
        fs::write(agent.config_path(), bad).unwrap();
        agent.signal(libc::SIGHUP);
        meeting.named(agent).await;
        fs::write(agent.config_path(), &config).unwrap();
        agent.signal(libc::SIGHUP);
        meeting.over(agent).await;
    }

    let good = world.pki.ca.client(DEVICE);
    let Identity { chain, .. } = world.pki.ca.client(DEVICE);
    for (what, bad) in [
        ("The camera's certificate ends in 12 days", world.pki.ca.client_for(DEVICE, 13)),
        ("The camera's certificate has expired", world.pki.ca.client_for(DEVICE, 0)),
        ("The camera's key does not match its certificate", Identity { chain, key: good.key.clone() }),
        ("The camera's certificate is another camera's", world.pki.ca.client("ANOTHER")),
    ] {
        let meeting = drill.fault(agent, what);
        bad.write(agent.dir(), "device");
        meeting.named(agent).await;
        good.write(agent.dir(), "device");
        meeting.over(agent).await;
    }

    let (ca, pem) = (&agent.config.ca, world.pki.ca.pem());
    let odd = "-----BEGIN CERTIFICATE-----\nMIIBnonsense\n-----END CERTIFICATE-----\n";
    for (what, bad) in [("The CA file is damaged", odd.to_owned()), ("One certificate of the CA bundle is damaged", format!("{pem}{odd}"))]
    {
        let meeting = drill.fault(agent, what);
        fs::write(ca, bad).unwrap();
        meeting.named(agent).await;
        fs::write(ca, &pem).unwrap();
        meeting.over(agent).await;
    }
    drill.end();
}
