//! The running cloud as one value: database, issuer, events and the store's open transfers. [`Cloud::act`] is the only
//! way to change a plan while the program runs.

use std::sync::Arc;

use care_protocol::{DeviceId, Position};
use tokio::sync::Notify;

use crate::{
    clock::Clock,
    domain::{
        accounts::{self, Account},
        actions::{Action, ActionError, Done},
        issuer::{Issued, Issuer},
    },
    fail_point,
    storage::{
        data_dir::{DataDir, DataError, Endpoints},
        db::{Db, DbError, Scope, Transaction},
    },
    transport::{
        broker::{Broker, BrokerAddress},
        events::{CloudEvent, Events},
        heard::Heard,
        observed::Observed,
        publications::Publications,
        refused_grants::RefusedGrants,
        retention::{self, RetentionError},
        store::{Store, Transfers},
    },
};

/// What all tasks of the program share.
pub struct Cloud {
    /// The clock.
    pub clock: Clock,
    /// The database.
    pub db: Db,
    /// Signs documents.
    pub issuer: Arc<Issuer>,
    /// The clip store.
    pub store: Arc<Store>,
    /// The uploads in progress, with the store's counts.
    pub transfers: Transfers,
    /// Events for the portal's pages.
    pub events: Events,
    /// What is counted for `/metrics`.
    pub observed: Observed,
    /// Up to when the cameras were heard.
    pub heard: Heard,
    /// Wakes the publisher.
    pub outbox: Notify,
    /// Wakes the schedule, because the end of a period may have moved.
    pub schedule: Notify,
    /// Where this cloud can be reached.
    pub endpoints: Endpoints,
    /// The broker, as this cloud reaches it.
    pub link: BrokerAddress,
    /// MQTT messages that are not in the outbox.
    pub publications: Publications,
    /// Cameras that get no grant for a while, by an engineer's experiment.
    pub refused_grants: RefusedGrants,
    /// The embedded broker, unless an external one is used.
    pub broker: Option<Broker>,
    /// The data directory.
    pub data: DataDir,
    /// The operator's secret. A request that carries it (`authorization: Bearer …`) comes from the owner of the data
    /// directory.
    pub operator: String,
}

impl Cloud {
    /// Assembles the parts.
    #[allow(clippy::too_many_arguments, reason = "the parts, each once")]
    pub fn new(
        data: DataDir,
        clock: Clock,
        db: Db,
        issuer: Arc<Issuer>,
        store: Store,
        endpoints: Endpoints,
        link: BrokerAddress,
        broker: Option<Broker>,
    ) -> Result<Self, DataError> {
        Ok(Self {
            operator: data.operator()?,
            data,
            clock,
            db,
            issuer,
            store: Arc::new(store),
            transfers: Transfers::default(),
            events: Events::new(),
            observed: Observed::default(),
            heard: Heard::default(),
            outbox: Notify::new(),
            schedule: Notify::new(),
            endpoints,
            link,
            publications: Publications::new(),
            refused_grants: RefusedGrants::default(),
            broker,
        })
    }

    /// The account of this TP-Link ID; `None` if the password is wrong. Takes equally long in both cases.
    pub async fn sign_in(&self, login: &str, password: &str) -> Result<Option<Account>, DbError> {
        let login = login.to_owned();
        let (account, hash) = self.db.read_async(move |connection| accounts::credentials(connection, &login)).await?;
        let password = password.to_owned();
        let matches = tokio::task::spawn_blocking(move || hash.matches(&password)).await.map_err(|_| DbError::Gone)?;
        Ok(account.filter(|_| matches))
    }

    /// Carries out an action of an owner or an app store, and announces the result.
    pub async fn act(self: &Arc<Self>, action: Action) -> Result<Done, ActionError> {
        self.act_and(action, |_, _| Ok(())).await
    }

