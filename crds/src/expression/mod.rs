//! CEL expressions: bounded before they run, compiled once, evaluated over borrowed JSON.
