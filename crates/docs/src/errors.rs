//! Every refusal of `pgraft-core`, as a caller receives it.

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
        examples.iter().map(|e| vec![e.sqlstate().to_owned(), e.to_string(), e.hint()]).collect();
    rows.sort_by_key(|row| (!row[0].starts_with("PGR"), row[0].clone()));
    Ok(Section {
        page: "errors.md",
        name: "refusals",
        text: table(&["SQLSTATE", "message", "HINT"], rows),
    })
}

fn examples() -> Result<Vec<Refusal>, Refusal> {
    let id = NodeId::new;
    let (two, three) = (id(2)?, id(3)?);
    let address = Address::new("10.0.0.2", 7001)?;
    let cluster = ClusterId(Uuid::from_u128(0x0198_c0de_0000_7000_8000_0000_0000_0001));
    let leader = Some((id(1)?, Address::new("10.0.0.1", 7001)?));
    Ok(vec![
        Refusal::BadNodeId(0),
        Refusal::BadAddress {
            host: "a b".into(),
            why: "it is neither a host name nor an IP address".into(),
        },
        Refusal::BadPort(70_000),
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
        Refusal::JoinUnderWay(three),
        Refusal::RemovalUnderWay(three),
        Refusal::HasCome(three),
        Refusal::IsPrimary(id(1)?),
        Refusal::NoMajorityLeft { node: two, alive: 1, voters: 2, required: 2 },
        Refusal::NoMajorityWith { node: two, alive: 2, voters: 4, required: 3 },
        Refusal::TooManyMembers(pgraft_core::MAX_MEMBERS),
        Refusal::NoQuorum { seconds: 10 },
        Refusal::StillUnderWay { seconds: 10 },
        Refusal::FailoverIsOff,
        Refusal::PrimaryChanging,
        Refusal::HasNoVote(three),
        Refusal::Unreachable(three),
        Refusal::Lags { node: three, bytes: 20_000_000 },
        Refusal::NothingToForce,
        Refusal::LosesData { node: two, unheard: vec![id(1)?, three] },
        Refusal::MovedOn,
        Refusal::Stopped("it is shutting down".into()),
        Refusal::NoWrites(Primary::Other { node: two, at: Some(Address::new("10.0.0.2", 5432)?) }),
        Refusal::NoReads(Primary::Nobody),
        Refusal::TooWeak("local".into()),
        Refusal::OurSetting("synchronous_standby_names".into()),
        Refusal::PromotedByHand,
    ])
}
