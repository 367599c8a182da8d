//! The ways to a member: SQL sessions, and the HTTP endpoints of its instance manager.

pub mod http;
pub mod sessions;
pub mod sql;
