//! How tests reach a running node: its HTTP port, its server and its gateway.

use super::TestNode;
use crate::clients::{connect, connect_from_another_host};
use crate::wait::until;
use pgraft_api::instance::Status;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use tokio_postgres::tls::MakeTlsConnect;

impl TestNode {
    /// The status code and the JSON body of an HTTP GET.
    pub fn get(&self, path: &str) -> Option<(u16, Value)> {
        let mut stream = TcpStream::connect((self.client_address(), self.ports.http)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        stream
            .write_all(
                format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                    .as_bytes(),
            )
            .ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let code = text.split(' ').nth(1)?.parse().ok()?;
        Some((code, serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()?))
    }

    pub fn status(&self) -> Option<Status> {
        let (code, body) = self.get("/status")?;
        assert_eq!(code, 200);
        Some(serde_json::from_value(body).unwrap())
    }

    pub async fn ready(&self) -> Status {
        let what = format!("node {} to be ready", self.id);
        until(&what, async || self.get("/readyz").filter(|(code, _)| *code == 200)).await;
        self.status().unwrap()
    }

    pub async fn streaming(&self) -> Status {
        let what = format!("node {} to stream", self.id);
        until(&what, async || self.status().filter(|s| s.postgres.streaming == Some(true))).await
    }

    /// Connects to the server over TCP, with a password.
    pub async fn connect(
        &self,
        user: &str,
        password: &str,
        database: &str,
    ) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        connect((self.client_address(), self.ports.postgres), user, password, database).await
    }

    /// Connects to the gateway as the user `app`.
    pub async fn connect_to_gateway(
        &self,
    ) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        connect((self.client_address(), self.ports.gateway), "app", "owner-1", "app").await
    }

    /// Connects to the server over TLS, from an address that is not the server's own.
    pub async fn connect_from_another_host<T>(
        &self,
        user: &str,
        password: &str,
        database: &str,
        tls: T,
    ) -> Result<tokio_postgres::Client, String>
    where
        T: MakeTlsConnect<tokio::net::TcpStream>,
        T::Stream: Send + 'static,
    {
        connect_from_another_host(self.ports.postgres, user, password, database, tls).await
    }

    /// Connects to the gateway as the user `app`, from an address that is not the server's own.
    pub async fn connect_to_gateway_from_another_host<T>(
        &self,
        tls: T,
    ) -> Result<tokio_postgres::Client, String>
    where
        T: MakeTlsConnect<tokio::net::TcpStream>,
        T::Stream: Send + 'static,
    {
        connect_from_another_host(self.ports.gateway, "app", "owner-1", "app", tls).await
    }

    /// Runs a statement as superuser, and returns the first column of its first row.
    pub async fn sql(&self, statement: &str) -> Result<Option<String>, tokio_postgres::Error> {
        let client = self.connect("postgres", "superuser-1", "postgres").await?;
        let rows = client.simple_query(statement).await?;
        Ok(rows.iter().find_map(|m| {
            if let tokio_postgres::SimpleQueryMessage::Row(row) = m {
                row.get(0).map(str::to_owned)
            } else {
                None
            }
        }))
    }

    /// Waits until a statement returns `want`.
    pub async fn wait_for(&self, statement: &str, want: &str) {
        let what = format!("{statement} = {want} on node {}", self.id);
        until(&what, async || self.sql(statement).await.ok().flatten().filter(|got| got == want))
            .await;
    }
}
