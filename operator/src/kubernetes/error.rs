//! Why an object could not be read or written.

/// Why an object could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// The API server refused the request, or could not be reached.
    #[error("could not {what}: {}", message(source))]
    Kube {
        /// The attempted operation, such as `apply Service demo-rw`.
        what: String,
        /// The client's error.
        source: kube::Error,
    },
    /// An object of another owner has the name.
    #[error(
        "{what} exists and does not belong to PgRaftCluster {cluster}; it is left unchanged: rename or delete it, or choose another name for the cluster"
    )]
    Foreign {
        /// Its kind and name.
        what: String,
        /// The cluster that needs the name.
        cluster: String,
    },
    /// The object has changed since it was observed, so the decision is out of date.
    #[error("{0} has changed since it was observed")]
    Changed(String),
}

impl ObjectError {
    /// Adds the attempted operation to an error of the client.
    pub fn kube(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |source| Self::Kube { what, source }
    }
}

/// The API server's own message if it answered.
fn message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Whether the object does not exist.
pub fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Whether the request conflicts with the object's current state.
pub fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}
