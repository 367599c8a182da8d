//! Connections to a pod's Postgres through the API server, which works on any cluster.

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::Portforwarder;
use tokio_postgres::types::{FromSqlOwned, ToSql};
use tokio_postgres::{NoTls, Row};

use crate::failure::E2eFailure;

/// The role and the database of a connection.
#[derive(Debug, Clone)]
pub struct SqlLogin {
    /// Role.
    pub user: String,
    /// Its password.
    pub password: String,
    /// Database.
    pub database: String,
}

/// A connection. It ends when it is dropped.
pub struct SqlSession {
    pod: String,
    client: tokio_postgres::Client,
    _forward: Portforwarder,
}

impl SqlSession {
    /// # Errors
    /// [`E2eFailure::Kube`] if the pod cannot be reached, [`E2eFailure::Sql`] if Postgres rejects
    /// the connection.
    pub async fn open(pods: &Api<Pod>, pod: &str, login: &SqlLogin) -> Result<Self, E2eFailure> {
        let mut forward = pods.portforward(pod, &[5432]).await?;
        let stream = forward
            .take_stream(5432)
            .ok_or_else(|| E2eFailure::Wrong(format!("{pod}: no stream to port 5432")))?;
        let sql = |source| E2eFailure::Sql { pod: pod.to_owned(), source };
        let (client, connection) = tokio_postgres::Config::new()
            .user(&login.user)
            .password(&login.password)
            .dbname(&login.database)
            .application_name("pgraft-e2e")
            // A scenario may set other defaults, and a standby does not support serializable.
            .options("-c default_transaction_isolation=read\\ committed -c statement_timeout=0")
            .connect_raw(stream, NoTls)
            .await
            .map_err(sql)?;
        tokio::spawn(connection); // ends with the client
        Ok(Self { pod: pod.to_owned(), client, _forward: forward })
    }

    /// The rows of a query.
    ///
    /// # Errors
    /// [`E2eFailure::Sql`].
    pub async fn rows(
        &self,
        statement: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, E2eFailure> {
        self.client
            .query(statement, parameters)
            .await
            .map_err(|source| E2eFailure::Sql { pod: self.pod.clone(), source })
    }

    /// The first column of the only row.
    ///
    /// # Errors
    /// [`E2eFailure::Sql`], also if there is no row or the type differs.
    pub async fn value<T: FromSqlOwned>(
        &self,
        statement: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<T, E2eFailure> {
        let sql = |source| E2eFailure::Sql { pod: self.pod.clone(), source };
        self.client
            .query_one(statement, parameters)
            .await
            .and_then(|row| row.try_get(0))
            .map_err(sql)
    }

    /// Runs statements and ignores their results.
    ///
    /// # Errors
    /// [`E2eFailure::Sql`].
    pub async fn run(&self, statements: &str) -> Result<(), E2eFailure> {
        self.client
            .batch_execute(statements)
            .await
            .map_err(|source| E2eFailure::Sql { pod: self.pod.clone(), source })
    }
}
