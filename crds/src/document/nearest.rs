//! What a person probably meant.

/// The known name that is closest to a wrong one, if it is close: one slip in a short name, a few in a long one.
pub(crate) fn nearest<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Names of the resource have at most 200 characters; comparing longer ones costs time and helps nobody.
    if wrong.len() > 200 {
        return None;
    }
    let slips = |name: &str| strsim::damerau_levenshtein(&wrong.to_lowercase(), &name.to_lowercase());
    let nearest = known.map(|name| (slips(name), name)).min()?;
    (nearest.0 <= 1 + nearest.1.len() / 5).then_some(nearest.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        let known = ["topics", "events", "backends", "store", "api"];
        let near = |wrong| nearest(wrong, known.into_iter());
        assert_eq!(near("topic"), Some("topics"));
        assert_eq!(near("bakcends"), Some("backends"));
        assert_eq!(near("Store"), Some("store"));
        assert_eq!(near("queues"), None);
        assert_eq!(near(""), None);
    }
}