    /// The same; `also` writes more in the same transaction.
    pub async fn act_and(
        self: &Arc<Self>,
        action: Action,
        also: impl FnOnce(&Transaction<'_>, &Done) -> Result<(), DbError> + Send + 'static,
    ) -> Result<Done, ActionError> {
        let issuer = self.issuer.clone();
        let now = self.clock.now_s();
        let scope = action.scope();
        let work = move |tx: &Transaction<'_>| {
            let done = issuer.act(tx, &action, now)?;
            also(tx, &done)?;
            Ok(done)
        };
        let done = self.change_in(scope, work, |done| &done.issued).await?;
        for order in &done.back {
            tracing::info!(order = order.id, amount_minor = order.refund.amount_minor, kind = %order.refund.kind, "money back");
        }
        Ok(done)
    }

    /// [`Cloud::change_in`], for a change that may concern anything.
    pub async fn change<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, ActionError> + Send + 'static,
        issued: impl FnOnce(&T) -> &[Issued],
    ) -> Result<T, ActionError> {
        self.change_in(Scope::Everything, work, issued).await
    }

    /// Runs a transaction that may issue documents. After the commit it cuts revoked transfers and wakes the publisher.
    pub async fn change_in<T: Send + 'static>(
        self: &Arc<Self>,
        scope: Scope,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, ActionError> + Send + 'static,
        issued: impl FnOnce(&T) -> &[Issued],
    ) -> Result<T, ActionError> {
        let done = self.db.transact_async_in(scope, work).await?;
        let issued = issued(&done);
        for document in issued {
            fail_point::reach("committed", document.position.seq);
            self.transfers.revoke(&document.revoked);
        }
        self.outbox.notify_one();
        self.schedule.notify_one();
        for document in issued {
            tracing::info!(
                device = %document.device, position = %document.position, plan = document.plan, reason = %document.reason,
                revoked = document.revoked.len(), erased = document.erased.len(), "issued"
            );
            self.events.send(CloudEvent::Issued {
                device: document.device.to_string(),
                plan: document.plan.clone(),
                seq: document.position.seq,
            });
        }
        // If this fails, the schedule tries again.
        if issued.iter().any(|document| !document.erased.is_empty())
            && let Err(e) = self.sweep().await
        {
            tracing::error!("erasing clips: {e}");
        }
        Ok(done)
    }

    /// Issues one batch of documents again that an older key has signed. Returns them; none: all are done.
    pub async fn renew_under_new_key(self: &Arc<Self>) -> Result<Vec<Issued>, ActionError> {
        let (issuer, now) = (self.issuer.clone(), self.clock.now_s());
        self.change(move |tx| Ok(issuer.renew_under_new_key(tx, now)?), Vec::as_slice).await
    }

    /// The broker as cameras on this machine reach it: under the cloud's own address, but at the listener for cameras.
    pub fn cameras_broker(&self) -> BrokerAddress {
        let separate = self.endpoints.broker_cloud.as_ref().and_then(|_| url::Url::parse(&self.endpoints.broker).ok());
        let Some((broker, host)) = separate.as_ref().and_then(|url| Some((url, url.host_str()?))) else { return self.link.clone() };
        let host = if self.broker.is_some() { self.link.host.clone() } else { host.trim_matches(['[', ']']).to_owned() };
        BrokerAddress { host, port: broker.port().unwrap_or(8883), ..self.link.clone() }
    }

    /// Erases clips that are older than their plan's history.
    pub async fn sweep(&self) -> Result<(), RetentionError> {
        retention::sweep(&self.db, &self.issuer, &self.store, &self.observed, self.clock.now_s()).await
    }

    /// The document was handed to the broker's connection: from here on the store counts older uploads separately.
    pub fn published(&self, device: &DeviceId, position: Position) {
        self.transfers.mark_published(device, position);
        self.observed.count(|counts| counts.publishes += 1);
        self.events.send(CloudEvent::Published { device: device.to_string() });
    }
}
