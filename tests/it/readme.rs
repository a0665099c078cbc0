//! The README's shell examples, on the binary that this build made: all but the two opening
//! commands, which `make readme` runs in a fresh clone.

use super::support::server::Keyclasp;
use super::support::shell;

const OPENING: [&str; 2] = ["cargo run --release -- serve", "make test"];

#[test]
fn the_readmes_examples_work() {
    let readme = include_str!("../../README.md");
    let mut steps = shell::steps(readme);
    let all = steps.len();
    steps.retain(|step| !OPENING.contains(&step.command.trim()));
    assert_eq!(all - steps.len(), OPENING.len(), "the README does not open with {OPENING:?}");
    assert!(!steps.is_empty());
    let server = Keyclasp::start();
    if let Err(report) = shell::run("README.md", &steps, Some(&server)) {
        panic!("{report}\nThe server said:\n{}", server.log());
    }
}
