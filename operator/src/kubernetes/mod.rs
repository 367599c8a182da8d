//! Single objects of the API server: their metadata, and how they are written. Knows nothing about
//! clusters beyond the owner of an object.

pub mod error;
pub mod metadata;
pub mod writer;

pub use error::{ObjectError, is_conflict, is_gone};
pub use metadata::ObjectFact;
pub use writer::ObjectWriter;
