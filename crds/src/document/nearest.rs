//! What a person probably meant.

/// The known name that is closest to a wrong one, if it is close: one slip in a short name, a few in a long one.
pub(crate) fn nearest<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    closest(wrong, known).filter(|(slips, name)| *slips <= 1 + name.len() / 5).map(|(_, name)| name)
}

/// The same where any other word is allowed as well, so that only what can hardly be one is a slip.
pub(crate) fn slip_of<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    closest(wrong, known).filter(|(slips, name)| *slips <= 1 + name.len() / 10).map(|(_, name)| name)
}

fn closest<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<(usize, &'a str)> {
    // Names of the resource have at most 200 characters; comparing longer ones costs time and helps nobody.
    if wrong.len() > 200 {
        return None;
    }
    let slips = |name: &str| strsim::damerau_levenshtein(&wrong.to_lowercase(), &name.to_lowercase());
    known.map(|name| (slips(name), name)).min()
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

    #[test]
    fn where_any_word_is_allowed_only_a_single_slip_is_one() {
        let known = ["required", "format", "additionalProperties"];
        let slip = |wrong| slip_of(wrong, known.into_iter());
        assert_eq!((slip("requried"), slip("Format"), slip("additionalPropertys")), (Some(known[0]), Some(known[1]), Some(known[2])));
        assert_eq!((slip("form"), slip("acquired")), (None, None));
    }
}
