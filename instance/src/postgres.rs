//! One Postgres server: its files, its making, its processes and its log.

pub mod clone;
pub mod config;
pub mod external;
pub mod initdb;
pub mod leftovers;
pub mod log;
pub mod placeholders;
pub mod process;
pub mod replacement;
pub mod rewind;
pub mod source;
pub mod wal_space;
