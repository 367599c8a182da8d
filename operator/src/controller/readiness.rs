//! Asks a pod that is not ready why: Kubernetes says only that its probe fails, and the instance manager's `/readyz` has the reason.

use serde::Deserialize;
use std::net::IpAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::core::names::HTTP_PORT;

/// A pod that does not answer has no reason to give.
const DEADLINE: Duration = Duration::from_secs(1);
/// The longest answer that is read.
const LONGEST: u64 = 16 << 10;
/// The longest reason that is passed on, in characters.
const LONGEST_REASON: usize = 300;

#[derive(Deserialize)]
struct Answer {
    missing: Vec<String>,
}

/// What is missing, by the pod's own word.
pub async fn reason(ip: IpAddr) -> Option<String> {
    reason_of(ip, HTTP_PORT).await
}

async fn reason_of(ip: IpAddr, port: u16) -> Option<String> {
    let ask = async {
        let mut stream = TcpStream::connect((ip, port)).await.ok()?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: member\r\nconnection: close\r\n\r\n").await.ok()?;
        let mut text = String::new();
        stream.take(LONGEST).read_to_string(&mut text).await.ok()?;
        read(&text)
    };
    timeout(DEADLINE, ask).await.ok()?
}

/// One line for a condition.
fn read(response: &str) -> Option<String> {
    let answer: Answer = serde_json::from_str(response.split_once("\r\n\r\n")?.1).ok()?;
    let words = answer.missing.join("; ");
    let line: String = words.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_REASON).collect();
    (!line.is_empty()).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_pod_says_what_is_missing() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let body = r#"{"ready":false,"phase":"running","missing":["replay on this standby is more than 30 s behind the primary"]}"#;
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
            let answer = format!("HTTP/1.1 503 Service Unavailable\r\ncontent-length: {}\r\n\r\n{body}\n", body.len() + 1);
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert_eq!(reason_of(ip, port).await.unwrap(), "replay on this standby is more than 30 s behind the primary");
        assert_eq!(reason_of(ip, port).await, None, "nobody listens any more");
    }

    #[test]
    fn what_is_read() {
        let of = |body: &str| read(&format!("HTTP/1.1 503 x\r\n\r\n{body}"));
        assert_eq!(of(r#"{"missing":["a","b\nc"]}"#).as_deref(), Some("a; b c"));
        assert_eq!(of(r#"{"missing":[]}"#), None);
        assert_eq!(of("{}"), None);
        assert_eq!(read("nonsense"), None);
        assert_eq!(of(&format!(r#"{{"missing":["{}"]}}"#, "x".repeat(1000))).map(|line| line.len()), Some(LONGEST_REASON));
    }
}
