//! Whether an object in the cluster is still what was applied. Defaults that the API server fills in and what others add in
//! lists that are keyed are no difference; everything that we set is compared.

use crds::pipeline::Quantity;
use serde_json::Value as Json;

/// Lists to which others may add elements (a sidecar, a volume): ours only have to be among them. All other lists are one value.
const KEYED: [&str; 8] =
    ["containers", "initContainers", "env", "volumes", "volumeMounts", "ports", "ownerReferences", "topologySpreadConstraints"];

pub fn differs(wanted: &Json, live: &Json) -> bool {
    !holds(wanted, live, "")
}

/// `live` says everything that `wanted` says. `field` is the name under which they stand.
fn holds(wanted: &Json, live: &Json, field: &str) -> bool {
    match (wanted, live) {
        (Json::Object(wanted), Json::Object(live)) => {
            let quantities = matches!(field, "requests" | "limits");
            wanted.iter().all(|(name, value)| match live.get(name) {
                Some(other) if quantities => same_quantity(value, other),
                Some(other) => holds(value, other, name),
                None => false,
            })
        }
        (Json::Array(wanted), Json::Array(live)) if KEYED.contains(&field) => {
            wanted.iter().all(|element| live.iter().any(|other| holds(element, other, "")))
        }
        (Json::Array(wanted), Json::Array(live)) => {
            wanted.len() == live.len() && wanted.iter().zip(live).all(|(element, other)| holds(element, other, ""))
        }
        _ => wanted == live,
    }
}

/// The API server writes quantities its own way: 1000m comes back as 1.
fn same_quantity(wanted: &Json, live: &Json) -> bool {
    match (wanted.as_str().and_then(Quantity::thousandths), live.as_str().and_then(Quantity::thousandths)) {
        (Some(one), Some(other)) => one == other,
        _ => wanted == live,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_the_api_server_fills_in_is_no_difference() {
        let wanted = json!({"spec": {"containers": [{"name": "api", "image": "a"}]}});
        let live =
            json!({"spec": {"containers": [{"name": "api", "image": "a", "terminationMessagePath": "/dev"}], "dnsPolicy": "Default"}});
        assert!(!differs(&wanted, &live));
    }

    #[test]
    fn a_changed_and_a_missing_field_are() {
        let wanted = json!({"spec": {"containers": [{"name": "api", "image": "a"}]}});
        assert!(differs(&wanted, &json!({"spec": {"containers": [{"name": "api", "image": "b"}]}})));
        assert!(differs(&wanted, &json!({"spec": {"containers": [{"name": "api"}]}})));
        assert!(differs(&wanted, &json!({"spec": {"containers": []}})));
    }

    #[test]
    fn a_sidecar_of_somebody_else_is_none_but_a_rule_added_to_our_role_is() {
        let wanted = json!({"containers": [{"name": "api"}]});
        assert!(!differs(&wanted, &json!({"containers": [{"name": "proxy"}, {"name": "api"}]})));
        let wanted = json!({"rules": [{"verbs": ["get"]}]});
        assert!(differs(&wanted, &json!({"rules": [{"verbs": ["get"]}, {"verbs": ["*"]}]})));
        assert!(differs(&wanted, &json!({"rules": [{"verbs": ["get", "delete"]}]})));
    }

    #[test]
    fn a_quantity_is_compared_by_its_value() {
        for (ours, theirs) in [("1000m", "1"), ("0.5", "500m"), ("1024Mi", "1Gi"), ("2", "2"), ("1.5Gi", "1536Mi")] {
            assert!(!differs(&json!({"limits": {"x": ours}}), &json!({"limits": {"x": theirs}})), "{ours} is {theirs}");
        }
        assert!(differs(&json!({"limits": {"x": "1"}}), &json!({"limits": {"x": "1Mi"}})));
    }
}
