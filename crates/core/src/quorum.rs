//! Majorities, and how large a cluster can be.

/// The maximum of voters. More of them make every commit slower without making it safer; nodes that
/// join beyond it stay learners.
pub const MAX_VOTERS: usize = 7;

/// The maximum of members, learners included. The extension's shared memory has room for that many.
pub const MAX_MEMBERS: usize = 64;

/// How many of `voters` must agree.
pub const fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_majorities_always_overlap() {
        assert_eq!([0, 1, 2, 3, 4, 5, 7].map(majority), [1, 1, 2, 2, 3, 3, 4]);
        for voters in 1..=MAX_VOTERS {
            assert!(2 * majority(voters) > voters && majority(voters) <= voters);
        }
    }
}
