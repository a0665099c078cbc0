//! Shell sessions in Markdown: the commands of fenced blocks, run in one bash per file, with their
//! output compared.
//!
//! In a `console` block, `$ ` begins a command and `> ` continues it; what follows is its output,
//! standard error included, and `? N` its exit code where that is not 0. In an expected line `[..]`
//! stands for any text, and a line `...` for any lines. An `sh` block is run as a whole and must
//! succeed.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use super::TempDir;
use super::server::{Keyclasp, PROGRAM};

/// Longest that one command may take.
const BOUND: Duration = Duration::from_secs(120);
/// What the shell prints behind the output of a command.
const MARK: &str = "@@keyclasp-test-done@@";

/// A command, where it stands, and what it shall print.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) line: usize,
    pub(crate) command: String,
    /// None: anything, but it must succeed.
    pub(crate) expected: Option<Expected>,
}

/// What a command shall print and how it shall end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Expected {
    pub(crate) lines: Vec<String>,
    pub(crate) exit: i32,
}

/// The steps in `markdown`.
pub(crate) fn steps(markdown: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut fence: Option<&str> = None;
    // Whether the line above belongs to the command rather than to its output.
    let mut in_command = false;
    for (index, line) in markdown.lines().enumerate() {
        let number = index + 1;
        if let Some(language) = line.strip_prefix("```") {
            fence = if fence.is_some() { None } else { Some(language.trim()) };
            in_command = false;
            if fence == Some("sh") {
                steps.push(Step { line: number + 1, command: String::new(), expected: None });
            }
            continue;
        }
        match fence {
            Some("sh") => {
                let step = steps.last_mut().unwrap();
                step.command.push_str(line);
                step.command.push('\n');
            }
            Some("console") => {
                if let Some(command) = line.strip_prefix("$ ") {
                    let expected = Some(Expected::default());
                    steps.push(Step { line: number, command: command.to_owned(), expected });
                    in_command = true;
                    continue;
                }
                let step = steps.last_mut().unwrap_or_else(|| panic!("line {number}: output without a command"));
                if let (true, Some(more)) = (in_command, line.strip_prefix("> ")) {
                    step.command.push('\n');
                    step.command.push_str(more);
                    continue;
                }
                in_command = false;
                let expected = step.expected.as_mut().unwrap();
                match line.strip_prefix("? ") {
                    Some(code) => expected.exit = code.parse().unwrap(),
                    None => expected.lines.push(line.to_owned()),
                }
            }
            _ => {}
        }
    }
    steps
}

/// Runs `steps` of the file called `name` in one shell. Answers everything that was not as
/// expected; a step after one that ended the shell is not run.
pub(crate) fn run(name: &str, steps: &[Step], server: Option<&Keyclasp>) -> Result<(), String> {
    let mut shell = Shell::start(server);
    let mut report = String::new();
    for step in steps {
        match shell.step(step) {
            Ok(()) => {}
            Err(problem) => {
                let command = step.command.trim_end().replace('\n', "\n  ");
                let _ = write!(report, "\n{name}:{}: $ {command}\n{problem}", step.line);
                if shell.ended {
                    break;
                }
            }
        }
    }
    if report.is_empty() { Ok(()) } else { Err(report) }
}

struct Shell {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
    ended: bool,
    _home: TempDir,
}

