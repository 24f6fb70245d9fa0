//! What the HTTP dialects take when an event has no JSON Schema of its own: enough to refuse nonsense, open to further fields.

use crate::runtime_config::Dialect;
use serde_json::{Value as Json, json};

/// The body of the request that makes an order.
pub fn create_schema(dialect: Dialect) -> Json {
    match dialect {
        Dialect::Orders => json!({
            "type": "object",
            "required": ["customerId", "items", "totalAmount"],
            "properties": {
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
            }
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
        schema["properties"]["notes"] = json!({"type": "string", "maxLength": 4000});
    }
    schema
}

fn text(longest: u32) -> Json {
    json!({"type": "string", "minLength": 1, "maxLength": longest})
}
