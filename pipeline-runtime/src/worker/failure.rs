//! Why an event could not be processed, and what that means for it.

/// The kind of a failure: the `error type` of a dead letter and of the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// It cannot be decoded, or no expression can tell what it is.
    Undecodable,
    /// It breaks its schema or a rule.
    Invalid,
    /// What is encrypted in it does not open.
    Encrypted,
    /// Written by a version of the schema that this runtime does not know.
    SchemaVersion,
    /// An event that this pipeline wrote and its document does not name.
    UnknownEvent,
    /// It contradicts what is stored.
    Conflict,
    /// The store will never take it.
    Refused,
    /// The store fails on this event while it takes others.
    Store,
    /// What follows from it cannot be published.
    Emit,
    /// The callback refuses it.
    CallbackRefused,
    /// The callback fails on it.
    Callback,
    /// An update whose order never came.
    Expired,
}

// Each kind has its place in the metrics: a new one is named in `ALL` too.
const _: () = assert!(Kind::Expired as usize + 1 == Kind::ALL.len());

impl Kind {
    /// In their order.
    pub const ALL: [Kind; 12] = [
        Kind::Undecodable,
        Kind::Invalid,
        Kind::Encrypted,
        Kind::SchemaVersion,
        Kind::UnknownEvent,
        Kind::Conflict,
        Kind::Refused,
        Kind::Store,
        Kind::Emit,
        Kind::CallbackRefused,
        Kind::Callback,
        Kind::Expired,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Undecodable => "undecodable",
            Kind::Invalid => "invalid",
            Kind::Encrypted => "encrypted",
            Kind::SchemaVersion => "schemaVersion",
            Kind::UnknownEvent => "unknownEvent",
            Kind::Conflict => "conflict",
            Kind::Refused => "refused",
            Kind::Store => "store",
            Kind::Emit => "emit",
            Kind::CallbackRefused => "callbackRefused",
            Kind::Callback => "callback",
            Kind::Expired => "expired",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub kind: Kind,
    pub reason: String,
    /// As far as the message could be read.
    pub event_id: Option<String>,
}

impl Failure {
    pub fn new(kind: Kind, reason: impl Into<String>, event_id: Option<&str>) -> Failure {
        Failure { kind, reason: reason.into(), event_id: event_id.map(str::to_owned) }
    }
}
