use super::*;

#[tokio::test]
async fn each_field_that_is_missing_or_wrong_is_named() {
    let process = process();
    let mut wrong = order();
    wrong.as_object_mut().unwrap().remove("customerId");
    wrong["items"][1]["quantity"] = json!("two");
    wrong["totalAmount"] = json!(-1);
    wrong["colour"] = json!("red");
    let reply = process.post(wrong.to_string()).await;
    assert_eq!(reply.status, 422, "{}", reply.text);
    let mut fields = reply.fields();
    fields.sort_unstable();
    assert_eq!(fields, ["colour", "customerId", "items[1].quantity", "totalAmount"], "{}", reply.text);
    assert!(process.broker.written().is_empty());
}

#[tokio::test]
async fn what_is_no_json_is_said_with_its_place() {
    let process = process();
    for (body, message) in [
        (b"{\"orderId\": \"o-1\",\n]".to_vec(), "line 2 column 1"),
        (b"".to_vec(), "empty"),
        (b"{\"orderId\": \"\xff\"}".to_vec(), "not UTF-8"),
        (b"{} {}".to_vec(), "trailing characters"),
        (b"{\"a\": 1, \"a\": 2}".to_vec(), "given twice"),
        ("[".repeat(10_000).into_bytes(), "nested more than"),
        (format!("{{\"items\": {}{}}}", "[".repeat(10_000), "]".repeat(10_000)).into_bytes(), "nested more than"),
    ] {
        let reply = process.post(body).await;
        assert_eq!(reply.status, 400, "{}", reply.text);
        assert!(reply.message().contains(message), "{} does not say {message:?}", reply.text);
    }
    assert_eq!(process.post(order().to_string()).await.status, 202, "the process goes on");
}

#[tokio::test]
async fn what_is_no_object_or_has_no_usable_id_is_422() {
    let process = process();
    for (body, field) in [
        (json!([order()]), ""),
        (json!("order"), ""),
        (json!({"orderId": 7}), "orderId"),
        (json!({"orderId": ""}), "orderId"),
        (json!({"orderId": "a\nb"}), "orderId"),
        (json!({"orderId": ".."}), "orderId"),
        (json!({"orderId": "x".repeat(201)}), "orderId"),
    ] {
        let reply = process.post(body.to_string()).await;
        assert_eq!((reply.status, reply.fields()), (422, vec![field]), "{}", reply.text);
    }
}

#[tokio::test]
async fn only_json_in_utf_8_is_understood() {
    let process = process();
    for (kind, status) in [
        ("application/json", 202),
        ("application/json; charset=UTF-8", 202),
        ("application/vnd.order+json", 202),
        ("text/plain", 415),
        ("application/json; charset=utf-16", 415),
        ("application/x-www-form-urlencoded", 415),
    ] {
        let mut request = request("POST", "/orders", order_without_id().to_string());
        request.headers_mut().insert("content-type", kind.parse().unwrap());
        assert_eq!(process.send(request).await.status, status, "{kind}");
    }
    let mut untyped = request("POST", "/orders", order_without_id().to_string());
    untyped.headers_mut().remove("content-type");
    assert_eq!(process.send(untyped).await.status, 202);
    let mut zipped = request("POST", "/orders", order_without_id().to_string());
    zipped.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
    assert_eq!(process.send(zipped).await.status, 415);
}

#[tokio::test]
async fn nobody_gets_in_without_a_known_key() {
    let process = process();
    for (method, path) in [("POST", "/orders"), ("PATCH", "/orders/o-1"), ("GET", "/orders/o-1"), ("GET", "/orders")] {
        for key in [None, Some("wrong"), Some("")] {
            let mut request = request(method, path, order().to_string());
            request.headers_mut().remove("x-api-key");
            if let Some(key) = key {
                request.headers_mut().insert("x-api-key", key.parse().unwrap());
            }
            let reply = process.send(request).await;
            assert_eq!((reply.status, &reply.json["error"]), (401, &json!("unauthorized")), "{method} {path} {key:?}");
        }
    }
    assert!(process.broker.written().is_empty());
}

#[tokio::test]
async fn a_changed_key_counts_from_the_next_request_on() {
    let process = process();
    process.api.keys.store(Arc::new(Keys::new([("web", "new-secret")]).unwrap()));
    assert_eq!(process.post(order().to_string()).await.status, 401);
}

