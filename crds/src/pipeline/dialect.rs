//! What the HTTP dialects take when an event has no JSON Schema of its own: enough to refuse nonsense, open to further fields.

use crate::runtime_config::Dialect;
use serde_json::{Value as Json, json};

/// The body of the request that makes an order.
pub fn create_schema(dialect: Dialect) -> Json {
    match dialect {
        Dialect::Orders => json!({
            "type": "object",
            "required": ["customerId", "items", "totalAmount"],
            "properties": order_fields()
        }),
        Dialect::Cart => json!({
            "type": "object",
            "required": ["orderId", "itemsCount"],
            "properties": {
                "orderId": text(200),
                "itemsCount": {"type": "integer", "minimum": 1}
            }
        }),
    }
}

/// The body of the request that changes an order.
pub fn update_schema(dialect: Dialect) -> Json {
    let mut schema = json!({
        "type": "object",
        "required": ["status"],
        "properties": {
            "orderId": text(200),
            "status": text(200)
        }
    });
    if dialect == Dialect::Orders {
        // A change may say anew what the order said, within the same bounds.
        schema["properties"] = order_fields();
        schema["properties"]["status"] = text(200);
        schema["properties"]["notes"] = json!({"type": "string", "maxLength": 4000});
    }
    schema
}

fn order_fields() -> Json {
    json!({
        "orderId": text(200),
        "customerId": text(200),
        "tenantId": text(200),
        "channel": text(200),
        "items": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "properties": {
                    "quantity": {"type": "number", "exclusiveMinimum": 0},
                    "price": {"type": "number", "minimum": 0},
                    "unitPrice": {"type": "number", "minimum": 0}
                }
            }
        },
        "totalAmount": {"type": "number", "minimum": 0}
    })
}

fn text(longest: u32) -> Json {
    json!({"type": "string", "minLength": 1, "maxLength": longest})
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::schema::Schema;

    #[test]
    fn a_change_is_held_to_the_bounds_of_its_order() {
        let schema = Schema::compile(&update_schema(Dialect::Orders)).unwrap();
        let places = |change: Json| schema.faults(&(&change).into()).into_iter().map(|fault| fault.path).collect::<Vec<_>>();
        assert!(places(json!({"status": "PACKED", "notes": "by hand", "totalAmount": 5, "more": true})).is_empty());
        assert_eq!(places(json!({"status": "PACKED", "totalAmount": -5})), ["data.totalAmount"]);
        assert_eq!(places(json!({"status": "PACKED", "items": "abc"})), ["data.items"]);
        assert_eq!(places(json!({"totalAmount": 5})), ["data.status"]);
    }
}