impl Shell {
    /// A shell in an empty home directory, with `keyclasp` on its PATH and `server` as what it
    /// calls; `$SERVICE` is the directory of the server's files.
    fn start(server: Option<&Keyclasp>) -> Self {
        let home = TempDir::new();
        let bin = Path::new(PROGRAM).parent().unwrap();
        // Where `scripts/setup.sh` puts tools that are not on this PATH.
        let tools = super::envoy::path().parent().map(|dir| format!(":{}", dir.display())).unwrap_or_default();
        let path = std::env::var("PATH").unwrap() + &tools;
        let mut command = Command::new("bash");
        command
            .args(["--noprofile", "--norc"])
            .env_clear()
            .env("PATH", format!("{}:{path}", bin.display()))
            .env("HOME", home.path())
            .env("LC_ALL", "C.UTF-8")
            .current_dir(home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        if let Some(server) = server {
            command
                .env("KEYCLASP_ENDPOINT", server.endpoint())
                .env("KEYCLASP_TOKEN_FILE", server.token_file())
                .env("SERVICE", server.dir());
        }
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.split(b'\n').map_while(Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
            }
        });
        Self { child, stdin, lines, ended: false, _home: home }
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        // A block of `sh` stops at the first command that fails, and takes the shell with it.
        let strict = if step.expected.is_none() { "set -eo pipefail" } else { "set +eo pipefail" };
        writeln!(self.stdin, "{strict}\n{{ {}\n}} </dev/null 2>&1\nprintf '\\n{MARK} %d\\n' $?", step.command)
            .map_err(|_| "the shell has ended".to_owned())?;
        let mut output = Vec::new();
        let exit = loop {
            match self.lines.recv_timeout(BOUND) {
                Ok(line) => match line.strip_prefix(MARK) {
                    Some(exit) => break exit.trim().parse::<i32>().unwrap(),
                    None => output.push(line),
                },
                Err(error) => {
                    self.ended = true;
                    let why = match error {
                        RecvTimeoutError::Timeout => format!("it has not ended within {BOUND:?}"),
                        RecvTimeoutError::Disconnected => "it failed, and the shell with it".to_owned(),
                    };
                    return Err(format!("{why}; it said:\n{}\n", output.join("\n")));
                }
            }
        };
        // The line break before the mark: an empty last line if the output ended with one.
        if output.last().is_some_and(String::is_empty) {
            output.pop();
        }
        let Some(expected) = &step.expected else { return Ok(()) };
        if expected.exit == exit && matches(&expected.lines, &output) {
            return Ok(());
        }
        Err(format!(
            "expected, exit code {}:\n{}\nbut it was, exit code {exit}:\n{}\n",
            expected.exit,
            expected.lines.join("\n"),
            output.join("\n")
        ))
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether `lines` are as expected.
fn matches(expected: &[String], lines: &[String]) -> bool {
    match expected.split_first() {
        None => lines.is_empty(),
        Some((first, rest)) if first == "..." => (0..=lines.len()).any(|skipped| matches(rest, &lines[skipped..])),
        Some((first, rest)) => {
            lines.split_first().is_some_and(|(line, others)| line_matches(first, line) && matches(rest, others))
        }
    }
}

fn line_matches(expected: &str, line: &str) -> bool {
    let mut parts = expected.split("[..]");
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    true
}

#[test]
fn wildcards() {
    let matches = |expected: &str, lines: &str| {
        let split = |text: &str| text.lines().map(ToOwned::to_owned).collect::<Vec<_>>();
        matches(&split(expected), &split(lines))
    };
    assert!(matches("a\nb", "a\nb") && !matches("a\nb", "a") && !matches("a", "a\nb"));
    assert!(matches("a [..] c", "a b c") && !matches("a [..] c", "a b d"));
    assert!(matches("[..]b[..]", "abc") && matches("[..]", "x") && !matches("a", "a "));
    assert!(!matches("x[..]x", "x"), "one character is not both ends");
    assert!(matches("...\nz", "a\nb\nz") && matches("...", "") && !matches("...\nz", "a\nb"));
}

#[test]
fn commands_and_what_they_print() {
    let markdown = "text\n```console\n$ echo a &&\n> echo b\na\nb\n$ false\n? 1\n```\n```toml\n$ x\n```\n```sh\nx=1\necho $x\n```\n";
    let found = steps(markdown);
    assert_eq!(found.len(), 3);
    assert_eq!((found[0].line, found[0].command.as_str()), (3, "echo a &&\necho b"));
    assert_eq!(found[1].expected, Some(Expected { lines: vec![], exit: 1 }));
    assert_eq!((found[2].command.as_str(), &found[2].expected), ("x=1\necho $x\n", &None));
    run("it", &found, None).unwrap();
}

#[test]
fn what_is_not_as_expected_is_reported_with_its_line() {
    let report = |markdown: &str| run("f", &steps(markdown), None).unwrap_err();
    assert!(report("```console\n$ echo a\nb\n```").contains("f:2: $ echo a"));
    assert!(report("```console\n$ false\n```").contains("exit code 1"));
    let failed = report("```sh\ntrue\nfalse\ntrue\n```\n```sh\ntrue\n```");
    assert!(failed.contains("f:2") && failed.contains("the shell with it") && !failed.contains("f:7"), "{failed}");
    assert!(report("```sh\nfalse | true\n```").contains("f:2"));
}
