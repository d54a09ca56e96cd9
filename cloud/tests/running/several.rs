//! Several processes on one PostgreSQL: what they publish they share, and one that dies is replaced by the others.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use care_cloud::{
    fail_point::VARIABLE,
    storage::{
        data_dir::DataDir,
        db::{Connection, Db, DbError, Scope},
        pki::Pki,
        publisher::Publisher,
    },
    transport::client::{ClientError, Portal},
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{
    camera::{Camera, Clip, payload},
    cloud::{Cloud, until},
    external::{CREDENTIALS, ExternalBroker, ExternalS3, cluster::Cluster},
    postgres::Postgres,
};

/// Cameras, each of an account of its own.
const FLEET: usize = 24;

fn name(n: usize) -> String {
    format!("CAM-{n:02}")
}

/// What each camera was told, in order of arrival.
type Told = Arc<Mutex<BTreeMap<String, Vec<u64>>>>;

/// Takes documents as the agent does: reports each once, and knows one that it was told before by its place. When a broker ends the
/// connection, the next one is asked, which tells of the newest document.
async fn listen(camera: Camera, brokers: Vec<String>, told: Told) {
    for broker in brokers.iter().cycle() {
        let Ok(mut session) = camera.posing_as(&camera.id, broker).try_resume(&[&camera.topic("entitlement")]).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let mut reported = BTreeSet::new();
        while let Some(message) = session.message_or_end().await {
            let document = payload(std::str::from_utf8(&message.payload).unwrap());
            let seq = document["seq"].as_u64().unwrap();
            told.lock().unwrap().entry(camera.id.clone()).or_default().push(seq);
            if reported.insert(seq) {
                let report = camera.report(1, seq, document["plan"].as_str().unwrap(), "free").to_string();
                session.client.try_publish(camera.topic("report"), rumqttc::QoS::AtLeastOnce, true, report).unwrap();
            }
        }
    }
}

/// What two issuers and their cameras share beside the database.
enum Shared {
    Mosquitto(ExternalBroker),
    /// Three nodes, of which the last one dies with the issuer that it is for, and a store.
    NatsAndS3(Cluster, ExternalS3),
}

impl Shared {
    async fn nats_and_s3(dir: &Path, cameras: impl Iterator<Item = String>) -> Self {
        let data = DataDir::open(&dir.join("data")).unwrap();
        Pki::open(&data, &[]).unwrap();
        let nodes = Cluster::start(&dir.join("nats"), &data.path("pki"), cameras.map(|id| id.parse().unwrap())).await.unwrap();
        Self::NatsAndS3(nodes, ExternalS3::start(dir).await)
    }

    /// For the first issuer, and for the last one.
    fn flags(&self) -> [Vec<String>; 2] {
        match self {
            Self::Mosquitto(broker) => [broker.flags.clone(), broker.flags.clone()],
            Self::NatsAndS3(nodes, s3) => {
                let nodes = nodes.addresses();
                [nodes.first(), nodes.last()].map(|node| [vec!["--broker".into(), node.unwrap().clone()], s3.flags()].concat())
            }
        }
    }

    /// Where cameras connect: each to another one first.
    fn brokers(&self, issuer: &Cloud) -> Vec<String> {
        match self {
            Self::Mosquitto(_) => vec![issuer.endpoints.broker.clone()],
            Self::NatsAndS3(nodes, _) => nodes.addresses(),
        }
    }

    fn lose_what_dies_with_the_last_issuer(&mut self) {
        if let Self::NatsAndS3(nodes, _) = self {
            nodes.lose_node().unwrap();
        }
    }
}

async fn act(portal: &Portal, action: &Value) -> Result<Value, ClientError> {
    portal.post("/portal/act", action).await
}

/// Acts for every camera at once, for one half of them at each portal.
async fn everybody(portals: &[Portal; 2], action: impl Fn(usize) -> Value) -> Vec<Result<Value, ClientError>> {
    let asked = (0..FLEET).map(|n| {
        let (portal, action) = (&portals[n % 2], action(n));
        async move { act(portal, &action).await }
    });
    futures::future::join_all(asked).await
}

/// The keys and the authorities of one process for another one, on another machine.
fn copy_of_keys(from: &Path) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("data")).unwrap();
    for part in ["pki", "keys"] {
        let copied = std::process::Command::new("cp").arg("-a").arg(from.join(part)).arg(dir.path().join("data")).status();
        assert!(copied.unwrap().success());
    }
    dir
}

