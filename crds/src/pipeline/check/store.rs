use super::Found;
use crate::pipeline::*;

/// PostgreSQL makes no schema of such a name, or lets nobody write into it.
pub(super) fn check(pipeline: &OrderPipeline, found: &mut Found) {
    let Some(postgres) = pipeline.spec.store.as_ref().and_then(|store| store.postgres.as_ref()) else { return };
    let by_default = || resolve::default_schema(pipeline.metadata.name.as_deref().unwrap_or_default());
    let schema = postgres.schema.clone().unwrap_or_else(by_default);
    if schema.starts_with("pg_") || schema == "information_schema" {
        found.add("spec.store.postgres.schema", format!("{schema} is a name that PostgreSQL keeps for itself: say another"));
    }
}
