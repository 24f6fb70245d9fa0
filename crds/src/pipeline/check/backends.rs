use super::{Found, lookalikes, no_such};
use crate::pipeline::*;
use std::collections::BTreeSet;
use std::time::Duration;

/// The API server tells of a change in a few milliseconds, and a broker may owe its last acknowledgements for as long.
const SHORTEST_HOLD: Duration = Duration::from_millis(100);

pub(super) fn check(spec: &OrderPipelineSpec, found: &mut Found) {
    let topics: BTreeSet<String> = resolve::topics(spec).into_iter().map(|topic| topic.name).collect();
    for (index, backend) in spec.backends.iter().enumerate() {
        let place = format!("spec.backends[{index}]");
        if let Some(servers) = backend.kafka.as_ref().and_then(|kafka| kafka.bootstrap_servers.as_ref()) {
            bootstrap_servers(&format!("{place}.kafka.bootstrapServers"), servers, found);
        }
        if let Some(hubs) = &backend.event_hubs {
            event_hubs(&format!("{place}.eventHubs"), hubs, &topics, found);
        }
    }
    // Environment variables, metrics and the names of mounted files are made of these names.
    let alike = |name: &str| name.to_ascii_lowercase().replace(['.', '_'], "-");
    for (index, first) in lookalikes(spec.backends.iter().map(|b| b.name.as_str()), alike) {
        let message = format!("is too much like {first}: names of backends must differ in more than case, dot, dash and underscore");
        found.add(format!("spec.backends[{index}].name"), message);
    }
    if let Some(switching) = &spec.switching {
        let place = "spec.switching.holdDeadline";
        found.duration(place, &switching.hold_deadline, Duration::from_secs(30));
        if switching.hold_deadline.parse().is_some_and(|held| !held.is_zero() && held < SHORTEST_HOLD) {
            let message = format!(
                "must be at least {}ms, but is {}: every process has to hear of the switch and answer within it, and a switch that is \
                 never through is taken back each time",
                SHORTEST_HOLD.as_millis(),
                switching.hold_deadline
            );
            found.add(place, message);
        }
        found.duration("spec.switching.drain.deadline", &switching.drain.deadline, Duration::from_secs(30 * 24 * 3600));
    }
}

pub(super) fn bootstrap_servers(place: &str, servers: &str, found: &mut Found) {
    for server in servers.split(',').map(str::trim) {
        let good = server.rsplit_once(':').is_some_and(|(host, port)| {
            let bracketed = host.starts_with('[') && host.ends_with(']');
            !host.is_empty()
                && (bracketed || !host.contains([':', '/']))
                && !host.contains(char::is_whitespace)
                && port.parse::<u16>().is_ok_and(|p| p > 0)
        });
        if !good {
            found.add(place, format!("must be host:port, several separated by commas, but holds {server:?}"));
        }
    }
}

fn event_hubs(place: &str, hubs: &EventHubs, topics: &BTreeSet<String>, found: &mut Found) {
    if hubs.namespace.contains(['/', ':']) || !hubs.namespace.contains('.') {
        found.add(format!("{place}.namespace"), "must be the host name of the namespace, such as shop.servicebus.windows.net");
    }
    for topic in hubs.hubs.keys().filter(|topic| !topics.contains(*topic)) {
        let message = no_such("topic", topic, "spec.topics", topics.iter().map(String::as_str));
        found.add(crate::mistake::below(&format!("{place}.hubs"), topic), message);
    }
    let names: Vec<(&String, &TopicName)> = hubs.hubs.iter().collect();
    for (index, (topic, hub)) in names.iter().enumerate() {
        if let Some((other, _)) = names[..index].iter().find(|(_, taken)| taken == hub) {
            let message = format!("the hub {hub} is already that of the topic {other}: two topics cannot share one");
            found.add(crate::mistake::below(&format!("{place}.hubs"), topic), message);
        }
    }
}
