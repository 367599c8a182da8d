//! The first bytes of a connection: what a client asks for, and whether the server has taken it.
//! Pure.
//!
//! Everybody on the network can send these bytes, so a length counts only within the bounds that
//! Postgres itself sets.

/// Postgres reads no longer startup packet: `MAX_STARTUP_PACKET_LENGTH`, and the length word before
/// it.
pub const LONGEST_PACKET: usize = 10_000 + 4;
/// The header of a TLS record, and the longest plaintext record (RFC 8446, 5.1).
pub const LONGEST_HELLO: usize = 5 + (1 << 14);
/// `SSLRequest`, as a client sends it.
pub const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
/// An `ErrorResponse` that is longer is none of Postgres 7.4 or later.
const LONGEST_ERROR: usize = 30_000;
/// `cannot_connect_now`: the server is starting up, in recovery, or shutting down.
const CANNOT_CONNECT_NOW: &[u8] = b"57P03";

/// What a client asks for first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartupRequest {
    /// More bytes must come.
    Incomplete,
    /// `SSLRequest`
    Ssl,
    /// `GSSENCRequest`
    Gss,
    /// `CancelRequest`, to which no answer comes.
    Cancel,
    /// A startup packet, of whatever protocol version: the server answers.
    Startup,
    /// TLS: at once (`sslnegotiation=direct`), or after an `SSLRequest` that was granted.
    ClientHello,
    /// Nothing that Postgres would answer.
    Invalid,
}

/// What a client asks for, and how many bytes that takes.
pub fn request(bytes: &[u8]) -> (StartupRequest, usize) {
    match bytes.first() {
        None => (StartupRequest::Incomplete, 0),
        Some(0x16) => client_hello(bytes),
        Some(_) => packet(bytes),
    }
}

fn packet(bytes: &[u8]) -> (StartupRequest, usize) {
    let Some(length) = word(bytes, 0) else { return (StartupRequest::Incomplete, 0) };
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if !(8..=LONGEST_PACKET).contains(&length) {
        return (StartupRequest::Invalid, 0);
    }
    if bytes.len() < length {
        return (StartupRequest::Incomplete, 0);
    }
    // Two halves of 1234 and a number, which is no protocol's version.
    let kind = match word(bytes, 4).map(|code| (code >> 16, code & 0xffff)) {
        Some((1234, 5678)) => StartupRequest::Cancel,
        Some((1234, 5679)) => StartupRequest::Ssl,
        Some((1234, 5680)) => StartupRequest::Gss,
        Some(_) => StartupRequest::Startup,
        None => StartupRequest::Invalid,
    };
    (kind, length)
}

/// A whole record of type `handshake` that begins with a `ClientHello`.
fn client_hello(bytes: &[u8]) -> (StartupRequest, usize) {
    let major = bytes.get(1).is_none_or(|major| *major == 3);
    let kind = bytes.get(5).is_none_or(|kind| *kind == 1);
    let length = bytes.get(3..5).map(|two| 5 + (usize::from(two[0]) << 8 | usize::from(two[1])));
    if !major || !kind || length.is_some_and(|length| !(9..=LONGEST_HELLO).contains(&length)) {
        return (StartupRequest::Invalid, 0);
    }
    match length {
        Some(length) if bytes.len() >= length => (StartupRequest::ClientHello, length),
        _ => (StartupRequest::Incomplete, 0),
    }
}

/// What a server's first bytes say to a startup packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartupReply {
    /// More bytes must come.
    Incomplete,
    /// It does not take connections now. (SQLSTATE 57P03)
    NotNow,
    /// It has taken the client, or refused it for a reason that is the client's.
    Answer,
}

impl StartupReply {
    /// Of the bytes that have come.
    pub fn of(mut bytes: &[u8]) -> Self {
        loop {
            let Some(kind) = bytes.first() else { return Self::Incomplete };
            // NegotiateProtocolVersion comes before the server looks at its own state.
            if !matches!(kind, b'E' | b'v') {
                return Self::Answer;
            }
            let Some(length) = word(bytes, 1) else { return Self::Incomplete };
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            if !(4..=LONGEST_ERROR).contains(&length) {
                return Self::Answer;
            }
            let Some(fields) = bytes.get(5..=length) else { return Self::Incomplete };
            if *kind == b'E' {
                let sqlstate =
                    fields.split(|byte| *byte == 0).find_map(|field| field.strip_prefix(b"C"));
                return if sqlstate == Some(CANNOT_CONNECT_NOW) {
                    Self::NotNow
                } else {
                    Self::Answer
                };
            }
            bytes = &bytes[length + 1..];
        }
    }
}

/// A startup packet for that role and database.
pub fn startup_packet(role: &str, database: &str) -> Vec<u8> {
    let mut rest = 196_608_u32.to_be_bytes().to_vec();
    for text in ["user", role, "database", database, ""] {
        rest.extend_from_slice(text.as_bytes());
        rest.push(0);
    }
    let length = u32::try_from(rest.len() + 4).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], &rest].concat()
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}

/// For the fuzz target: these bytes, as a client's and as a server's.
///
/// # Panics
/// Where something does not hold.
pub fn fuzz(bytes: &[u8]) {
    let (kind, length) = request(bytes);
    assert!(length <= bytes.len() && length <= LONGEST_HELLO, "{length} bytes");
    assert_eq!(length > 0, !matches!(kind, StartupRequest::Incomplete | StartupRequest::Invalid));
    let reply = StartupReply::of(bytes);
    // What is complete stays what it is, whatever follows; what is invalid is so from some byte on.
    let longer = [bytes, &[0x16, 0, b'E']].concat();
    if kind != StartupRequest::Incomplete {
        assert_eq!(request(&longer), (kind, length));
    }
    if reply != StartupReply::Incomplete {
        assert_eq!(StartupReply::of(&longer), reply);
    }
    assert!(
        kind != StartupRequest::Incomplete || bytes.len() < LONGEST_HELLO,
        "it would be waited for without a bound"
    );
}

#[cfg(test)]
mod tests;
