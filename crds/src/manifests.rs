//! The CustomResourceDefinitions as they are installed: generated from the types, then made to fit what the API server takes.
//! The checked-in YAML beside `Cargo.toml` is this, and a test fails when it differs.

use crate::member::PipelineMember;
use crate::pipeline::OrderPipeline;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

/// Every CRD with the name of its file.
pub fn all() -> [(&'static str, CustomResourceDefinition); 2] {
    [("orderpipeline.yaml", order_pipeline()), ("pipelinemember.yaml", pipeline_member())]
}

pub fn order_pipeline() -> CustomResourceDefinition {
    fitted(OrderPipeline::crd())
}

pub fn pipeline_member() -> CustomResourceDefinition {
    fitted(PipelineMember::crd())
}

/// The text of a CRD's file.
pub fn yaml(crd: &CustomResourceDefinition) -> Result<String, serde_yaml::Error> {
    Ok(format!("# Generated from the types: cargo run -p crds --bin generate-crds\n{}", serde_yaml::to_string(crd)?))
}

fn fitted(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|s| s.open_api_v3_schema.as_mut()) {
            fit(schema);
        }
    }
    crd
}

/// What Rust has and OpenAPI v3 of Kubernetes has not.
fn fit(schema: &mut JSONSchemaProps) {
    // `api:` with nothing behind it would be a null that every rule with has() takes for a value. Without nullable the API server
    // reads it as absent.
    schema.nullable = None;
    // The API server warns of formats that it does not know (uint32); the bounds say the same.
    if schema.format.as_deref().is_some_and(|format| format.starts_with("uint")) {
        schema.format = None;
    }
    for property in schema.properties.iter_mut().flat_map(|p| p.values_mut()) {
        fit(property);
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => fit(items),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(fit),
        None => {}
    }
    match &mut schema.additional_properties {
        Some(JSONSchemaPropsOrBool::Schema(values)) => fit(values),
        // Not allowed there; fields that a schema does not name are refused or pruned anyway.
        Some(JSONSchemaPropsOrBool::Bool(_)) => schema.additional_properties = None,
        None => {}
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use serde_json::Value as Json;

    #[test]
    fn the_checked_in_files_are_what_the_types_say() {
        for (file, crd) in all() {
            let path = format!("{}/{file}", env!("CARGO_MANIFEST_DIR"));
            let checked_in = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(checked_in == yaml(&crd).unwrap(), "{file} is stale: cargo run -p crds --bin generate-crds");
        }
    }

    /// The cost of validation is computed from bounds: a list or text without one is taken to be as large as a request can be.
    fn unbounded(place: &str, schema: &Json, found: &mut Vec<String>) {
        let has = |key: &str| schema.get(key).is_some();
        let missing = match schema["type"].as_str() {
            Some("string") if !has("enum") && !has("maxLength") => Some("maxLength"),
            Some("array") if !has("maxItems") => Some("maxItems"),
            Some("integer") if !has("maximum") || !has("minimum") => Some("minimum and maximum"),
            Some("object") if has("additionalProperties") && !has("maxProperties") => Some("maxProperties"),
            Some("number") => Some("no floats"),
            _ => None,
        };
        found.extend(missing.map(|what| format!("{place}: {what}")));
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            unbounded(&format!("{place}.{name}"), property, found);
        }
        for inner in ["items", "additionalProperties"] {
            if schema[inner].is_object() {
                unbounded(&format!("{place}[]"), &schema[inner], found);
            }
        }
    }

    #[test]
    fn every_list_text_map_and_number_of_a_spec_has_a_bound() {
        let mut found = Vec::new();
        for (_, crd) in all() {
            let schema = serde_json::to_value(&crd.spec.versions[0].schema).unwrap();
            unbounded("spec", &schema["openAPIV3Schema"]["properties"]["spec"], &mut found);
        }
        assert_eq!(found, Vec::<String>::new());
    }

    /// What the API server refuses in a structural schema, or Argo CD shows as a difference for ever.
    fn unfit(place: &str, schema: &Json, found: &mut Vec<String>) {
        let int_or_string = schema["x-kubernetes-int-or-string"] == true;
        for key in ["oneOf", "anyOf", "allOf", "not", "$ref", "nullable", "const", "exclusiveMinimum"] {
            if schema.get(key).is_some() && !(key == "anyOf" && int_or_string) {
                found.push(format!("{place}: {key}"));
            }
        }
        if schema.get("type").is_none() && !int_or_string && schema["x-kubernetes-preserve-unknown-fields"] != true {
            found.push(format!("{place}: no type"));
        }
        let values = schema.get("additionalProperties");
        if values.is_some_and(|values| schema.get("properties").is_some() || !values.is_object()) {
            found.push(format!("{place}: additionalProperties"));
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            unfit(&format!("{place}.{name}"), property, found);
        }
        for inner in ["items", "additionalProperties"] {
            if schema[inner].is_object() {
                unfit(&format!("{place}[]"), &schema[inner], found);
            }
        }
    }

    #[test]
    fn the_schemas_are_structural() {
        let mut found = Vec::new();
        for (_, crd) in all() {
            assert_eq!(crd.spec.names.categories.as_deref(), Some(&["orders".to_owned()][..]));
            let schema = serde_json::to_value(&crd.spec.versions[0].schema).unwrap();
            unfit(&crd.spec.names.kind, &schema["openAPIV3Schema"], &mut found);
        }
        assert_eq!(found, Vec::<String>::new());
    }
}
