//! The API that users write: `PgRaftCluster`, its status, and the CRD that is generated from both.
//!
//! Types only; the operator validates and interprets them. Rules that OpenAPI or CEL can express are
//! here, so that the API server refuses an invalid object with a clear message.

mod crd;
mod gateway;
mod metadata;
mod parts;
mod spec;
mod standby;
mod status;
mod tls;

pub use crd::{crd, crd_yaml};
pub use gateway::GatewaySpec;
pub use metadata::{AnnotationValue, InheritedMetadata, LabelValue};
pub use parts::{
    BootstrapSpec, FailoverSpec, InitdbSpec, LocalObjectReference, PostgresqlSpec, PullPolicy,
    RaftSpec, ReadWrite, RetentionPolicy, ServicesSpec, StorageSpec, SwitchoverSpec,
    VolumeRetention,
};
pub use pgraft_core::Role;
pub use spec::{PgRaftCluster, PgRaftClusterSpec};
pub use standby::StandbySpec;
pub use status::{
    ClusterMemberStatus, FailoverReason, LastFailoverStatus, PgRaftClusterStatus, QuorumStatus,
    SwitchoverStatus,
};
pub use tls::{TlsMode, TlsSpec};
