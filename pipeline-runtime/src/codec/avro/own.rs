//! A topic's own schema: what is written there is written by it, and mostly read by it.

use super::read::Plan;
use super::schema::Schema;
use super::{Unfit, write};
use crds::json::Json;
use std::sync::Arc;

pub struct Own {
    pub(super) schema: Schema,
    /// What is written by it, read by it.
    pub(super) plan: Arc<Plan>,
}

impl Own {
    pub fn parse(text: &str) -> Result<Own, String> {
        let schema = Schema::parse(text).map_err(|e| e.to_string())?;
        let plan = Arc::new(Plan::new(&schema, &schema)?);
        Ok(Own { schema, plan })
    }

    /// Appends the bytes of the data, which becomes what its readers will see.
    pub fn write(&self, data: &mut Json<'_>, out: &mut Vec<u8>) -> Result<(), Unfit> {
        let from = out.len();
        write(&self.schema, data, out)?;
        let seen = self.plan.read(&out[from..]).map_err(|message| Unfit { path: "data".into(), message })?;
        *data = seen.into_owned();
        Ok(())
    }
}
