//! Determines the primary that a standby follows: the one in `instance.json`, otherwise the one that
//! was followed last. Also evaluates what the peers' `/status` report about the primary.

use pgraft_core::NodeId;
use pgraft_core::instance_file::{FORMAT, InstanceFile};
use serde::Deserialize;

use crate::files::{self, FileError};
use crate::paths::Paths;
use crate::status::{ServerRole, Status, Upstream};

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// IO.
    #[error(transparent)]
    File(#[from] FileError),
    /// Invalid content. It is never guessed, so a primary is never taken for a standby or vice versa.
    #[error("could not parse {file}: {source}")]
    Syntax {
        /// Its name.
        file: &'static str,
        /// The error.
        source: serde_json::Error,
    },
    /// Written by another version.
    #[error(
        "instance.json has format {0}, but this version reads format {FORMAT}; run the version that wrote it"
    )]
    Format(u32),
    /// A copied or misplaced directory.
    #[error(
        "instance.json belongs to node {found}, but this is node {this}; use this node's own Raft directory"
    )]
    OtherNode {
        /// The node in the file.
        found: NodeId,
        /// `--node-id`.
        this: NodeId,
    },
}

/// The part that all formats have in common.
#[derive(Deserialize)]
struct Head {
    format: u32,
}

/// Reads `instance.json`; None if this node is not in a cluster yet.
pub fn instance_file(paths: &Paths, this: NodeId) -> Result<Option<InstanceFile>, UpstreamError> {
    let Some(bytes) = files::read_if_there(&paths.instance_file())? else { return Ok(None) };
    let syntax = |source| UpstreamError::Syntax { file: "instance.json", source };
    let Head { format } = serde_json::from_slice(&bytes).map_err(syntax)?;
    if format != FORMAT {
        return Err(UpstreamError::Format(format));
    }
    let file: InstanceFile = serde_json::from_slice(&bytes).map_err(syntax)?;
    if file.node_id == this {
        Ok(Some(file))
    } else {
        Err(UpstreamError::OtherNode { found: file.node_id, this })
    }
}

/// Removes the request for a rewind, which concerned the previous PGDATA. Must only be called while
/// no worker runs, because the worker owns the file.
pub fn forget_rewind(paths: &Paths, this: NodeId) -> Result<(), UpstreamError> {
    if let Some(file) = instance_file(paths, this)?.filter(|f| f.rewind.is_some()) {
        let file = InstanceFile { rewind: None, ..file };
        files::write_atomically(
            &paths.instance_file(),
            &serde_json::to_vec(&file).unwrap_or_default(),
        )?;
    }
    Ok(())
}

/// The primary that was followed last.
pub fn last(paths: &Paths) -> Result<Option<Upstream>, UpstreamError> {
    let Some(bytes) = files::read_if_there(&paths.upstream())? else { return Ok(None) };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|source| UpstreamError::Syntax { file: "upstream.json", source })
}

/// Saves the primary for a start without any reachable node. Returns whether the file changed.
pub fn remember(paths: &Paths, upstream: &Upstream) -> Result<bool, FileError> {
    files::write_atomically(&paths.upstream(), &serde_json::to_vec(upstream).unwrap_or_default())
}

/// The primary to follow. Never this node itself.
pub fn follow(
    this: NodeId,
    file: Option<&InstanceFile>,
    last: Option<Upstream>,
) -> Option<Upstream> {
    let named = file.and_then(|f| Some((f.primary?, f.primary_postgres())));
    match named {
        Some((primary, _)) if primary == this => None,
        Some((primary, Some(at))) => {
            Some(Upstream { node_id: primary, host: at.host().to_owned(), port: at.port() })
        }
        // The address of another, former primary is not used.
        Some((primary, None)) => last.filter(|u| u.node_id == primary),
        None => last.filter(|u| u.node_id != this),
    }
}

/// The primary that the peers report. A node that reports itself takes precedence, then the latest
/// epoch.
pub fn named_by_peers(this: NodeId, answers: &[Status]) -> Option<Upstream> {
    answers
        .iter()
        .filter_map(|status| Some((status, status.primary.as_ref().filter(|p| p.node_id != this)?)))
        .max_by_key(|(status, primary)| {
            let epoch = status.raft.as_ref().map_or(0, |r| r.epoch);
            (status.role == ServerRole::Primary && status.node_id == primary.node_id, epoch)
        })
        .map(|(_, primary)| primary.clone())
}

/// The servers to clone from, the best first. Never this node, and never the primary of an epoch
/// older than the one this node knows: a former primary lacks what was confirmed later.
pub fn sources(
    this: NodeId,
    file: Option<&InstanceFile>,
    last: Option<Upstream>,
    answers: &[Status],
) -> Vec<Upstream> {
    let named = follow(this, file, last);
    let mut all: Vec<Upstream> = match file.filter(|f| f.failover) {
        None => named_by_peers(this, answers).into_iter().chain(named).collect(),
        Some(InstanceFile { epoch: known, .. }) => {
            let claim = |status: &Status| {
                Some((
                    status.raft.as_ref()?.epoch,
                    status.primary.clone().filter(|p| p.node_id != this)?,
                ))
            };
            let mut claims: Vec<(u64, Upstream)> =
                answers.iter().filter_map(claim).chain(named.map(|u| (*known, u))).collect();
            claims.retain(|(epoch, _)| epoch >= known);
            claims.sort_by_key(|(epoch, _)| std::cmp::Reverse(*epoch));
            claims.into_iter().map(|(_, upstream)| upstream).collect()
        }
    };
    all.dedup();
    all
}

/// Whether any other node is already in a cluster. A bootstrap node then creates none.
pub fn cluster_among(this: NodeId, answers: &[Status]) -> bool {
    answers
        .iter()
        .filter(|s| s.node_id != this)
        .any(|s| s.primary.is_some() || s.raft.as_ref().is_some_and(|r| r.cluster_id.is_some()))
}

#[cfg(test)]
mod tests;
