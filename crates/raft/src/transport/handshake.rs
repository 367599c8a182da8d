//! Who may talk to whom. `admit` decides, on both ends' words alone; the rest carries it out.

use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use pgraft_core::{ClusterId, ClusterState, InstanceId, NodeId};
use serde::{Deserialize, Serialize};

use super::PROTOCOL_VERSION;
use crate::identity::{Belonging, Identity};

/// The dialler's first frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub version: u32,
    pub cluster: ClusterId,
    pub from: NodeId,
    /// Whom it means to reach.
    pub to: NodeId,
    /// The directory that the cluster knows under that id; None when the node has not told it yet.
    pub to_instance: Option<InstanceId>,
    /// The dialler's own directory.
    pub from_instance: InstanceId,
}

/// The listener's first frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Welcome {
    Accepted,
    Refused { why: String },
}

/// Why a connection is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    #[error("it speaks protocol version {0}, and this node speaks {PROTOCOL_VERSION}")]
    Version(u32),
    #[error("it looks for node {wanted}, and this is node {found}")]
    OtherNode { wanted: NodeId, found: NodeId },
    #[error("it is of cluster {theirs}, and this node is of cluster {ours}")]
    OtherCluster { theirs: ClusterId, ours: ClusterId },
    #[error(
        "this is not the directory that the cluster knows as node {0}: a node that has lost its pgraft.data_dir comes back under a new node id \
         (pgraft_remove_node({0}) on the leader, then pgraft_add_node with an id that was never used)"
    )]
    OtherDirectory(NodeId),
    #[error("node {0} was removed from this cluster")]
    Removed(NodeId),
    #[error(
        "it calls itself node {0}, but its directory is another one than the cluster knows: it must come back under a new node id"
    )]
    Impostor(NodeId),
    #[error("it calls itself node {from}, and {why}")]
    OtherCertificate { from: NodeId, why: String },
}

/// What a listener does with a hello that it accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeAdmission {
    /// Go on.
    Welcome,
    /// Go on, and belong to this cluster from now on.
    Adopt(ClusterId),
}

/// Decides about a connection, by what this node has applied so far.
pub fn admit(
    me: &Identity,
    state: &ClusterState,
    hello: &Hello,
) -> Result<HandshakeAdmission, Rejected> {
    if hello.version != PROTOCOL_VERSION {
        return Err(Rejected::Version(hello.version));
    }
    if hello.to != me.node_id {
        return Err(Rejected::OtherNode { wanted: hello.to, found: me.node_id });
    }
    match me.cluster_id() {
        Some(ours) if ours != hello.cluster => {
            return Err(Rejected::OtherCluster { theirs: hello.cluster, ours });
        }
        _ => {}
    }
    // An empty or copied directory under a known id could vote a second time.
    if hello.to_instance.is_some_and(|known| known != me.instance) {
        return Err(Rejected::OtherDirectory(me.node_id));
    }
    if state.retired.contains(&hello.from) {
        return Err(Rejected::Removed(hello.from));
    }
    let known = state.members.get(&hello.from).and_then(|m| m.info.as_ref());
    if known.is_some_and(|told| told.instance != hello.from_instance) {
        return Err(Rejected::Impostor(hello.from));
    }
    Ok(if me.cluster.is_none() {
        HandshakeAdmission::Adopt(hello.cluster)
    } else {
        HandshakeAdmission::Welcome
    })
}

/// This member's own identity, shared by all its connections.
pub struct Local {
    dir: PathBuf,
    identity: Mutex<Identity>,
}

impl Local {
    pub fn new(dir: PathBuf, identity: Identity) -> Self {
        Self { dir, identity: Mutex::new(identity) }
    }

    pub fn identity(&self) -> Identity {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes a cluster of this directory, on disk first, unless it belongs to one: then that one is
    /// the answer.
    pub fn found(&self, new: ClusterId) -> io::Result<Belonging> {
        let mut identity = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(belonging) = identity.cluster {
            return Ok(belonging);
        }
        let belonging = Belonging { id: new, bootstrapped_here: true };
        identity.join(&self.dir, belonging)?;
        Ok(belonging)
    }

    /// Answers a hello: decides, and adopts the cluster where that is the decision, in one step.
    pub fn answer(&self, state: &ClusterState, hello: &Hello) -> io::Result<Result<(), Rejected>> {
        let mut identity = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        match admit(&identity, state, hello) {
            Ok(HandshakeAdmission::Welcome) => Ok(Ok(())),
            Ok(HandshakeAdmission::Adopt(cluster)) => {
                identity.join(&self.dir, Belonging { id: cluster, bootstrapped_here: false })?;
                tracing::info!("adopted by cluster {cluster}, whose node {} called", hello.from);
                Ok(Ok(()))
            }
            Err(no) => Ok(Err(no)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgraft_core::{Address, Command};
    use uuid::Uuid;

    fn cluster(n: u128) -> ClusterId {
        ClusterId(Uuid::from_u128(n))
    }

    #[test]
    fn who_is_admitted() {
        let (one, two) = (NodeId::new(1).unwrap(), NodeId::new(2).unwrap());
        let dir = tempfile::tempdir().unwrap();
        let mut me = Identity::open(dir.path(), two).unwrap();
        let instance = |n| InstanceId(Uuid::from_u128(n));
        let hello = Hello {
            version: PROTOCOL_VERSION,
            cluster: cluster(7),
            from: one,
            to: two,
            to_instance: None,
            from_instance: instance(1),
        };
        let empty = ClusterState::default();

        assert_eq!(admit(&me, &empty, &hello), Ok(HandshakeAdmission::Adopt(cluster(7))));
        let unknown = Hello { to_instance: Some(instance(9)), ..hello.clone() };
        assert_eq!(admit(&me, &empty, &unknown), Err(Rejected::OtherDirectory(two)));

        me.join(dir.path(), Belonging { id: cluster(7), bootstrapped_here: false }).unwrap();
        assert!(
            me.join(dir.path(), Belonging { id: cluster(8), bootstrapped_here: false }).is_err()
        );
        assert_eq!(admit(&me, &empty, &hello), Ok(HandshakeAdmission::Welcome));
        assert_eq!(
            admit(&me, &empty, &Hello { to_instance: Some(me.instance), ..hello.clone() }),
            Ok(HandshakeAdmission::Welcome)
        );
        assert_eq!(
            admit(&me, &empty, &Hello { version: 2, ..hello.clone() }),
            Err(Rejected::Version(2))
        );
        assert!(matches!(
            admit(&me, &empty, &Hello { to: one, ..hello.clone() }),
            Err(Rejected::OtherNode { .. })
        ));
        assert!(matches!(
            admit(&me, &empty, &Hello { cluster: cluster(8), ..hello.clone() }),
            Err(Rejected::OtherCluster { .. })
        ));

        // What this node has applied says who the dialler is.
        let mut state = ClusterState::default();
        let at = Address::new("n1", 7001).unwrap();
        state
            .apply(&Command::Init { cluster: cluster(7), node: one, address: at.clone() })
            .unwrap();
        let told = Command::Register {
            node: one,
            instance: instance(1),
            postgres: at,
            zone: String::new(),
        };
        state.apply(&told).unwrap();
        assert_eq!(admit(&me, &state, &hello), Ok(HandshakeAdmission::Welcome));
        assert_eq!(
            admit(&me, &state, &Hello { from_instance: instance(2), ..hello.clone() }),
            Err(Rejected::Impostor(one))
        );
        state.retired.insert(one);
        assert_eq!(admit(&me, &state, &hello), Err(Rejected::Removed(one)));
    }
}
