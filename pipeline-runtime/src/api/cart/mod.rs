//! The cart dialect: POST /create-order, PUT /update-order, GET /order-details, GET /getAllOrderIdsFromTopic, GET /health.
//!
//! It answers 201 and 200 where the Orders dialect answers 202, and 400 for fields that are missing or wrong; both mean the same: the broker
//! has the event. The answer to a POST is the order as the event makes it, by the document's own expressions.

mod topic;

use super::call::{Call, RequestId, answer};
use super::errors::{Answer, Problem, respond};
use super::write::{Naming, ORDER_ID, Ready, check, must_be_order_id};
use super::{ApiState, Shared, query, strict};
use crate::store::{Amount, Change, Order, RawJson};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post, put};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Map, Value as Json, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// An order that was accepted just now may still be on its way to the store: it is looked for after these pauses, too.
const LOOK_AGAIN: [Duration; 4] =
    [Duration::from_millis(50), Duration::from_millis(100), Duration::from_millis(250), Duration::from_millis(600)];
/// What shipping costs, in percent of the order's total.
const SHIPPING_PERCENT: u128 = 2;

pub(super) fn routes() -> Router<Arc<ApiState>> {
    Router::new()
        .route("/create-order", post(create))
        .route("/update-order", put(change))
        .route("/order-details", get(details))
        .route("/getAllOrderIdsFromTopic", get(topic::order_ids))
        .route("/health", get(health))
}

async fn create(State(api): Shared, request: Request) -> Response {
    answer(api, request, async |call: Call| {
        let (api, settings, principal) = (call.api.clone(), call.api.settings.load_full(), call.principal.clone());
        let ready = check(call, &settings, &settings.creates, "POST /create-order", Naming::Body).await?;
        api.shown(published(ready, StatusCode::CREATED).await?, &principal)
    })
    .await
}

async fn change(State(api): Shared, request: Request) -> Response {
    answer(api, request, async |call: Call| {
        let (api, settings, principal) = (call.api.clone(), call.api.settings.load_full(), call.principal.clone());
        let Some(updates) = &settings.updates else {
            let message = "orders of this pipeline cannot be changed over HTTP: its document names no event for it";
            return Err(Problem::not_allowed("", message));
        };
        let ready = check(call, &settings, updates, "PUT /update-order", Naming::Body).await?;
        must_be_known(&api, ready.order_id()).await?;
        api.shown(published(ready, StatusCode::OK).await?, &principal)
    })
    .await
}

async fn must_be_known(api: &ApiState, id: &str) -> Result<(), Problem> {
    let mut pauses = LOOK_AGAIN.into_iter();
    loop {
        if strict::ask(api.store.order(id)).await.map_err(|e| strict::away(&e))?.is_some() {
            return Ok(());
        }
        match pauses.next() {
            Some(pause) => sleep(pause).await,
            None => return Err(Problem::no_order(id)),
        }
    }
}

/// Kept with the fields of persons encrypted; what of them is shown is whoever asks' matter.
async fn published(ready: Ready, status: StatusCode) -> Result<Answer, Problem> {
    let answer = Answer::json(status, &Said::by(ready.order_id(), &ready.change))?;
    ready.publish(answer).await
}

/// What an event says of its order. The same for a request that is sent again, so that no time of ours is in it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Said<'a> {
    order_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    customer_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    items: Option<RawJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_amount: Option<Amount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<DateTime<Utc>>,
    #[serde(flatten)]
    fields: &'a Map<String, Json>,
}

impl<'a> Said<'a> {
    fn by(order_id: &'a str, change: &'a Change) -> Said<'a> {
        let of = &change.fields;
        Said {
            order_id,
            tenant_id: of.tenant.as_deref(),
            customer_id: of.customer.as_deref(),
            items: of.items.clone().map(RawJson),
            total_amount: of.total.clone().map(Amount),
            status: of.status.as_deref(),
            created_at: of.created_at,
            fields: &change.set,
        }
    }
}

async fn details(State(api): Shared, request: Request) -> Response {
    answer(api, request, async |call: Call| {
        let [id] = query::values(call.head.uri.query().unwrap_or_default(), [ORDER_ID])?;
        let id = id.ok_or_else(|| Problem::field(ORDER_ID, "is required: ask for /order-details?orderId=..."))?;
        must_be_order_id(&id).map_err(|message| Problem::field(ORDER_ID, message))?;
        let order = strict::ask(call.api.store.order(&id)).await.map_err(|e| strict::away(&e))?;
        let order = order.ok_or_else(|| Problem::no_order(&id))?;
        let shipping_cost = order.total_amount.as_ref().and_then(|total| shipping_cost(&total.0)).map(Amount);
        call.api.shown(Answer::json(StatusCode::OK, &Details { order: &order, shipping_cost })?, &call.principal)
    })
    .await
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Details<'a> {
    #[serde(flatten)]
    order: &'a Order,
    /// None where the order has no total.
    shipping_cost: Option<Amount>,
}

/// Of a decimal total, to its last digit: no float comes near it. At least two decimals, as money is written.
fn shipping_cost(total: &str) -> Option<String> {
    let (sign, digits) = total.strip_prefix('-').map_or(("", total), |digits| ("-", digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let hundredths: u128 = format!("{whole}{fraction}").parse().ok()?;
    let mut decimals = fraction.len() + 2;
    let mut text = format!("{:0>1$}", hundredths.checked_mul(SHIPPING_PERCENT)?, decimals + 1);
    while decimals > 2 && text.ends_with('0') {
        text.pop();
        decimals -= 1;
    }
    text.insert(text.len() - decimals, '.');
    Some(format!("{sign}{text}"))
}

/// Answered without a key, as `/readyz` is.
async fn health(State(api): Shared) -> Response {
    let result = match api.health.broker_down() {
        None => Answer::json(StatusCode::OK, &json!({"status": "healthy", "kafka": "connected"})),
        Some(reason) => {
            Answer::json(StatusCode::SERVICE_UNAVAILABLE, &json!({"status": "unhealthy", "kafka": "disconnected", "message": reason}))
        }
    };
    respond(&RequestId::random(), result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shipping_costs_two_percent_to_the_last_digit() {
        for (total, cost) in [
            ("100", "2.00"),
            ("100.00", "2.00"),
            ("24.98", "0.4996"),
            ("0.01", "0.0002"),
            ("0", "0.00"),
            ("-12.5", "-0.25"),
            ("99999999.99", "1999999.9998"),
            ("90071992547409.93", "1801439850948.1986"), // no float has so many digits
        ] {
            assert_eq!(shipping_cost(total).as_deref(), Some(cost), "{total}");
        }
        assert_eq!(shipping_cost("1e5"), None);
    }
}
