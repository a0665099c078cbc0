//! The pages of docs/ show the files of examples/ that the tests run.

use super::proxies::Kind;

const NGINX: &str = include_str!("../../../docs/NGINX.md");
const CADDY: &str = include_str!("../../../docs/CADDY.md");
const HAPROXY: &str = include_str!("../../../docs/HAPROXY.md");

/// The fenced blocks of a page.
fn blocks(page: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut block: Option<String> = None;
    for line in page.lines() {
        match (&mut block, line.starts_with("```")) {
            (None, true) => block = Some(String::new()),
            (Some(_), true) => blocks.extend(block.take()),
            (Some(block), false) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, false) => {}
        }
    }
    blocks
}

/// The block of the page about nginx that has this in it.
pub(super) fn nginx(mark: &str) -> String {
    let found: Vec<_> = blocks(NGINX).into_iter().filter(|block| block.contains(mark)).collect();
    assert_eq!(found.len(), 1, "one block with {mark}");
    found.into_iter().next().unwrap()
}

#[test]
fn each_page_shows_the_files_that_the_tests_run() {
    for (kind, page) in [(Kind::Nginx, NGINX), (Kind::Caddy, CADDY), (Kind::HaProxy, HAPROXY)] {
        let blocks = blocks(page);
        for (name, text) in kind.files() {
            assert!(blocks.iter().any(|block| block == text), "the page about {kind:?} does not show {name} as it is");
        }
    }
}
