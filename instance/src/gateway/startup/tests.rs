//! Tables of what clients and servers say first, and what holds for any bytes.

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
fn what_a_client_asks_for() {
    let startup = startup_packet("app", "app");
    let all = startup.len();
    for (bytes, want) in [
        (&b""[..], (Request::Incomplete, 0)),
        (&[0], (Request::Incomplete, 0)),
        (&startup[..7], (Request::Incomplete, 0)),
        (&startup[..all - 1], (Request::Incomplete, 0)),
        (&startup, (Request::Startup, all)),
        (&[&startup[..], b"p"].concat(), (Request::Startup, all)),
        // Versions that no server knows are the server's to refuse: 3.2, 2.0.
        (&packet_of(196_610, b"\0"), (Request::Startup, 9)),
        (&packet_of(131_072, b""), (Request::Startup, 8)),
        (&SSL_REQUEST, (Request::Ssl, 8)),
        (&packet_of(80_877_104, b""), (Request::Gss, 8)),
        (&packet_of(80_877_102, b"12345678"), (Request::Cancel, 16)),
        (&packet_of(196_608, &[0; 9_996]), (Request::Startup, 10_004)),
        (&packet_of(196_608, &[0; 9_997]), (Request::Invalid, 0)),
        (b"GET / HTTP/1.1\r\n", (Request::Invalid, 0)),
        (b"SSH-2.0-x", (Request::Invalid, 0)),
        (&[0, 0, 0, 4, 0, 0, 0, 0], (Request::Invalid, 0)),
        (&[0, 0, 0, 0], (Request::Invalid, 0)),
        (&[0x16], (Request::Incomplete, 0)),
        (&hello(300)[..200], (Request::Incomplete, 0)),
        (&hello(300), (Request::ClientHello, 305)),
        (&hello(1 << 14), (Request::ClientHello, LONGEST_HELLO)),
        (&hello((1 << 14) + 1), (Request::Invalid, 0)),
        (&[0x16, 2, 0], (Request::Invalid, 0)),
        (&[0x16, 3, 1, 0, 9, 2], (Request::Invalid, 0)),
    ] {
        assert_eq!(request(bytes), want, "{bytes:?}");
    }
}

#[test]
fn whether_a_server_has_taken_a_client() {
    let password = message(b'R', &[0, 0, 0, 10, b'x', 0, 0]);
    let negotiated = message(b'v', &[0, 3, 0, 0, 0, 0, 0, 0]);
    let starting = error("57P03", "the database system is starting up");
    for (bytes, want) in [
        (vec![], Reply::Incomplete),
        (password.clone(), Reply::Answer),
        (b"R".to_vec(), Reply::Answer),
        (starting.clone(), Reply::NotNow),
        (error("57P03", "the database system is in recovery mode"), Reply::NotNow),
        (error("57P03", "the database system is shutting down"), Reply::NotNow),
        (starting[..20].to_vec(), Reply::Incomplete),
        (starting[..3].to_vec(), Reply::Incomplete),
        ([&negotiated[..], &starting].concat(), Reply::NotNow),
        ([&negotiated[..], &password].concat(), Reply::Answer),
        (negotiated, Reply::Incomplete),
        (error("53300", "sorry, too many clients already"), Reply::Answer),
        (error("28000", "no pg_hba.conf entry: C57P03"), Reply::Answer),
        (error("3D000", "database \"57P03\" does not exist"), Reply::Answer),
        // As Postgres answers to protocol 2.0: no length.
        (b"EFATAL:  unsupported frontend protocol 2.0\n\0".to_vec(), Reply::Answer),
        (message(b'N', b"SNOTICE\0C57P03\0\0"), Reply::Answer),
    ] {
        assert_eq!(Reply::of(&bytes), want, "{bytes:?}");
    }
}

/// What a client might send, right but for a few bytes.
fn nearly_right() -> impl Strategy<Value = Vec<u8>> {
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
    fn any_bytes_are_bounded_and_read_the_same_however_they_arrive(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        fuzz(&bytes);
    }

    #[test]
    fn so_are_those_that_are_nearly_right(bytes in nearly_right()) {
        fuzz(&bytes);
        // Byte by byte, the first decision is the one that all of them lead to.
        let first = (0..=bytes.len()).map(|n| request(&bytes[..n])).find(|(kind, _)| *kind != Request::Incomplete);
        prop_assert_eq!(first.map_or(Request::Incomplete, |(kind, _)| kind), request(&bytes).0);
        let first = (0..=bytes.len()).map(|n| Reply::of(&bytes[..n])).find(|reply| *reply != Reply::Incomplete);
        prop_assert_eq!(first.unwrap_or(Reply::Incomplete), Reply::of(&bytes));
    }
}
