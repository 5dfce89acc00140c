//! The `granule` binary.
fn main() {}
