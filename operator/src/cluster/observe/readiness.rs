//! Asks a pod that is not ready why: Kubernetes says only that its probe fails, and the instance
//! manager's `/readyz` has the reason.

use serde::Deserialize;
use std::net::{IpAddr, SocketAddr};

use crate::cluster::members::http;
use pgraft_api::names::HTTP_PORT;

/// The longest reason that is passed on, in characters.
const LONGEST_REASON: usize = 300;

#[derive(Deserialize)]
struct ReadyAnswer {
    missing: Vec<String>,
}

/// What is missing, by the pod's own word.
pub async fn reason(ip: IpAddr) -> Option<String> {
    reason_of(ip, HTTP_PORT).await
}

async fn reason_of(ip: IpAddr, port: u16) -> Option<String> {
    line(&http::get::<ReadyAnswer>(SocketAddr::new(ip, port), "/readyz").await?)
}

/// One line for a condition.
fn line(answer: &ReadyAnswer) -> Option<String> {
    let words = answer.missing.join("; ");
    let line: String =
        words.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_REASON).collect();
    (!line.is_empty()).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_pod_says_what_is_missing() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let body = r#"{"ready":false,"phase":"running","missing":["replay on this standby is more than 30 s behind the primary"]}"#;
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
            let answer = format!(
                "HTTP/1.1 503 Service Unavailable\r\ncontent-length: {}\r\n\r\n{body}\n",
                body.len() + 1
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert_eq!(
            reason_of(ip, port).await.unwrap(),
            "replay on this standby is more than 30 s behind the primary"
        );
        assert_eq!(reason_of(ip, port).await, None, "nobody listens any more");
    }

    #[test]
    fn what_is_read() {
        let of = |missing: &[&str]| {
            line(&ReadyAnswer { missing: missing.iter().map(|m| (*m).to_owned()).collect() })
        };
        assert_eq!(of(&["a", "b\nc"]).as_deref(), Some("a; b c"));
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[&"x".repeat(1000)]).map(|line| line.len()), Some(LONGEST_REASON));
    }
}
