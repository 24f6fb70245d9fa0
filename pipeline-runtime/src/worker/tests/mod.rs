//! The whole worker over a broker and a store that fail on request.