/// Two issuers: one dies at `point` while it takes a part in a cancel of the whole fleet.
async fn survives(server: &Postgres, point: &str, dir: tempfile::TempDir, mut shared: Shared) {
    let nats = matches!(shared, Shared::NatsAndS3(..));
    let database = server.fresh(&format!("{point}_{}", if nats { "nats" } else { "mosquitto" }));
    let of_each = shared.flags();
    let flags = |name: &'static str, of_it| {
        let of_it: &Vec<String> = of_it;
        ["--instance", name, "--database", database.as_str()].into_iter().chain(of_it.iter().map(String::as_str)).collect::<Vec<_>>()
    };
    let first = Cloud::start_with(dir, &flags("one", &of_each[0]), &CREDENTIALS).await;
    let mut cameras: Vec<Camera> = (0..FLEET).map(|n| Camera::added_to(&first, &name(n), &format!("acct-{n}"))).collect();
    let fail = format!("{point}:3");
    let environment = [&CREDENTIALS[..], &[(VARIABLE, fail.as_str())]].concat();
    let second = Cloud::start_with(copy_of_keys(&first.data()), &flags("two", &of_each[1]), &environment).await;
    cameras.iter_mut().skip(1).step_by(2).for_each(|camera| camera.endpoints = second.endpoints.clone());
    let portals = [first.portal(), second.portal()];

    let db = Db::connect(&database.parse().unwrap()).unwrap();
    let all_acked = "SELECT count(*) FROM outbox WHERE due = 0 AND acked_at IS NOT NULL";
    let acked = |count: usize| {
        let db = &db;
        move || async move { (db.read(|c| Ok(c.query_row(all_acked, [], |row| row.get::<_, usize>(0))?)).unwrap() == count).then_some(()) }
    };
    until("the first documents are at the broker", acked(FLEET)).await;
    let told = Told::default();
    let mut listening = JoinSet::new();
    for (n, camera) in cameras.iter().enumerate() {
        let mut brokers = shared.brokers(&first);
        let nearest = n % brokers.len();
        brokers.rotate_left(nearest);
        listening.spawn(listen(camera.clone(), brokers, told.clone()));
    }
    let heard = |seq: u64| {
        let told = &told;
        move || async move {
            let told = told.lock().unwrap();
            (told.len() == FLEET && told.values().all(|seqs| seqs.contains(&seq))).then_some(())
        }
    };
    until("every camera has its first document", heard(1)).await;
    let subscribe = |n: usize| json!({ "action": "subscribe", "camera": name(n), "plan": "premium" });
    for result in everybody(&portals, subscribe).await {
        result.unwrap();
    }
    until("every camera has its plan", heard(2)).await;
    until("the broker has said so", acked(2 * FLEET)).await;
    let all_reported = "SELECT count(*) FROM documents WHERE reported_at IS NOT NULL";
    let reported = |count: usize| {
        let db = &db;
        move || async move { (db.read(|c| Ok(c.query_row(all_reported, [], |row| row.get::<_, usize>(0))?)).unwrap() == count).then_some(()) }
    };
    until("every report is known", reported(2 * FLEET)).await;
    // One by each issuer, which Free does not keep.
    let old = || Clip::new(1000).started_ago(Duration::from_secs(20 * 86_400));
    let uploading: [(&Camera, Clip); 2] = [(&cameras[0], old()), (&cameras[1], old())];
    if let Shared::NatsAndS3(_, s3) = &shared {
        for (n, (camera, old)) in uploading.iter().enumerate() {
            let grant = camera.granted(old).await;
            assert_eq!(camera.put_to_external_store(&s3.ca, &grant, old.body.clone()).await, 200);
            let clips = format!("/portal/accounts/acct-{n}/cameras/{}/clips", name(n));
            let found = || async { (portals[0].get(&clips).await.ok()?.as_array()?.len() == 1).then_some(()) };
            until("the clip is in the index", found).await;
        }
    }

    let cancel = |n: usize| json!({ "action": "cancel", "camera": name(n) });
    let dies = async {
        drop(second.end().await);
        shared.lose_what_dies_with_the_last_issuer();
    };
    let (answers, ()) = futures::future::join(everybody(&portals, cancel), dies).await;
    for (n, answer) in answers.iter().enumerate() {
        if let Err(e) = answer {
            assert_eq!(n % 2, 1, "only the dead one's: {e}");
            // The person clicks again: it was done, or is done now.
            match act(&portals[0], &cancel(n)).await {
                Ok(_) => {}
                Err(ClientError::Refused(why)) if why.contains("no subscription") => {}
                Err(e) => panic!("{point}: {e}"),
            }
        }
    }
    until("every camera has its cancel", heard(3)).await;
    until("the broker has said so", acked(3 * FLEET)).await;
    until("every report is known", reported(3 * FLEET)).await;
    if let Shared::NatsAndS3(_, s3) = &shared {
        until("no old clip is left in the store", || async { uploading.iter().all(|(camera, old)| !s3.has(camera, old)).then_some(()) })
            .await;
    }

    for (camera, mut seqs) in told.lock().unwrap().clone() {
        // What was on its way when the process died may come again, as the same document. To a camera that comes anew, a node of
        // NATS may first tell the retained document of before.
        seqs.dedup();
        if nats {
            let mut newest = 0;
            seqs.retain(|&seq| {
                let is_newer = seq > newest;
                newest = newest.max(seq);
                is_newer
            });
        }
        assert_eq!(seqs, [1, 2, 3], "{point}: {camera} is told each once, in order");
    }
    let once = "SELECT count(*), count(DISTINCT device), min(seq), max(seq), count(reported_at), max(epoch) FROM documents";
    let figures: [usize; 6] =
        db.read(|c| Ok(c.query_row(once, [], |r| Ok([r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?, r.get(5)?]))?)).unwrap();
    assert_eq!(figures, [3 * FLEET, FLEET, 1, 3, 3 * FLEET, 1], "{point}: documents, cameras, places, answers");
    let doubled = "SELECT (SELECT count(*) FROM reports) - (SELECT count(*) FROM (SELECT DISTINCT device, body FROM reports) AS d)";
    let doubled: i64 = db.read(|c| Ok(c.query_row(doubled, [], |row| row.get(0))?)).unwrap();
    assert_eq!(doubled, 0, "{point}: both processes read each report, and it is kept once");
}

