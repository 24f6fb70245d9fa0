//! Whether a member's answer has to be waited for.

use super::{Rule, Rules};
use crate::member::MemberPod;
use chrono::DateTime;

/// A pod as the API server says it is, read after the members were listed: from a cache that lags, a new pod would be taken for one
/// that is gone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pod {
    pub uid: String,
    /// Its phase is Succeeded or Failed.
    pub ended: bool,
    pub container: Container,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Container {
    Running,
    /// Waiting or terminated; when the last one ended, RFC 3339, if one did.
    NotRunning {
        ended_at: Option<String>,
    },
}

/// A member counts unless nothing of it can write any more: its pod is gone, or the very container that wrote the member has ended.
/// The one that takes its place joins and reads anew. Both times are of the node's clock.
pub fn counts(rules: Rules, member: &MemberPod, pod: Option<&Pod>) -> bool {
    let Some(pod) = pod.filter(|pod| pod.uid == member.uid && !pod.ended) else { return false };
    let Container::NotRunning { ended_at } = &pod.container else { return true };
    if !rules.keep(Rule::EndedAfterJoining) {
        return false;
    }
    let time = |text: &str| DateTime::parse_from_rfc3339(text).ok();
    match (ended_at.as_deref().and_then(time), time(&member.container_started_at)) {
        // Kubernetes cuts off the fraction of a second: what is later all the same is later.
        (Some(ended), Some(started)) => ended <= started,
        _ => true,
    }
}
