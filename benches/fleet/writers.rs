//! What it costs to write documents, for one process and for two on one database: on the embedded SQLite, and on a
//! PostgreSQL that is started for it, with its writes synchronised.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, bail, ensure};
use care_cloud::{
    child::die_with_parent,
    clock::now_s,
    domain::{actions::Action, catalogue::Catalogue, issuer::Issuer},
    storage::{data_dir::DataDir, db::Db, keys::Keys},
};
use serde_json::{Value, json};

use crate::{
    postgres::Postgres,
    stage::{ACCOUNT, LEASE_S, bind, device},
};

/// Accounts of ten cameras, unless `ACCOUNTS` says otherwise.
const ACCOUNTS: usize = 200;
/// What every account goes through, and how many documents for each of its cameras that takes.
const STEPS: [(&str, usize); 2] = [("bind_and_subscribe", 2), ("cancel", 1)];
/// The name of the embedded database on the command line.
const EMBEDDED: &str = "sqlite";

/// Milliseconds a document, for each database and number of processes, and each step.
pub fn measure() -> anyhow::Result<Value> {
    let accounts = std::env::var("ACCOUNTS").map_or(Ok(ACCOUNTS), |count| count.parse()).context("ACCOUNTS is a number")?;
    let server = Postgres::start();
    let mut all = serde_json::Map::new();
    for (database, processes) in [(EMBEDDED, 1), ("postgresql", 1), ("postgresql", 2)] {
        let dir = tempfile::tempdir()?;
        open_issuer(&DataDir::open(dir.path())?)?;
        let url = match database {
            EMBEDDED => EMBEDDED.to_owned(),
            _ => server.fresh(&format!("writers_{processes}")),
        };
        drop(open(&url, dir.path())?);
        let mut steps = serde_json::Map::new();
        for (step, each) in STEPS {
            let seconds = together(&url, dir.path(), step, accounts, processes)?;
            steps.insert(step.into(), json!(seconds * 1000.0 / (accounts * ACCOUNT * each) as f64));
        }
        println!("{database}, {processes} at once: {}", Value::from(steps.clone()));
        all.insert(format!("{database}_{processes}"), steps.into());
    }
    Ok(json!({ "accounts": accounts, "ms_a_document": all }))
}

/// Seconds until the last process has done its part.
fn together(url: &str, data: &Path, step: &str, accounts: usize, processes: usize) -> anyhow::Result<f64> {
    let mut children = Vec::new();
    for part in 0..processes {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["writer", url]).arg(data).args([step, &accounts.to_string(), &processes.to_string(), &part.to_string()]);
        let mut child = die_with_parent(command.stdin(Stdio::piped()).stdout(Stdio::piped())).spawn()?;
        let mut said = BufReader::new(child.stdout.take().context("no pipe")?);
        said.read_line(&mut String::new())?;
        children.push((child, said));
    }
    let began = Instant::now();
    for (child, _) in &mut children {
        child.stdin.take().context("no pipe")?.write_all(b"\n")?;
    }
    for (mut child, _said) in children {
        ensure!(child.wait()?.success(), "a writer failed");
    }
    Ok(began.elapsed().as_secs_f64())
}

/// One of the processes: says that it is ready, waits for a line, and does its part of a step.
pub fn write(arguments: &[&str]) -> anyhow::Result<()> {
    let [url, data, step, accounts, processes, part] = arguments else { bail!("a writer is started by `bench-fleet writers`") };
    let (accounts, processes, part): (usize, usize, usize) = (accounts.parse()?, processes.parse()?, part.parse()?);
    let data = Path::new(data);
    let (db, issuer) = (open(url, data)?, open_issuer(&DataDir::open(data)?)?);
    println!("ready");
    std::io::stdin().read_line(&mut String::new())?;
    for account in (part..accounts).step_by(processes) {
        let first = account * ACCOUNT;
        match *step {
            "cancel" => {
                let cancel = Action::Cancel { camera: device(first), quote: None };
                let done = db.transact_in(&cancel.scope(), |tx| issuer.act(tx, &cancel, now_s()))?;
                ensure!(done.issued.len() == ACCOUNT, "{} documents", done.issued.len());
            }
            _ => db.transact(|tx| bind(tx, &issuer, first..first + ACCOUNT))?,
        }
    }
    Ok(())
}

fn open(url: &str, data: &Path) -> anyhow::Result<Db> {
    Ok(if url == EMBEDDED { Db::open(&data.join("care.db"))? } else { Db::connect(&url.parse()?)? })
}

fn open_issuer(data: &DataDir) -> anyhow::Result<Issuer> {
    Ok(Issuer { keys: Keys::open(data, now_s())?, catalogue: Catalogue::built_in(), lease_s: LEASE_S })
}