#[tokio::test]
async fn one_of_two_issuers_dies_in_a_cancel_of_the_fleet_and_every_camera_is_told_once_in_order() {
    let server = Postgres::start();
    // Before anything of a cancel is there; when documents are at the broker, and nobody knows.
    let on_mosquitto = |point: &'static str| {
        let server = &server;
        async move {
            let dir = tempfile::tempdir().unwrap();
            let broker = ExternalBroker::mosquitto(dir.path()).await;
            survives(server, point, dir, Shared::Mosquitto(broker)).await;
        }
    };
    futures::future::join(on_mosquitto("in_transaction"), on_mosquitto("marks_in_transaction")).await;
    shares_the_publishing(&server).await;
    writers_of_different_accounts_run_at_once(&server);
    has_the_schema_of_the_embedded_one(&server);
}

#[tokio::test]
async fn a_machine_with_one_of_two_issuers_and_a_node_of_nats_is_lost_in_a_cancel_of_the_fleet() {
    let (server, dir) = (Postgres::start(), tempfile::tempdir().unwrap());
    let shared = Shared::nats_and_s3(dir.path(), (0..FLEET).map(name)).await;
    survives(&server, "marks_in_transaction", dir, shared).await;
}

/// The documents that a publisher gets.
async fn taken(publisher: &Publisher, limit: usize) -> Vec<i64> {
    publisher.take(0, limit).await.unwrap().into_iter().map(|due| due.document).collect()
}

