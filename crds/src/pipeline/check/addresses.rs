//! Addresses of HTTP services. What leads nowhere would only be found by the first order, and told as a service that is down.

use super::Found;
use crate::document::wording::quoted;
use crate::pipeline::*;
use url::{ParseError, Url};

pub(super) fn check(spec: &OrderPipelineSpec, found: &mut Found) {
    let worker = spec.worker.as_ref();
    let callback = worker.and_then(|worker| Some(worker.callback.as_ref()?.url.as_str()));
    let alert = worker.and_then(|worker| worker.dead_letters.as_ref()?.alert.as_ref()?.url.as_deref());
    let endpoint = spec.telemetry.as_ref().and_then(|telemetry| Some(telemetry.otlp.as_ref()?.endpoint.as_str()));
    for (place, address, such_as) in [
        ("spec.worker.callback.url", callback, "http://shipping/orders"),
        ("spec.worker.deadLetters.alert.url", alert, "http://alerts/orders"),
    ] {
        address.into_iter().for_each(|address| one(place, address, such_as, found));
    }
    endpoint.into_iter().for_each(|endpoint| collector(endpoint, found));
    for (index, topic) in spec.topics.iter().enumerate() {
        if let Some(avro) = topic.codec.as_ref().and_then(|codec| codec.avro.as_ref()) {
            one(&format!("spec.topics[{index}].codec.avro.registry.url"), &avro.registry.url, "http://registry:8081", found);
        }
    }
}

pub(super) fn collector(endpoint: &str, found: &mut Found) {
    one("spec.telemetry.otlp.endpoint", endpoint, "http://collector:4318", found);
}

fn one(place: &str, address: &str, such_as: &str, found: &mut Found) {
    if let Some(why) = leads_nowhere(address) {
        let why = if why.is_empty() { why } else { format!(": {why}") };
        found.add(place, format!("must be an address such as {such_as}, but is {}{why}", quoted(address)));
    }
}

/// Why; nothing to say where it is no address of HTTP at all.
fn leads_nowhere(address: &str) -> Option<String> {
    let Some(rest) = ["http://", "https://"].iter().find_map(|scheme| address.strip_prefix(scheme)) else {
        return Some(String::new());
    };
    if address.contains(char::is_whitespace) {
        return Some("there is a space in it".into());
    }
    // A client would take what follows the third slash for the host.
    if rest.starts_with('/') {
        return Some("it names no host".into());
    }
    match Url::parse(address) {
        Ok(url) if url.port() != Some(0) => None,
        Ok(_) | Err(ParseError::InvalidPort) => Some("a port lies between 1 and 65535".into()),
        Err(ParseError::EmptyHost) => Some("it names no host".into()),
        Err(error) => Some(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::leads_nowhere;

    #[test]
    fn an_address_that_no_client_could_reach_is_told() {
        for (address, why) in [
            ("registry:8081", ""),
            ("http://", "it names no host"),
            ("http:///orders", "it names no host"),
            ("http://?a=b", "it names no host"),
            ("http://:99999", "it names no host"),
            ("http://shop:99999", "a port lies between 1 and 65535"),
            ("http://shop:0/", "a port lies between 1 and 65535"),
            ("http://shop:port", "a port lies between 1 and 65535"),
            ("http://a b/x", "there is a space in it"),
            ("http://shop/x y", "there is a space in it"),
            ("http://a<b/x", "invalid international domain name"),
        ] {
            assert_eq!(leads_nowhere(address).as_deref(), Some(why), "{address}");
        }
    }

    #[test]
    fn what_a_client_reaches_is_an_address() {
        for address in [
            "http://x",
            "http://127.0.0.1:1",
            "https://user:word@shop.example.com:8443/orders?key=a%20b#c",
            "http://[::1]:8081/apis/ccompat/v7",
            "http://shop_a.default.svc:80/",
        ] {
            assert_eq!(leads_nowhere(address), None, "{address}");
        }
    }
}
