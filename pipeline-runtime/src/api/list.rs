//! GET /orders: the recent orders, page by page.
//!
//! A page ends at its `limit`, or earlier where its orders would take more than [`PAGE_BYTES`]. `next` is then the way to the page behind
//! it; without `next` there are no more. Whatever the orders hold, a page fits into the memory of a small pod.

use super::call::{Call, answer};
use super::errors::{Answer, Problem};
use super::query::{self, in_path};
use super::{Shared, strict};
use crate::store::{Mark, Order, Page, Query};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use chrono::DateTime;
use serde::Serialize;

const DEFAULT_LIMIT: u32 = 50;
const LARGEST_LIMIT: u32 = 500;
/// Of orders as JSON. A single order that is larger is a page by itself.
const PAGE_BYTES: u32 = 4 << 20;

pub(super) async fn list(State(api): Shared, request: Request) -> Response {
    answer(api, request, async |call: Call| {
        let query = query_of(call.head.uri.query().unwrap_or_default())?;
        let Ok(place) = call.api.lists.clone().try_acquire_owned() else {
            return Err(Problem::unavailable("overloaded", "too many lists of orders are being read: ask again a little later", 1));
        };
        let page = strict::ask(call.api.store.recent(&query)).await.map_err(|e| strict::away(&e))?;
        let next = next(&query, &page);
        let answer = Answer::json(StatusCode::OK, &List { count: page.orders.len(), next, orders: page.orders })?;
        Ok(call.api.shown(answer, &call.principal)?.in_place(place))
    })
    .await
}

/// Written as it is: amounts keep their decimals.
#[derive(Serialize)]
struct List {
    count: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    orders: Vec<Order>,
}

/// The same question for what stands behind this page.
fn next(query: &Query, page: &Page) -> Option<String> {
    let last = page.orders.last().filter(|_| page.more)?;
    let tenant = query.tenant.as_ref().map(|tenant| format!("&tenantId={}", in_path(tenant))).unwrap_or_default();
    let after = in_path(&format!("{}.{}", last.created_at.timestamp_micros(), last.order_id));
    Some(format!("/orders?limit={}{tenant}&after={after}", query.limit))
}

fn mark_of(text: &str) -> Option<Mark> {
    let (micros, order_id) = text.split_once('.')?;
    Some(Mark { created_at: DateTime::from_timestamp_micros(micros.parse().ok()?)?, order_id: order_id.to_owned() })
}

fn query_of(text: &str) -> Result<Query, Problem> {
    let [limit, tenant, after] = query::values(text, ["limit", "tenantId", "after"])?;
    let limit = query::limit(limit, DEFAULT_LIMIT, LARGEST_LIMIT)?;
    let unknown = || Problem::field("after", "is no place in a list of orders: take it, as it is, from next of the page before");
    let after = after.map(|text| mark_of(&text).ok_or_else(unknown)).transpose()?;
    Ok(Query { limit, max_bytes: PAGE_BYTES, tenant, after })
}
