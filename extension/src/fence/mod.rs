//! The fence: what keeps a server that is not the primary, or no longer, from confirming writes and from showing what may be out of date.

pub mod gate;
