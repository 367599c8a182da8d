//! Who may talk to whom. `admit` decides, on both ends' words alone; the rest carries it out.

use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use pgraft_core::{ClusterId, InstanceId, NodeId};
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
}

/// What a listener does with a hello that it accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Go on.
    Welcome,
    /// Go on, and belong to this cluster from now on.
    Adopt(ClusterId),
}

/// Decides about a connection.
pub fn admit(me: &Identity, hello: &Hello) -> Result<Admission, Rejected> {
    if hello.version != PROTOCOL_VERSION {
        return Err(Rejected::Version(hello.version));
    }
    if hello.to != me.node_id {
        return Err(Rejected::OtherNode { wanted: hello.to, found: me.node_id });
    }
    match me.cluster_id() {
        Some(ours) if ours != hello.cluster => return Err(Rejected::OtherCluster { theirs: hello.cluster, ours }),
        _ => {}
    }
    // An empty or copied directory under a known id could vote a second time.
    if hello.to_instance.is_some_and(|known| known != me.instance) {
        return Err(Rejected::OtherDirectory(me.node_id));
    }
    Ok(if me.cluster.is_none() { Admission::Adopt(hello.cluster) } else { Admission::Welcome })
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

    /// Belongs to the cluster from now on, on disk first.
    pub fn join(&self, cluster: Belonging) -> io::Result<()> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).join(&self.dir, cluster)
    }

    /// Answers a hello: decides, and adopts the cluster where that is the decision.
    pub fn answer(&self, hello: &Hello) -> io::Result<Result<(), Rejected>> {
        match admit(&self.identity(), hello) {
            Ok(Admission::Welcome) => Ok(Ok(())),
            Ok(Admission::Adopt(cluster)) => {
                self.join(Belonging { id: cluster, founded_here: false })?;
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
    use uuid::Uuid;

    fn cluster(n: u128) -> ClusterId {
        ClusterId(Uuid::from_u128(n))
    }

    #[test]
    fn who_is_admitted() {
        let (one, two) = (NodeId::new(1).unwrap(), NodeId::new(2).unwrap());
        let dir = tempfile::tempdir().unwrap();
        let mut me = Identity::open(dir.path(), two).unwrap();
        let hello = Hello { version: PROTOCOL_VERSION, cluster: cluster(7), from: one, to: two, to_instance: None };

        assert_eq!(admit(&me, &hello), Ok(Admission::Adopt(cluster(7))));
        let unknown = Hello { to_instance: Some(InstanceId(Uuid::from_u128(1))), ..hello.clone() };
        assert_eq!(admit(&me, &unknown), Err(Rejected::OtherDirectory(two)));

        me.join(dir.path(), Belonging { id: cluster(7), founded_here: false }).unwrap();
        assert_eq!(admit(&me, &hello), Ok(Admission::Welcome));
        assert_eq!(admit(&me, &Hello { to_instance: Some(me.instance), ..hello.clone() }), Ok(Admission::Welcome));
        assert_eq!(admit(&me, &Hello { version: 2, ..hello.clone() }), Err(Rejected::Version(2)));
        assert!(matches!(admit(&me, &Hello { to: one, ..hello.clone() }), Err(Rejected::OtherNode { .. })));
        assert!(matches!(admit(&me, &Hello { cluster: cluster(8), ..hello }), Err(Rejected::OtherCluster { .. })));
    }
}
