//! Conditions as the conventions of Kubernetes have them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The time moves only when the status does, as the convention is; otherwise each reconcile would cause the next one.
pub fn set_condition(
    conditions: &mut Vec<Condition>,
    generation: Option<i64>,
    now: &Time,
    type_: &str,
    status: &str,
    reason: &str,
    message: &str,
) {
    let since = conditions.iter().find(|c| c.type_ == type_ && c.status == status).map(|c| c.last_transition_time.clone());
    let condition = Condition {
        type_: type_.into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        observed_generation: generation,
        last_transition_time: since.unwrap_or_else(|| now.clone()),
    };
    match conditions.iter_mut().find(|c| c.type_ == type_) {
        Some(old) => *old = condition,
        None => conditions.push(condition),
    }
}

/// At most so many bytes, cut between characters.
pub fn bounded(text: &str, bytes: usize) -> String {
    if text.len() <= bytes {
        return text.to_owned();
    }
    let end = (0..=bytes - 4).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    format!("{} ...", &text[..end])
}
