//! The PodDisruptionBudget: drains may take as many pods as the group can do without, and no more.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use pgraft_core::MAX_VOTERS;
use pgraft_core::membership::majority;
use std::collections::BTreeMap;

use super::metadata::metadata;
use crate::cluster::ClusterSpec;
use pgraft_api::names;

pub(super) fn pdb(want: &ClusterSpec, members: usize) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: metadata(want, names::budget(&want.name), names::labels(&want.name)),
        spec: Some(PodDisruptionBudgetSpec {
            min_available: Some(IntOrString::Int(
                i32::try_from(min_available(want.replicas, members)).unwrap_or(i32::MAX),
            )),
            selector: Some(LabelSelector {
                match_labels: Some(BTreeMap::from([(
                    names::LABEL_CLUSTER.to_owned(),
                    want.name.clone(),
                )])),
                ..LabelSelector::default()
            }),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}

/// While the cluster grows or shrinks the larger of the two sizes counts. Whoever is evicted may be
/// a voter, so the minority of the voters is what can be spared, however many followers without a
/// vote there are.
fn min_available(replicas: usize, members: usize) -> usize {
    let pods = replicas.max(members);
    let voters = pods.min(MAX_VOTERS);
    pods - (voters - majority(voters))
}

#[cfg(test)]
mod tests {
    use super::min_available;

    #[test]
    fn a_majority_of_the_voters_stays() {
        assert_eq!([1, 2, 3, 4, 5, 6, 7].map(|n| min_available(n, 0)), [1, 2, 2, 3, 3, 4, 4]);
        assert_eq!(min_available(3, 5), 3, "shrinking");
        assert_eq!(min_available(9, 9), 6, "of nine pods seven vote, and four of these must stay");
    }
}
