//! Tables of requests and replies, and properties that hold for any bytes.

use super::*;
use proptest::prelude::*;

fn packet_of(code: u32, rest: &[u8]) -> Vec<u8> {
    let length = u32::try_from(rest.len() + 8).unwrap();
    [&length.to_be_bytes()[..], &code.to_be_bytes(), rest].concat()
}

/// A message of the server.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind][..], &u32::try_from(body.len() + 4).unwrap().to_be_bytes(), body].concat()
}

fn error(sqlstate: &str, text: &str) -> Vec<u8> {
    message(
        b'E',
        format!("SFATAL\0VFATAL\0C{sqlstate}\0M{text}\0Fbackend_startup.c\0\0").as_bytes(),
    )
}

fn hello(length: u16) -> Vec<u8> {
    let mut bytes = vec![0x16, 3, 1];
    bytes.extend(length.to_be_bytes());
    bytes.push(1);
    bytes.resize(5 + usize::from(length), 7);
    bytes
}

#[test]
fn requests_are_parsed() {
    let startup = startup_packet("app", "app");
    let all = startup.len();
    for (bytes, want) in [
        (&b""[..], (StartupRequest::Incomplete, 0)),
        (&[0], (StartupRequest::Incomplete, 0)),
        (&startup[..7], (StartupRequest::Incomplete, 0)),
        (&startup[..all - 1], (StartupRequest::Incomplete, 0)),
        (&startup, (StartupRequest::Startup, all)),
        (&[&startup[..], b"p"].concat(), (StartupRequest::Startup, all)),
        // The server itself refuses unknown protocol versions: 3.2, 2.0.
        (&packet_of(196_610, b"\0"), (StartupRequest::Startup, 9)),
        (&packet_of(131_072, b""), (StartupRequest::Startup, 8)),
        (&SSL_REQUEST, (StartupRequest::Ssl, 8)),
        (&packet_of(80_877_104, b""), (StartupRequest::Gss, 8)),
        (&packet_of(80_877_102, b"12345678"), (StartupRequest::Cancel, 16)),
        (&packet_of(196_608, &[0; 9_996]), (StartupRequest::Startup, 10_004)),
        (&packet_of(196_608, &[0; 9_997]), (StartupRequest::Invalid, 0)),
        (b"GET / HTTP/1.1\r\n", (StartupRequest::Invalid, 0)),
        (b"SSH-2.0-x", (StartupRequest::Invalid, 0)),
        (&[0, 0, 0, 4, 0, 0, 0, 0], (StartupRequest::Invalid, 0)),
        (&[0, 0, 0, 0], (StartupRequest::Invalid, 0)),
        (&[0x16], (StartupRequest::Incomplete, 0)),
        (&hello(300)[..200], (StartupRequest::Incomplete, 0)),
        (&hello(300), (StartupRequest::ClientHello, 305)),
        (&hello(1 << 14), (StartupRequest::ClientHello, MAX_HELLO)),
        (&hello((1 << 14) + 1), (StartupRequest::Invalid, 0)),
        (&[0x16, 2, 0], (StartupRequest::Invalid, 0)),
        (&[0x16, 3, 1, 0, 9, 2], (StartupRequest::Invalid, 0)),
    ] {
        assert_eq!(request(bytes), want, "{bytes:?}");
    }
}

#[test]
fn replies_are_parsed() {
    let password = message(b'R', &[0, 0, 0, 10, b'x', 0, 0]);
    let negotiated = message(b'v', &[0, 3, 0, 0, 0, 0, 0, 0]);
    let starting = error("57P03", "the database system is starting up");
    for (bytes, want) in [
        (vec![], StartupReply::Incomplete),
        (password.clone(), StartupReply::Answer),
        (b"R".to_vec(), StartupReply::Answer),
        (starting.clone(), StartupReply::NotNow),
        (error("57P03", "the database system is in recovery mode"), StartupReply::NotNow),
        (error("57P03", "the database system is shutting down"), StartupReply::NotNow),
        (starting[..20].to_vec(), StartupReply::Incomplete),
        (starting[..3].to_vec(), StartupReply::Incomplete),
        ([&negotiated[..], &starting].concat(), StartupReply::NotNow),
        ([&negotiated[..], &password].concat(), StartupReply::Answer),
        (negotiated, StartupReply::Incomplete),
        (error("53300", "sorry, too many clients already"), StartupReply::Answer),
        (error("28000", "no pg_hba.conf entry: C57P03"), StartupReply::Answer),
        (error("3D000", "database \"57P03\" does not exist"), StartupReply::Answer),
        // The reply to protocol 2.0 has no length.
        (b"EFATAL:  unsupported frontend protocol 2.0\n\0".to_vec(), StartupReply::Answer),
        (message(b'N', b"SNOTICE\0C57P03\0\0"), StartupReply::Answer),
    ] {
        assert_eq!(StartupReply::of(&bytes), want, "{bytes:?}");
    }
}

/// Valid messages with a few changed bytes.
fn nearly_valid() -> impl Strategy<Value = Vec<u8>> {
    let examples = vec![
        startup_packet("app", "app"),
        SSL_REQUEST.to_vec(),
        hello(64),
        error("57P03", "no"),
        message(b'v', &[0; 8]),
    ];
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (prop::sample::select(examples), changes, any::<prop::sample::Index>()).prop_map(
        |(mut bytes, changes, cut)| {
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            bytes.truncate(cut.index(bytes.len() + 1));
            bytes
        },
    )
}

proptest! {
    #[test]
    fn any_bytes_are_bounded_and_parsed_incrementally(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        fuzz(&bytes);
    }

    #[test]
    fn nearly_valid_bytes_are_bounded_and_parsed_incrementally(bytes in nearly_valid()) {
        fuzz(&bytes);
        // The first decision, byte by byte, is the decision on all bytes.
        let first = (0..=bytes.len()).map(|n| request(&bytes[..n])).find(|(kind, _)| *kind != StartupRequest::Incomplete);
        prop_assert_eq!(first.map_or(StartupRequest::Incomplete, |(kind, _)| kind), request(&bytes).0);
        let first = (0..=bytes.len()).map(|n| StartupReply::of(&bytes[..n])).find(|reply| *reply != StartupReply::Incomplete);
        prop_assert_eq!(first.unwrap_or(StartupReply::Incomplete), StartupReply::of(&bytes));
    }
}
