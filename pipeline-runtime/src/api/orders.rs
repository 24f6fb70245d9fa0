//! The Orders dialect: POST /orders, PATCH and GET /orders/{orderId}; the list is in `list`.

use super::call::{Call, answer};
use super::errors::{Answer, Problem};
use super::query::in_path;
use super::write::{Naming, ORDER_ID, Ready, check, must_be_order_id};
use super::{ApiState, Shared, list, strict};
use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use serde::Serialize;
use std::sync::Arc;

pub(super) fn routes() -> Router<Arc<ApiState>> {
    Router::new().route("/orders", get(list::list).post(create)).route("/orders/{orderId}", get(read).patch(change))
}

async fn create(State(api): Shared, request: Request) -> Response {
    answer(api, request, async |call: Call| {
        let settings = call.api.settings.load_full();
        let ready = check(call, &settings, &settings.creates, "POST /orders", Naming::BodyOrRequest).await?;
        accepted(ready).await
    })
    .await
}

async fn change(State(api): Shared, path: Result<Path<String>, PathRejection>, request: Request) -> Response {
    answer(api, request, async |call: Call| {
        let settings = call.api.settings.load_full();
        let Some(updates) = &settings.updates else {
            let message = "orders of this pipeline cannot be changed over HTTP: its document names no event for it";
            return Err(Problem::not_allowed("GET,HEAD", message));
        };
        let id = order_id_of(path)?;
        // The path's own order is part of the route: the same request id at two orders is two requests.
        let route = format!("PATCH /orders/{id}");
        let ready = check(call, &settings, updates, &route, Naming::Path(id)).await?;
        accepted(ready).await
    })
    .await
}

async fn read(State(api): Shared, path: Result<Path<String>, PathRejection>, request: Request) -> Response {
    answer(api, request, async |call: Call| {
        let id = order_id_of(path)?;
        match strict::ask(call.api.store.order(&id)).await {
            Ok(Some(order)) => call.api.shown(Answer::json(StatusCode::OK, &order)?, &call.principal),
            Ok(None) => Err(Problem::no_order(&id)),
            Err(e) => Err(strict::away(&e)),
        }
    })
    .await
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Accepted<'a> {
    order_id: &'a str,
    request_id: &'a str,
    status: &'static str,
    links: Links,
}

#[derive(Serialize)]
struct Links {
    #[serde(rename = "self")]
    order: String,
}

/// Publishes it, and answers when the broker has it.
async fn accepted(ready: Ready) -> Result<Answer, Problem> {
    let accepted = Accepted {
        order_id: ready.order_id(),
        request_id: ready.request(),
        status: "accepted",
        links: Links { order: format!("/orders/{}", in_path(ready.order_id())) },
    };
    let answer = Answer::json(StatusCode::ACCEPTED, &accepted)?;
    ready.publish(answer).await
}

fn order_id_of(path: Result<Path<String>, PathRejection>) -> Result<String, Problem> {
    let Path(id) = path.map_err(|e| Problem::bad_request("invalid_path", format!("the order's id in the path cannot be read: {e}")))?;
    must_be_order_id(&id).map_err(|message| Problem::field(ORDER_ID, message))?;
    Ok(id)
}
