//! The sessions with pods' Postgres: kept between passes, one a pod, and closed when nobody has
//! used them for a while. Each question has its own deadline, since a host that froze still accepts
//! connections.
//!
//! Of an idle cluster the leader is asked every second and a half and everybody else once a minute:
//! one session a cluster stays open.

use futures::future::BoxFuture;
use pgraft_core::configuration::ConfigurationStatus;
use pgraft_core::instance_config::OPERATOR_ROLE;
use pgraft_core::session::{self, Session};
use pgraft_core::{Address, NodeId};
use prometheus_client::metrics::gauge::Gauge;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::time::timeout;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, NoTls, Socket};

use super::sql::{self, MemberSqlError, RaftGroup, SqlTarget, Statements};
use crate::cluster::certificates::secrets::identity::LoginIdentity;
use crate::cluster::observe::configuration;
use crate::cluster::observe::group::PodAnswer;
use crate::cluster::step::MembershipRequest;
use pgraft_api::names::POSTGRES_PORT;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// A change waits for a majority; the server gives up before this does.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(20);
/// After how long without a question a session is closed: two looks at a leader.
const UNUSED: Duration = Duration::from_secs(10);
/// How often it is looked for such.
const SWEEP: Duration = Duration::from_secs(1);
/// How many pods of older servers are remembered.
const MOST_REMEMBERED: usize = 1000;

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
    /// Pods whose servers do not know all settings of a session.
    old: HashSet<String>,
}

struct Kept {
    session: Arc<Established>,
    used: Instant,
}

/// A session, and what is asked by it.
struct Established {
    client: Client,
    statements: Statements,
}

impl Open {
    /// Forgets what was not used for long; whoever is in the middle of a question keeps the session
    /// until the answer.
    fn sweep(&mut self, now: Instant) {
        if self.swept.is_some_and(|last| now.duration_since(last) < SWEEP) {
            return;
        }
        self.swept = Some(now);
        self.by_pod.retain(|_, kept| {
            !kept.session.client.is_closed() && now.duration_since(kept.used) < UNUSED
        });
    }
}

impl Sessions {
    /// None yet; how many there are stands in this gauge.
    pub fn counted(count: Gauge) -> Self {
        Self { open: Mutex::default(), count }
    }

    async fn session(
        &self,
        target: &SqlTarget,
        login: &LoginIdentity,
    ) -> Result<Arc<Established>, MemberSqlError> {
        if let Some(session) = self.kept(&target.uid) {
            return Ok(session);
        }
        let mut config = Config::new();
        config
            .hostaddr(target.ip)
            .port(POSTGRES_PORT)
            .user(OPERATOR_ROLE)
            .dbname("postgres")
            .application_name("pgraft-operator")
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_user_timeout(Duration::from_secs(5));
        // The deadline holds for the whole of the handshake, which connect_timeout does not.
        let late = |_| MemberSqlError::Late(CONNECT_TIMEOUT);
        let established = async {
            let client = match login {
                LoginIdentity::Password(password) => {
                    self.connect(config.password(password), NoTls, target).await?
                }
                LoginIdentity::Certificate(identity) => {
                    // The certificate has the member's own name; its address is the pod's.
                    let (name, tls) = identity.connector(target.node)?;
                    self.connect(config.host(name).ssl_mode(SslMode::Require), tls, target).await?
                }
            };
            let statements = Statements::read(&client).await?;
            Ok::<_, MemberSqlError>(Established { client, statements })
        };
        let session = Arc::new(timeout(CONNECT_TIMEOUT, established).await.map_err(late)??);
        self.with(|open| {
            open.by_pod
                .insert(target.uid.clone(), Kept { session: session.clone(), used: Instant::now() })
        });
        Ok(session)
    }

    /// Connects. A server of an older major version does not know all settings of a session, which
    /// it says once.
    async fn connect<T>(
        &self,
        config: &mut Config,
        tls: T,
        target: &SqlTarget,
    ) -> Result<Client, MemberSqlError>
    where
        T: MakeTlsConnect<Socket> + Clone,
        T::Stream: Send + 'static,
    {
        let is_old = self.with(|open| open.old.contains(&target.uid));
        if !is_old {
            match connect(
                config.options(Session::Operator.options(session::NEWEST)),
                tls.clone(),
                target.node,
            )
            .await
            {
                Err(error) if error.code() == Some(&SqlState::UNDEFINED_OBJECT) => {
                    self.with(|open| {
                        // Pods come and go; whatever is forgotten is learned again.
                        if open.old.len() >= MOST_REMEMBERED {
                            open.old.clear();
                        }
                        open.old.insert(target.uid.clone())
                    });
                }
                connected => return Ok(connected?),
            }
        }
        Ok(connect(config.options(Session::Operator.options(session::OLDEST)), tls, target.node)
            .await?)
    }

    fn kept(&self, uid: &str) -> Option<Arc<Established>> {
        let now = Instant::now();
        self.with(|open| {
            open.sweep(now);
            let kept = open.by_pod.get_mut(uid).filter(|kept| !kept.session.client.is_closed())?;
            kept.used = now;
            Some(kept.session.clone())
        })
    }

    /// A session that did not answer in time is not asked again.
    fn drop_session(&self, uid: &str) {
        self.with(|open| open.by_pod.remove(uid));
    }

    fn with<T>(&self, work: impl FnOnce(&mut Open) -> T) -> T {
        let mut open: MutexGuard<'_, Open> =
            self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let result = work(&mut open);
        self.count.set(i64::try_from(open.by_pod.len()).unwrap_or(i64::MAX));
        result
    }

    async fn in_time<T>(
        &self,
        target: &SqlTarget,
        limit: Duration,
        question: impl Future<Output = Result<T, MemberSqlError>>,
    ) -> Result<T, MemberSqlError> {
        let result = timeout(limit, question).await.unwrap_or(Err(MemberSqlError::Late(limit)));
        if result.as_ref().is_err_and(MemberSqlError::ends_session) {
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
    fn ask<'a>(
        &'a self,
        target: &'a SqlTarget,
        login: &'a LoginIdentity,
    ) -> BoxFuture<'a, Result<PodAnswer, MemberSqlError>> {
        let question = async {
            let session = self.session(target, login).await?;
            sql::ask(&session.client, &session.statements, target.node).await
        };
        Box::pin(self.in_time(target, ASK_TIMEOUT, question))
    }

    fn configuration(&self, ip: IpAddr) -> BoxFuture<'_, Option<ConfigurationStatus>> {
        Box::pin(configuration::ask(ip))
    }

    fn change<'a>(
        &'a self,
        target: &'a SqlTarget,
        login: &'a LoginIdentity,
        change: MembershipRequest,
        address: &'a Address,
    ) -> BoxFuture<'a, Result<(), MemberSqlError>> {
        let question = async move {
            let session = self.session(target, login).await?;
            sql::change(&session.client, &session.statements, change, address).await
        };
        Box::pin(self.in_time(target, CHANGE_TIMEOUT, question))
    }
}
