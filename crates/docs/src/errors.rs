//! Every refusal of `pgraft-core`, as a caller receives it.

use pgraft_core::address::InvalidAddress;
use pgraft_core::id::InvalidNodeId;
use pgraft_core::refusal::RefusalKind;
use pgraft_core::{Address, ClusterId, NodeId, Primary, Refusal};
use strum::IntoEnumIterator;
use uuid::Uuid;

use crate::section::{Section, table};

/// The section of `errors.md`.
///
/// # Errors
/// A refusal has no example here.
pub fn section() -> Result<Section, String> {
    let examples = examples().map_err(|e| e.to_string())?;
    if let Some(missing) =
        RefusalKind::iter().find(|kind| !examples.iter().any(|e| RefusalKind::from(e) == *kind))
    {
        return Err(format!("crates/docs/src/errors.rs has no example of Refusal::{missing:?}"));
    }
    let mut rows: Vec<_> =
        examples.iter().map(|e| vec![e.sqlstate().to_string(), e.to_string(), e.hint()]).collect();
    rows.sort_by_key(|row| (!row[0].starts_with("PGR"), row[0].clone()));
    Ok(Section {
        page: "errors.md",
        name: "refusals",
        text: table(&["SQLSTATE", "message", "HINT"], rows),
    })
}

fn examples() -> Result<Vec<Refusal>, Refusal> {
    let id = |n| NodeId::new(n).map_err(Refusal::from);
    let at = |host, port| Address::new(host, port).map_err(Refusal::from);
    let (two, three) = (id(2)?, id(3)?);
    let address = at("10.0.0.2", 7001)?;
    let cluster = ClusterId(Uuid::from_u128(0x0198_c0de_0000_7000_8000_0000_0000_0001));
    let leader = Some((id(1)?, at("10.0.0.1", 7001)?));
    Ok(vec![
        InvalidNodeId(0).into(),
        InvalidAddress::EmptyHost.into(),
        InvalidAddress::HostTooLong("db4.example".into()).into(),
        InvalidAddress::Host("a b".into()).into(),
        InvalidAddress::Port(70_000).into(),
        Refusal::Unresolvable("db4.example".into()),
        Refusal::AlreadyInitialized(cluster),
        Refusal::NotInitialized,
        Refusal::AddOnFollower { leader: leader.clone() },
        Refusal::RemoveOnFollower { leader: leader.clone() },
        Refusal::SetAddressOnFollower { leader: leader.clone() },
        Refusal::ForceOnFollower { leader },
        Refusal::OtherAddress { node: two, at: address.clone() },
        Refusal::AddressTaken { address, node: two },
        Refusal::IdRetired(three),
        Refusal::OtherDirectory(three),
        Refusal::UnknownNode(id(8)?),
        Refusal::JoinInProgress(three),
        Refusal::RemovalInProgress(three),
        Refusal::AlreadyJoined(three),
        Refusal::IsPrimary(id(1)?),
        Refusal::NoMajorityLeft { node: two, alive: 1, voters: 2, required: 2 },
        Refusal::NoMajorityWith { node: two, alive: 2, voters: 4, required: 3 },
        Refusal::TooManyMembers(pgraft_core::MAX_MEMBERS),
        Refusal::NoQuorum { seconds: 10 },
        Refusal::NotComplete { seconds: 10 },
        Refusal::FailoverIsOff,
        Refusal::PrimaryChanging,
        Refusal::HasNoVote(three),
        Refusal::Unreachable(three),
        Refusal::Lags { node: three, bytes: 20_000_000 },
        Refusal::PrimaryExists,
        Refusal::LosesData { node: two, missing: vec![id(1)?, three] },
        Refusal::OutdatedCommand,
        Refusal::Stopped("it is shutting down".into()),
        Refusal::NoWrites(Primary::Other { node: two, at: Some(at("10.0.0.2", 5432)?) }),
        Refusal::NoReads(Primary::Unknown),
        Refusal::NotDurable("local".into()),
        Refusal::ManagedSetting("synchronous_standby_names".into()),
        Refusal::ManualPromotion,
    ])
}
