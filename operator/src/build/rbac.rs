//! What the pods may do at the API server: read their own two ConfigMaps, and answer through PipelineMembers.

use super::Blueprint;
use crate::names;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};

pub fn service_account(blueprint: &Blueprint) -> ServiceAccount {
    let name = blueprint.name();
    ServiceAccount {
        metadata: blueprint.meta(names::access(&name), names::labels(&name)),
        // The pods that need a token say so themselves.
        automount_service_account_token: Some(false),
        ..Default::default()
    }
}

pub fn role(blueprint: &Blueprint) -> Role {
    let name = blueprint.name();
    let words = |list: &[&str]| list.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    Role {
        metadata: blueprint.meta(names::access(&name), names::labels(&name)),
        rules: Some(vec![
            PolicyRule {
                api_groups: Some(words(&[""])),
                resources: Some(words(&["configmaps"])),
                resource_names: Some(vec![names::config_map(&name), names::switch_state(&name)]),
                verbs: words(&["get", "list", "watch"]),
                ..Default::default()
            },
            PolicyRule {
                api_groups: Some(words(&[crds::pipeline::GROUP])),
                resources: Some(words(&["pipelinemembers"])),
                verbs: words(&["get", "create", "update", "delete"]),
                ..Default::default()
            },
        ]),
    }
}

pub fn role_binding(blueprint: &Blueprint) -> RoleBinding {
    let name = blueprint.name();
    RoleBinding {
        metadata: blueprint.meta(names::access(&name), names::labels(&name)),
        role_ref: RoleRef { api_group: "rbac.authorization.k8s.io".into(), kind: "Role".into(), name: names::access(&name) },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".into(),
            name: names::access(&name),
            namespace: blueprint.config.namespace.clone().into(),
            ..Default::default()
        }]),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::{Kind, tests::*};

    #[test]
    fn the_role_names_the_two_config_maps() {
        assert_golden("role", &built(DOCUMENT, Kind::Role, "shop-runtime").unwrap());
    }

    #[test]
    fn the_binding_gives_it_to_the_pods() {
        assert_golden("role-binding", &built(DOCUMENT, Kind::RoleBinding, "shop-runtime").unwrap());
    }

    #[test]
    fn the_service_account_mounts_no_token() {
        assert_golden("service-account", &built(DOCUMENT, Kind::ServiceAccount, "shop-runtime").unwrap());
    }
}
