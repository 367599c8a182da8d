//! Parses the first bytes of a connection: what a client asks for, and whether the server has
//! accepted it. Pure.
//!
//! Anyone on the network can send these bytes. A length counts only within the bounds that Postgres
//! itself sets.

/// The longest startup packet that Postgres reads, in bytes: `MAX_STARTUP_PACKET_LENGTH`, and the
/// length before it.
pub const MAX_PACKET: usize = 10_000 + 4;
/// The longest `ClientHello` in bytes: the header of a TLS record, and the longest plaintext record
/// (RFC 8446, 5.1).
pub const MAX_HELLO: usize = 5 + (1 << 14);
/// `SSLRequest`, as a client sends it.
pub const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
/// The longest `ErrorResponse` in bytes. A longer one is not of the protocol of Postgres 7.4 or
/// later.
const MAX_ERROR: usize = 30_000;
/// `cannot_connect_now`: the server is starting up, in recovery, or shutting down.
const CANNOT_CONNECT_NOW: &[u8] = b"57P03";

/// A client's request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartupRequest {
    /// More bytes are needed.
    Incomplete,
    /// `SSLRequest`
    Ssl,
    /// `GSSENCRequest`
    Gss,
    /// `CancelRequest`, which the server does not answer.
    Cancel,
    /// A startup packet of any protocol version.
    Startup,
    /// The start of TLS: at once (`sslnegotiation=direct`), or after an `SSLRequest` was granted.
    ClientHello,
    /// Something that Postgres would not answer.
    Invalid,
}

/// A client's request, and its length in bytes.
pub fn request(bytes: &[u8]) -> (StartupRequest, usize) {
    match bytes.first() {
        None => (StartupRequest::Incomplete, 0),
        Some(0x16) => client_hello(bytes),
        Some(_) => packet(bytes),
    }
}

fn packet(bytes: &[u8]) -> (StartupRequest, usize) {
    let Some(length) = read_u32(bytes, 0) else { return (StartupRequest::Incomplete, 0) };
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if !(8..=MAX_PACKET).contains(&length) {
        return (StartupRequest::Invalid, 0);
    }
    if bytes.len() < length {
        return (StartupRequest::Incomplete, 0);
    }
    // Request codes: the upper half is 1234, which is no protocol version.
    let kind = match read_u32(bytes, 4).map(|code| (code >> 16, code & 0xffff)) {
        Some((1234, 5678)) => StartupRequest::Cancel,
        Some((1234, 5679)) => StartupRequest::Ssl,
        Some((1234, 5680)) => StartupRequest::Gss,
        Some(_) => StartupRequest::Startup,
        None => StartupRequest::Invalid,
    };
    (kind, length)
}

/// A complete TLS record of type `handshake` that begins with a `ClientHello`.
fn client_hello(bytes: &[u8]) -> (StartupRequest, usize) {
    let major = bytes.get(1).is_none_or(|major| *major == 3);
    let kind = bytes.get(5).is_none_or(|kind| *kind == 1);
    let length = bytes.get(3..5).map(|two| 5 + (usize::from(two[0]) << 8 | usize::from(two[1])));
    if !major || !kind || length.is_some_and(|length| !(9..=MAX_HELLO).contains(&length)) {
        return (StartupRequest::Invalid, 0);
    }
    match length {
        Some(length) if bytes.len() >= length => (StartupRequest::ClientHello, length),
        _ => (StartupRequest::Incomplete, 0),
    }
}

/// A server's reply to a startup packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartupReply {
    /// More bytes are needed.
    Incomplete,
    /// The server does not accept connections now (SQLSTATE 57P03).
    NotNow,
    /// The server has accepted the client, or rejected it because of the client's request.
    Answer,
}

impl StartupReply {
    /// Parses the bytes received so far.
    pub fn of(mut bytes: &[u8]) -> Self {
        loop {
            let Some(kind) = bytes.first() else { return Self::Incomplete };
            // NegotiateProtocolVersion comes before the server checks its own state.
            if !matches!(kind, b'E' | b'v') {
                return Self::Answer;
            }
            let Some(length) = read_u32(bytes, 1) else { return Self::Incomplete };
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            if !(4..=MAX_ERROR).contains(&length) {
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

/// Builds a startup packet for that role and database.
pub fn startup_packet(role: &str, database: &str) -> Vec<u8> {
    let mut rest = 196_608_u32.to_be_bytes().to_vec();
    for text in ["user", role, "database", database, ""] {
        rest.extend_from_slice(text.as_bytes());
        rest.push(0);
    }
    let length = u32::try_from(rest.len() + 4).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], &rest].concat()
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}

/// For the fuzz target: checks the parsers with these bytes, as a client's and as a server's.
///
/// # Panics
/// If a property does not hold.
pub fn fuzz(bytes: &[u8]) {
    let (kind, length) = request(bytes);
    assert!(length <= bytes.len() && length <= MAX_HELLO, "{length} bytes");
    assert_eq!(length > 0, !matches!(kind, StartupRequest::Incomplete | StartupRequest::Invalid));
    let reply = StartupReply::of(bytes);
    // More bytes do not change a complete request or reply.
    let longer = [bytes, &[0x16, 0, b'E']].concat();
    if kind != StartupRequest::Incomplete {
        assert_eq!(request(&longer), (kind, length));
    }
    if reply != StartupReply::Incomplete {
        assert_eq!(StartupReply::of(&longer), reply);
    }
    assert!(
        kind != StartupRequest::Incomplete || bytes.len() < MAX_HELLO,
        "the client could be waited for without a bound"
    );
}

#[cfg(test)]
mod tests;
