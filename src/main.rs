//! The `keyclasp` program.

fn main() {}
