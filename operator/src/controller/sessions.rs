//! The sessions with pods' Postgres: kept between passes, one a pod, and closed when nobody has used them for a while. Each question has its own
//! deadline, since a host that froze still accepts connections.
//!
//! Of an idle cluster the leader is asked every second and a half and everybody else once a minute: one session a cluster stays open.

use futures::future::BoxFuture;
use pgraft_core::instance_config::OPERATOR_ROLE;
use pgraft_core::{Address, NodeId};
use prometheus_client::metrics::gauge::Gauge;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::time::timeout;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, NoTls, Socket};

use super::certificates::identity::Login;
use super::sql::{self, RaftGroup, SqlError, Target};
use crate::core::group::Answer;
use crate::core::names::POSTGRES_PORT;
use crate::core::step::Change;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// A change waits for a majority; the server gives up before this does.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(20);
/// After how long without a question a session is closed: two looks at a leader.
const UNUSED: Duration = Duration::from_secs(10);
/// How often it is looked for such.
const SWEEP: Duration = Duration::from_secs(1);

/// Sessions over TCP.
#[derive(Default)]
pub struct Sessions {
    open: Mutex<Open>,
    count: Gauge,
}

#[derive(Default)]
struct Open {
    by_pod: HashMap<String, Kept>,
    swept: Option<Instant>,
}

struct Kept {
    client: Arc<Client>,
    used: Instant,
}

impl Open {
    /// Forgets what was not used for long; whoever is in the middle of a question keeps the session until the answer.
    fn sweep(&mut self, now: Instant) {
        if self.swept.is_some_and(|last| now.duration_since(last) < SWEEP) {
            return;
        }
        self.swept = Some(now);
        self.by_pod.retain(|_, kept| !kept.client.is_closed() && now.duration_since(kept.used) < UNUSED);
    }
}

impl Sessions {
    /// None yet; how many there are stands in this gauge.
    pub fn counted(count: Gauge) -> Self {
        Self { open: Mutex::default(), count }
    }

    async fn session(&self, target: &Target, login: &Login) -> Result<Arc<Client>, SqlError> {
        if let Some(client) = self.kept(&target.uid) {
            return Ok(client);
        }
        let mut config = Config::new();
        config
            .hostaddr(target.ip)
            .port(POSTGRES_PORT)
            .user(OPERATOR_ROLE)
            .dbname("postgres")
            .application_name("pgraft-operator")
            .options("-c statement_timeout=15s -c idle_session_timeout=60s")
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_user_timeout(Duration::from_secs(5));
        // The deadline holds for the whole of the handshake, which connect_timeout does not.
        let late = |_| SqlError::Late(CONNECT_TIMEOUT);
        let client = match login {
            Login::Password(password) => {
                timeout(CONNECT_TIMEOUT, connect(config.password(password), NoTls, target.node)).await.map_err(late)??
            }
            Login::Certificate(identity) => {
                // The certificate has the member's own name; its address is the pod's.
                let (name, tls) = identity.connector(target.node)?;
                let config = config.host(name).ssl_mode(SslMode::Require);
                timeout(CONNECT_TIMEOUT, connect(config, tls, target.node)).await.map_err(late)??
            }
        };
        let client = Arc::new(client);
        self.with(|open| open.by_pod.insert(target.uid.clone(), Kept { client: client.clone(), used: Instant::now() }));
        Ok(client)
    }

    fn kept(&self, uid: &str) -> Option<Arc<Client>> {
        let now = Instant::now();
        self.with(|open| {
            open.sweep(now);
            let kept = open.by_pod.get_mut(uid).filter(|kept| !kept.client.is_closed())?;
            kept.used = now;
            Some(kept.client.clone())
        })
    }

    /// A session that did not answer in time is not asked again.
    fn drop_session(&self, uid: &str) {
        self.with(|open| open.by_pod.remove(uid));
    }

    fn with<T>(&self, work: impl FnOnce(&mut Open) -> T) -> T {
        let mut open: MutexGuard<'_, Open> = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let result = work(&mut open);
        self.count.set(i64::try_from(open.by_pod.len()).unwrap_or(i64::MAX));
        result
    }

    async fn in_time<T>(
        &self,
        target: &Target,
        limit: Duration,
        question: impl Future<Output = Result<T, SqlError>>,
    ) -> Result<T, SqlError> {
        let result = timeout(limit, question).await.unwrap_or(Err(SqlError::Late(limit)));
        if matches!(result, Err(SqlError::Late(_) | SqlError::Connection(_))) {
            self.drop_session(&target.uid);
        }
        result
    }
}

async fn connect<T>(config: &Config, tls: T, node: NodeId) -> Result<Client, tokio_postgres::Error>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
{
    let (client, connection) = config.connect(tls).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%node, %error, "session ended");
        }
    });
    Ok(client)
}

impl RaftGroup for Sessions {
    fn ask<'a>(&'a self, target: &'a Target, login: &'a Login) -> BoxFuture<'a, Result<Answer, SqlError>> {
        let question = async { sql::ask(&*self.session(target, login).await?, target.node).await };
        Box::pin(self.in_time(target, ASK_TIMEOUT, question))
    }

    fn change<'a>(
        &'a self,
        target: &'a Target,
        login: &'a Login,
        change: Change,
        address: &'a Address,
    ) -> BoxFuture<'a, Result<(), SqlError>> {
        let question = async move { sql::change(&*self.session(target, login).await?, change, address).await };
        Box::pin(self.in_time(target, CHANGE_TIMEOUT, question))
    }
}
