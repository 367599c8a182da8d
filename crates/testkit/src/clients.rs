//! Postgres clients.

use tokio::net::{TcpSocket, TcpStream};
use tokio_postgres::NoTls;
use tokio_postgres::tls::MakeTlsConnect;

pub async fn connect(
    (host, port): (&str, u16),
    user: &str,
    password: &str,
    database: &str,
) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let mut config = tokio_postgres::Config::new();
    config.host(host).port(port).user(user).password(password).dbname(database);
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

pub async fn connect_from_another_host<T>(
    port: u16,
    user: &str,
    password: &str,
    database: &str,
    tls: T,
) -> Result<tokio_postgres::Client, String>
where
    T: MakeTlsConnect<TcpStream>,
    T::Stream: Send + 'static,
{
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let stream = socket.connect(([127, 0, 0, 1], port).into()).await.map_err(|e| e.to_string())?;
    let mut config = tokio_postgres::Config::new();
    config.user(user).password(password).dbname(database);
    let mut tls = tls;
    let connect = tls.make_tls_connect("127.0.0.1").map_err(|e| e.into().to_string())?;
    let (client, connection) =
        config.connect_raw(stream, connect).await.map_err(|e| with_sources(&e))?;
    tokio::spawn(connection);
    Ok(client)
}

/// An error and its sources, separated by colons.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
