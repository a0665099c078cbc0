//! The examples of docs/OAUTH.md, as they stand there but for the URL.

use std::process::Command;

use serde_json::json;

use super::clients::ran;
use super::{RS, introspect, key};
use crate::support::server::Keyclasp;
use crate::support::shell;
use crate::support::{TempDir, tools};

const PAGE: &str = include_str!("../../../docs/OAUTH.md");
const URL: &str = "https://keys.example.com";
const TOKEN: &str = "a-token-of-the-docs";

/// The only block in `language`.
fn block(language: &str) -> String {
    let fence = format!("```{language}\n");
    let mut blocks = PAGE.split(&fence).skip(1);
    let block = blocks.next().unwrap().split("```").next().unwrap().to_owned();
    assert!(blocks.next().is_none(), "more than one block in {language}");
    block
}

#[test]
fn the_examples_of_the_page_work() {
    let digest = data_encoding::HEXLOWER.encode(&<sha2::Sha256 as sha2::Digest>::digest(TOKEN));
    let server = super::callers(Keyclasp::set_up()).toml(&block("toml").replace('…', &digest)).start();
    let fields = json!({"realm": "production", "scopes": ["orders:write"]});
    let (_, text) = key(&server, &fields);

    let prelude = format!("key = '{text}'\ntoken = '{TOKEN}'\n");
    let script = prelude + &block("python").replace(URL, &server.endpoint()) + "print(answer['iss'])\n";
    let mut python = Command::new(tools().join("bin/python-authlib"));
    python.args(["-c", &script]);
    assert_eq!(ran(python, &[]), [URL]);

    let dir = TempDir::new();
    let source = dir.path().join("Docs.java");
    let class = format!(
        "import org.springframework.context.annotation.Bean;\n\
         import org.springframework.security.oauth2.server.resource.introspection.*;\n\
         public class Docs {{\n    String token = \"{TOKEN}\";\n{}\n\
         public static void main(String[] arguments) {{\n\
         System.out.println(new Docs().introspector().introspect(\"{text}\").getAuthorities());\n}}\n}}\n",
        block("java").replace(URL, &server.endpoint())
    );
    std::fs::write(&source, class).unwrap();
    let mut java = Command::new("java");
    java.arg("-cp").arg(tools().join("spring-security").join("*")).arg(&source);
    assert_eq!(ran(java, &[]), ["[SCOPE_orders:read, SCOPE_orders:write]"]);

    let set = format!("```sh\nexport KEY='{text}' TOKEN='{TOKEN}'\n```\n");
    let steps = shell::steps(&(set + &PAGE.replace(URL, &server.endpoint())));
    assert_eq!(steps.len(), 3);
    shell::run("docs/OAUTH.md", &steps, Some(&server)).unwrap();
    // `rs` may not ask about that realm, but the admin may.
    assert_eq!(introspect(&server, ["admin", &server.token()], &text), super::inactive(), "the page ended it");
    assert_eq!(introspect(&server, RS, &text), super::inactive());
}