#[tokio::test]
async fn unknown_routes_and_methods_are_answered_in_json() {
    let process = process();
    let nowhere = process.get("/nowhere").await;
    assert_eq!((nowhere.status, &nowhere.json["error"]), (404, &json!("not_found")));
    let wrong = process.send(request("DELETE", "/orders/o-1", Body::empty())).await;
    assert_eq!((wrong.status, &wrong.json["error"]), (405, &json!("method_not_allowed")), "{}", wrong.text);
    let allow = wrong.headers["allow"].to_str().unwrap();
    assert!(allow.contains("GET") && allow.contains("PATCH"), "{allow}");
}

#[tokio::test]
async fn a_request_id_that_is_none_is_refused() {
    let process = process();
    for id in ["", "two words", &"x".repeat(201), "caf\u{e9}"] {
        let mut request = request("POST", "/orders", order().to_string());
        request.headers_mut().insert("x-request-id", axum::http::HeaderValue::from_bytes(id.as_bytes()).unwrap());
        let reply = process.send(request).await;
        assert_eq!((reply.status, &reply.json["error"]), (400, &json!("invalid_request_id")), "{id:?}");
    }
    let mut twice = with_id(request("POST", "/orders", order().to_string()), "r-1");
    twice.headers_mut().append("x-request-id", "r-2".parse().unwrap());
    assert_eq!(process.send(twice).await.status, 400);
    assert!(process.broker.written().is_empty());
}

#[tokio::test]
async fn ten_megabytes_are_taken_and_eleven_are_not() {
    let process = process();
    let mut large = order();
    large["notes"] = "x".repeat(10_000_000).into();
    let reply = process.post(large.to_string()).await;
    assert_eq!(reply.status, 202, "{}", reply.text);
    large["notes"] = "x".repeat(11_000_000).into();
    let reply = process.post(large.to_string()).await;
    assert_eq!(reply.status, 413, "{}", reply.text);
    assert!(reply.message().contains("10485760"), "{}", reply.text);
    assert_eq!(process.broker.written().len(), 1);
}

#[tokio::test]
async fn a_body_in_many_pieces_is_bounded_without_being_announced() {
    let process = process();
    let pieces = futures::stream::iter((0..180).map(|_| Ok::<_, std::convert::Infallible>(vec![b' '; 65_536])));
    let reply = process.send(request("POST", "/orders", Body::from_stream(pieces))).await;
    assert_eq!(reply.status, 413, "{}", reply.text);
    let text = order().to_string();
    let pieces: Vec<_> = text.as_bytes().chunks(7).map(|piece| Ok::<_, std::convert::Infallible>(piece.to_vec())).collect();
    let reply = process.send(request("POST", "/orders", Body::from_stream(futures::stream::iter(pieces)))).await;
    assert_eq!(reply.status, 202, "{}", reply.text);
}

#[tokio::test]
async fn a_body_that_would_fill_the_memory_when_parsed_is_refused() {
    let process = process();
    let body = format!("{{\"items\": [{}{{}}]}}", "{\"a\":1},".repeat(200_000));
    let reply = process.post(body).await;
    assert_eq!(reply.status, 413, "{}", reply.text);
    assert!(reply.message().contains("too many values"), "{}", reply.text);
}

#[tokio::test]
async fn what_the_store_could_not_hold_is_named_and_not_accepted() {
    let process = process();
    for (field, value) in [
        ("totalAmount", json!(12.345)),
        ("totalAmount", json!(100_000_000)),
        ("customerId", json!("x".repeat(1000))),
        ("tenantId", json!("x".repeat(1000))),
    ] {
        let mut order = order();
        order[field] = value;
        let reply = process.post(order.to_string()).await;
        assert_eq!((reply.status, reply.fields()), (422, vec![field]), "{}", reply.text);
    }
    assert!(process.broker.written().is_empty());
}

#[tokio::test]
async fn what_a_reader_of_the_message_could_not_take_is_refused() {
    let process = process();
    let nested = |levels: usize| format!("{{\"orderId\": \"o-1\", \"deep\": {}{}}}", "[".repeat(levels), "]".repeat(levels));
    assert!(process.post(nested(64)).await.message().contains("nested more than 64"));
    assert_eq!(process.post(nested(63)).await.status, 422, "nothing but the schema is against it");
}
