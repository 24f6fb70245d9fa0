//! The whole worker over brokers and stores that fail on request.
