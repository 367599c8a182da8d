//! Whose directory this is: `identity.json`, written when the directory is first used and checked
//! at every start. It is what keeps one identity from living twice.

use std::io;
use std::path::{Path, PathBuf};

use pgraft_core::{ClusterId, InstanceId, NodeId};
use serde::{Deserialize, Serialize};

use crate::files;
use crate::machine::new_uuid;

const FILE_NAME: &str = "identity.json";
const FORMAT: u32 = 1;

/// A member's identity, as it stands on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    format: u32,
    /// Whose directory it is.
    pub node_id: NodeId,
    /// Made at random with the directory.
    pub instance: InstanceId,
    /// None until the node is in a cluster; never changes after that.
    pub cluster: Option<Belonging>,
    /// Whether there is a `failover.json`: what it says must never be forgotten.
    #[serde(default)]
    pub promises: bool,
}

/// Which cluster a directory belongs to, and how it came there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Belonging {
    /// The cluster.
    pub id: ClusterId,
    /// Whether `pgraft_init()` made it here: a node that a leader has called may never make a
    /// second group under the same cluster id.
    pub bootstrapped_here: bool,
}

/// Why a directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// It could not be read or written.
    #[error("can't use pgraft.data_dir {path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It belongs to another node.
    #[error(
        "pgraft.data_dir {path} belongs to node {found}, but pgraft.node_id is {wanted}: give every node a directory of its own"
    )]
    OtherNode {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        found: NodeId,
        /// Who wants to use it.
        wanted: NodeId,
    },
    /// It was written by a version that this one does not know.
    #[error(
        "can't read pgraft.data_dir {path}: {what}. Nothing was changed: start the version of pgraft that wrote it"
    )]
    Format {
        /// The directory.
        path: PathBuf,
        /// What it has.
        what: String,
    },
    /// Nobody can say whose directory it is: the file is damaged, or gone from beside a log.
    #[error(
        "the identity in pgraft.data_dir {path} is damaged or gone: {what}. Nothing was changed. This node can't come back under its old id: \
         remove it on the leader with pgraft_remove_node, and add a new node with an empty directory and a new id"
    )]
    Damaged {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

impl Identity {
    /// Reads the directory's identity, or gives a new directory one.
    pub fn open(dir: &Path, node_id: NodeId) -> Result<Self, IdentityError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| IdentityError::Io { path, source }
        };
        files::make_directory(dir).map_err(io(dir))?;
        let path = dir.join(FILE_NAME);
        let unreadable = |source: io::Error| match source.kind() {
            io::ErrorKind::Unsupported => {
                IdentityError::Format { path: dir.to_owned(), what: source.to_string() }
            }
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                IdentityError::Damaged { path: dir.to_owned(), what: source.to_string() }
            }
            _ => IdentityError::Io { path: path.clone(), source },
        };
        match files::read(&path)
            .and_then(|found| found.map(|bytes| Self::parse(&bytes)).transpose())
            .map_err(unreadable)?
        {
            Some(found) if found.node_id != node_id => Err(IdentityError::OtherNode {
                path: dir.to_owned(),
                found: found.node_id,
                wanted: node_id,
            }),
            Some(found) => Ok(found),
            // A log without an identity is a member's that has lost a file: a new identity would
            // pass it off as a newcomer.
            None if files::exists(&dir.join("log")) => Err(IdentityError::Damaged {
                path: dir.to_owned(),
                what: format!("there is a log and no {FILE_NAME}"),
            }),
            None => {
                let new = Self {
                    format: FORMAT,
                    node_id,
                    instance: InstanceId(new_uuid()),
                    cluster: None,
                    promises: false,
                };
                files::replace_json(&path, &new).map_err(io(&path))?;
                Ok(new)
            }
        }
    }

    /// What `identity.json` says.
    pub(crate) fn parse(bytes: &[u8]) -> io::Result<Self> {
        files::versioned(bytes, FILE_NAME, FORMAT)
    }

    /// The cluster that the directory belongs to.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.cluster.map(|c| c.id)
    }

    /// From now on there is a `failover.json`.
    pub fn promise(&mut self, dir: &Path) -> io::Result<()> {
        if !self.promises {
            let promising = Self { promises: true, ..self.clone() };
            files::replace_json(&dir.join(FILE_NAME), &promising)?;
            *self = promising;
        }
        Ok(())
    }

    /// Binds the directory to a cluster, on disk first. For life: another cluster than the one that
    /// it belongs to is refused.
    pub fn join(&mut self, dir: &Path, cluster: Belonging) -> io::Result<()> {
        if self.cluster.is_some_and(|c| c.id != cluster.id) {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "this directory belongs to another cluster",
            ));
        }
        let joined = Self { cluster: Some(cluster), ..self.clone() };
        files::replace_json(&dir.join(FILE_NAME), &joined)?;
        *self = joined;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn an_identity_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (NodeId::new(1).unwrap(), NodeId::new(2).unwrap());
        let mut first = Identity::open(dir.path(), one).unwrap();
        assert_eq!(Identity::open(dir.path(), one).unwrap(), first);
        first
            .join(dir.path(), Belonging { id: ClusterId(Uuid::nil()), bootstrapped_here: true })
            .unwrap();
        assert_eq!(Identity::open(dir.path(), one).unwrap(), first);
        let error = Identity::open(dir.path(), two).unwrap_err();
        assert!(matches!(error, IdentityError::OtherNode { .. }), "{error}");
    }
}
