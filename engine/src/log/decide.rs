//! What a restart does with the bytes it finds, as a table.
//!
//! | bytes here | something vouches for what lies here or behind | decision |
//! | --- | --- | --- |
//! | a group that continues the chain | any | take it |
//! | zeros to the end of the file | no | clean end: go on in this segment |
//! | zeros to the end of the file | yes | damage: acknowledged data is gone |
//! | anything else | no | torn tail: seal the segment here, go on in a new one |
//! | anything else | yes | damage: report, keep what verifies, go on at the next valid group, new writes go to a new segment |
//!
//! What can vouch: a later valid group of the same segment, a later segment, the manifest's durable mark.

/// What was found at a place where a group should start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Here {
    /// A group that verifies and continues the chain.
    Group,
    /// Nothing but zeros up to the end of the file, or the end of the file.
    Zeros,
    /// Something else.
    Other,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decision {
    Take,
    CleanEnd,
    TornTail,
    Damage,
}

/// The table: what is here, whether anything vouches for acknowledged data here or behind, what to do.
pub const TABLE: [(Here, bool, Decision); 6] = [
    (Here::Group, false, Decision::Take),
    (Here::Group, true, Decision::Take),
    (Here::Zeros, false, Decision::CleanEnd),
    (Here::Zeros, true, Decision::Damage),
    (Here::Other, false, Decision::TornTail),
    (Here::Other, true, Decision::Damage),
];

/// Looks a case up.
#[must_use]
pub fn decide(here: Here, vouched: bool) -> Decision {
    TABLE.iter().find(|(h, v, _)| *h == here && *v == vouched).map_or(Decision::Damage, |(_, _, d)| *d)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_input_meets_exactly_one_row() {
        for here in [Here::Group, Here::Zeros, Here::Other] {
            for vouched in [false, true] {
                assert_eq!(TABLE.iter().filter(|(h, v, _)| (*h, *v) == (here, vouched)).count(), 1);
            }
        }
    }
}
