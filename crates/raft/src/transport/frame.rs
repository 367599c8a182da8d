//! A frame: a big-endian `u32` length and that many bytes of JSON. A length beyond the limit ends
//! the connection before a byte is reserved.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Writes one value.
pub async fn write_json<W: AsyncWrite + Unpin, T: Serialize + Sync>(
    w: &mut W,
    value: &T,
    max: usize,
) -> io::Result<()> {
    let body = serde_json::to_vec(value)?;
    let length = u32::try_from(body.len())
        .ok()
        .filter(|_| body.len() <= max)
        .ok_or_else(|| too_long(body.len(), max))?;
    let mut frame = Vec::with_capacity(body.len() + 4);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&body);
    w.write_all(&frame).await?;
    w.flush().await
}

/// Reads one value; None when the peer has closed the connection between frames.
pub async fn read_json<R: AsyncRead + Unpin, T: DeserializeOwned>(
    r: &mut R,
    max: usize,
) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match r.read_exact(&mut length).await {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e),
    }
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > max {
        return Err(too_long(length, max));
    }
    let mut body = vec![0; length];
    r.read_exact(&mut body).await?;
    Ok(Some(serde_json::from_slice(&body)?))
}

fn too_long(length: usize, max: usize) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("a frame of {length} bytes, and {max} are allowed"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_round_trip_and_long_ones_are_refused() {
        let (mut a, mut b) = tokio::io::duplex(1 << 16);
        write_json(&mut a, &vec![1, 2, 3], 100).await.unwrap();
        assert_eq!(read_json::<_, Vec<u8>>(&mut b, 100).await.unwrap(), Some(vec![1, 2, 3]));
        assert!(write_json(&mut a, &"x".repeat(200), 100).await.is_err());
        a.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
        assert_eq!(
            read_json::<_, Vec<u8>>(&mut b, 100).await.unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
        drop(a);
        assert_eq!(read_json::<_, Vec<u8>>(&mut b, 100).await.unwrap(), None);
    }
}