async fn shares_the_publishing(server: &Postgres) {
    let db = Db::connect(&server.fresh("publishing").parse().unwrap()).unwrap();
    let run = |sql: &str| db.read(|c| Ok(c.execute_batch(sql)?)).unwrap();
    run("INSERT INTO accounts (id, created_at) VALUES ('a', 1);
         INSERT INTO cameras (device, model, account, bound, bound_at, epoch, seq) SELECT d, 'm', 'a', 1, 1, 1, 2 FROM unnest(ARRAY['A', 'B', 'C']) d;
         INSERT INTO documents (id, device, epoch, seq, token, body) VALUES
             (1, 'A', 1, 1, '', ''), (2, 'B', 1, 1, '', ''), (3, 'A', 1, 2, '', ''), (4, 'C', 1, 1, '', '');
         INSERT INTO outbox (document, device, due, issued_at) SELECT id, device, 1, 1 FROM documents;");
    let (one, two) = (Publisher::open(&db).await.unwrap(), Publisher::open(&db).await.unwrap());
    assert_eq!(taken(&one, 1).await, [1]);
    assert_eq!(taken(&two, 10).await, [2, 4], "not the second of a camera whose first another one has");
    assert_eq!((taken(&one, 10).await, taken(&two, 10).await), (vec![3], vec![]), "each once");
    // One of them dies; what it had is the other's, in order.
    drop(one);
    let mut seen = Vec::new();
    while seen != [1, 3] {
        seen.extend(taken(&two, 10).await);
        assert!([1, 3].starts_with(&seen), "{seen:?}");
        tokio::task::yield_now().await;
    }
    // What is acknowledged is nobody's, and so it can be due again. An older one never comes after a newer one.
    run("UPDATE outbox SET due = 0, acked_at = 1 WHERE document = 3; UPDATE outbox SET due = 1 WHERE document = 3;");
    drop(two);
    let three = Publisher::open(&db).await.unwrap();
    let mut seen = BTreeSet::new();
    while seen.len() < 3 {
        seen.extend(taken(&three, 10).await);
        tokio::task::yield_now().await;
    }
    assert_eq!(seen, BTreeSet::from([2, 3, 4]));

    // Whoever joins has no session, and none is missing. One that had a session and has none any more says that the broker
    // has forgotten.
    run("UPDATE outbox SET due = 0; UPDATE cameras SET newest = (SELECT max(id) FROM documents d WHERE d.device = cameras.device)");
    let due = || db.read(|c| Ok(c.query_row("SELECT count(*) FROM outbox WHERE due = 1", [], |row| row.get::<_, usize>(0))?)).unwrap();
    let mut after = Vec::new();
    for client in ["one", "two", "two"] {
        run("UPDATE outbox SET due = 0");
        three.found_no_session(client).await.unwrap();
        after.push(due());
    }
    assert_eq!(after, [3, 0, 3]);
}

fn writers_of_different_accounts_run_at_once(server: &Postgres) {
    let url = server.fresh("writers").parse().unwrap();
    let [one, two, watching] = [(); 3].map(|()| Db::connect(&url).unwrap());
    let tables = "INSERT INTO accounts (id, created_at) VALUES ('a', 1), ('b', 1);
         INSERT INTO cameras (device, model, account, bound, bound_at, epoch, seq) VALUES
             ('A', 'm', 'a', 1, 1, 1, 0), ('A2', 'm', 'a', 1, 1, 1, 0), ('B', 'm', 'b', 1, 1, 1, 0);";
    watching.read(|c| Ok(c.execute_batch(tables)?)).unwrap();
    let written = |db: &Db, scope: &Scope, account: &str| {
        db.transact_in(scope, |tx| -> Result<usize, DbError> {
            Ok(tx.query_row(
                "UPDATE accounts SET trial_at = coalesce(trial_at, 0) + 1 WHERE id = ?1 RETURNING trial_at",
                [account],
                |r| r.get(0),
            )?)
        })
        .unwrap()
    };
    let waiting = "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
                       AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))";
    for (round, same) in [Scope::camera("A2"), Scope::account("a"), Scope::cameras(["B", "A"]), Scope::Everything].iter().enumerate() {
        std::thread::scope(|threads| {
            let (holds, held) = std::sync::mpsc::channel();
            let (release, released) = std::sync::mpsc::channel::<()>();
            let one = &one;
            threads.spawn(move || {
                one.transact_in(&Scope::camera("A"), |tx| -> Result<(), DbError> {
                    tx.execute("UPDATE accounts SET trial_at = coalesce(trial_at, 0) + 1 WHERE id = 'a'", [])?;
                    holds.send(()).unwrap();
                    released.recv().unwrap();
                    Ok(())
                })
                .unwrap();
            });
            held.recv().unwrap();
            // Of another account: at once, though the first one goes on.
            assert_eq!(written(&two, &Scope::camera("B"), "b"), round + 1);
            // Of the same one, and of all: only then, with what the first one wrote.
            let waits = threads.spawn(|| written(&two, same, "a"));
            while !watching.read(|c| Ok(c.query_row(waiting, [], |row| row.get::<_, bool>(0))?)).unwrap() {
                assert!(!waits.is_finished(), "{same:?} does not wait");
                std::thread::yield_now();
            }
            release.send(()).unwrap();
            assert_eq!(waits.join().unwrap(), 2 * (round + 1), "{same:?}");
        });
    }
}

/// Every table with its columns.
fn columns(connection: &Connection, sql: &str) -> BTreeSet<(String, String)> {
    connection.prepare(sql).unwrap().query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().collect::<Result<_, _>>().unwrap()
}

fn has_the_schema_of_the_embedded_one(server: &Postgres) {
    let dir = tempfile::tempdir().unwrap();
    let embedded = Db::open(&dir.path().join("care.db")).unwrap();
    let of_sqlite = "SELECT m.name, c.name FROM sqlite_schema m, pragma_table_info(m.name) c WHERE m.type IN ('table', 'view')
                       AND m.name NOT LIKE 'sqlite_%'";
    let of_postgres = "SELECT CAST(table_name AS TEXT), CAST(column_name AS TEXT) FROM information_schema.columns
                       WHERE table_schema = 'public' AND column_name NOT IN ('rowid', 'claimed_by')
                         AND table_name NOT IN ('publishers', 'schema_version')";
    let shared = Db::connect(&server.fresh("empty").parse().unwrap()).unwrap();
    let (ours, theirs) = (embedded.read(|c| Ok(columns(c, of_sqlite))).unwrap(), shared.read(|c| Ok(columns(c, of_postgres))).unwrap());
    assert!(ours.len() > 90, "{ours:?}");
    assert_eq!(ours, theirs);
}
