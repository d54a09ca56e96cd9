//! Several processes on one PostgreSQL: what they publish they share, and one that dies is replaced by the others.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex},
};

use care_cloud::{
    fail_point::VARIABLE,
    storage::{
        db::{Connection, Db, DbError, Scope},
        publisher::Publisher,
    },
    transport::client::{ClientError, Portal},
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{
    camera::{Camera, payload},
    cloud::{Cloud, until},
    external::ExternalBroker,
    postgres::Postgres,
};

/// Cameras, each of an account of its own.
const FLEET: usize = 24;

/// What each camera was told, in order of arrival.
type Told = Arc<Mutex<BTreeMap<String, Vec<u64>>>>;

/// Takes documents as the agent does: reports each once, and knows one that it was told before by its place.
async fn listen(camera: Camera, told: Told) {
    let mut session = camera.mqtt(&[&camera.topic("entitlement")]).await;
    while let Some(message) = session.message_or_end().await {
        let document = payload(std::str::from_utf8(&message.payload).unwrap());
        let seq = document["seq"].as_u64().unwrap();
        let known = told.lock().unwrap().get(&camera.id).is_some_and(|told: &Vec<u64>| told.contains(&seq));
        told.lock().unwrap().entry(camera.id.clone()).or_default().push(seq);
        if !known {
            let report = camera.report(1, seq, document["plan"].as_str().unwrap(), "free").to_string();
            session.client.try_publish(camera.topic("report"), rumqttc::QoS::AtLeastOnce, true, report).unwrap();
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
async fn survives(server: &Postgres, point: &str) {
    let database = server.fresh(point);
    let dir = tempfile::tempdir().unwrap();
    let broker = ExternalBroker::mosquitto(dir.path()).await;
    let flags = |name: &'static str| {
        let mut flags = vec!["--instance", name, "--database", database.as_str()];
        flags.extend(broker.flags.iter().map(String::as_str));
        flags
    };
    let first = Cloud::start_with(dir, &flags("one"), &[]).await;
    let cameras: Vec<Camera> = (0..FLEET).map(|n| Camera::added_to(&first, &format!("CAM-{n:02}"), &format!("acct-{n}"))).collect();
    let second = Cloud::start_with(copy_of_keys(&first.data()), &flags("two"), &[(VARIABLE, &format!("{point}:3"))]).await;
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
    cameras.iter().for_each(|camera| drop(listening.spawn(listen(camera.clone(), told.clone()))));
    let heard = |seq: u64| {
        let told = &told;
        move || async move {
            let told = told.lock().unwrap();
            (told.len() == FLEET && told.values().all(|seqs| seqs.contains(&seq))).then_some(())
        }
    };
    until("every camera has its first document", heard(1)).await;
    let subscribe = |n: usize| json!({ "action": "subscribe", "camera": format!("CAM-{n:02}"), "plan": "premium" });
    for result in everybody(&portals, subscribe).await {
        result.unwrap();
    }
    until("every camera has its plan", heard(2)).await;
    until("the broker has said so", acked(2 * FLEET)).await;

    let cancel = |n: usize| json!({ "action": "cancel", "camera": format!("CAM-{n:02}") });
    let answers = everybody(&portals, cancel).await;
    drop(second.end().await);
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
    let reports = || async {
        let sql = "SELECT count(*) FROM reports";
        (db.read(|c| Ok(c.query_row(sql, [], |row| row.get::<_, usize>(0))?)).unwrap() >= 3 * FLEET).then_some(())
    };
    until("every report is known", reports).await;

    for (camera, mut seqs) in told.lock().unwrap().clone() {
        // What was on its way when the process died may come again, as the same document.
        seqs.dedup();
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
    futures::future::join(survives(&server, "in_transaction"), survives(&server, "marks_in_transaction")).await;
    shares_the_publishing(&server).await;
    writers_of_different_accounts_run_at_once(&server);
    has_the_schema_of_the_embedded_one(&server);
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
