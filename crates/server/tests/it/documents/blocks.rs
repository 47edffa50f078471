//! The blocks of a document: what stands between two fences, and what the line before them says about it.
//!
//! Invariant: reads, runs nothing, and knows no document.
//!
//! ````text
//! <!-- not run: it takes an hour -->      the line before a fence can say how the block is run: see [`Mark`]
//! ```console
//! $ kalamdb sql --user user_bob -c "SELECT …"      a command, with the lines that it goes on for
//! kalamdb: Only your own …                         what it prints: these lines, in this order; … is anything
//! ```
//! ```js chat.mjs                           a block with a name is a file
//! ````

use std::process::Command;

/// A block.
#[derive(Debug, Clone)]
pub struct Block {
    /// Where it begins, for whoever reads of a failure.
    pub line: usize,
    /// The first word after the fence; empty where there is none.
    pub language: String,
    /// The second word: the file that it is.
    pub file: Option<String>,
    /// How it is run.
    pub mark: Mark,
    /// Whether nothing but an empty line stands between it and the block before: then it shows what that one answers.
    pub adjacent: bool,
    /// What stands in it.
    pub text: String,
}

/// How a block is run, by the comment before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// As what it is.
    None,
    /// `<!-- not run: REASON -->`
    NotRun,
    /// `<!-- goes on -->`: what it starts does not end by itself.
    GoesOn,
    /// `<!-- shown by what goes on -->`: lines that come from that.
    Shown,
    /// `<!-- subscriptions -->`: each statement can be subscribed to.
    Subscriptions,
}

/// A command of a `console` block and what it prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompted {
    /// The command, which may have several lines.
    pub command: String,
    /// What it prints, as far as the document shows it.
    pub expected: Vec<String>,
}

/// The blocks of a document.
pub fn blocks(document: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut lines = document.lines().enumerate();
    let (mut mark, mut adjacent) = (Mark::None, false);
    while let Some((number, line)) = lines.next() {
        let Some(words) = line.strip_prefix("```") else {
            if let Some(comment) = line.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->")) {
                mark = marked(comment).unwrap_or_else(|| panic!("line {}: what does {line} mean?", number + 1));
            } else if !line.trim().is_empty() {
                (mark, adjacent) = (Mark::None, false);
            }
            continue;
        };
        let text: Vec<&str> = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").collect();
        let mut words = words.split_whitespace().map(str::to_owned);
        let (language, file) = (words.next().unwrap_or_default(), words.next());
        blocks.push(Block { line: number + 1, language, file, mark, adjacent, text: text.join("\n") + "\n" });
        (mark, adjacent) = (Mark::None, true);
    }
    blocks
}

/// What a comment says of the block after it. A reason must stand where one is needed.
fn marked(comment: &str) -> Option<Mark> {
    match comment {
        "goes on" => Some(Mark::GoesOn),
        "shown by what goes on" => Some(Mark::Shown),
        "subscriptions" => Some(Mark::Subscriptions),
        other => other.strip_prefix("not run: ").filter(|reason| !reason.trim().is_empty()).map(|_| Mark::NotRun),
    }
}

/// The commands of a `console` block.
pub fn prompted(block: &Block) -> Vec<Prompted> {
    let mut commands: Vec<Prompted> = Vec::new();
    for line in block.text.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            commands.push(Prompted { command: command.to_owned(), expected: Vec::new() });
            continue;
        }
        let last = commands.last_mut().unwrap_or_else(|| panic!("line {}: no `$ ` at the beginning", block.line));
        if last.expected.is_empty() && !is_complete(&last.command) {
            last.command = format!("{}\n{line}", last.command);
        } else if !line.trim().is_empty() {
            last.expected.push(line.to_owned());
        }
    }
    commands
}

/// Whether a shell would run the command rather than wait for its next line. The shell itself says so.
fn is_complete(command: &str) -> bool {
    let output = Command::new("bash").args(["-n", "-c", command]).output().expect("bash runs");
    // For a here-document without its end it only warns.
    output.status.success() && output.stderr.is_empty() && !command.ends_with('\\')
}

/// The statements of an `sql` block, and whether the comment after one says that it is for admins.
pub fn statements(text: &str) -> Vec<(String, bool)> {
    let mut statements = Vec::new();
    let mut pending = String::new();
    for line in text.lines() {
        pending = pending + line + "\n";
        let (code, comment) = line.split_once("--").unwrap_or((line, ""));
        if code.trim_end().ends_with(';') {
            statements.push((std::mem::take(&mut pending), comment.contains("admins")));
        }
    }
    let rest = pending.lines().any(|line| !line.trim().is_empty() && !line.starts_with("--"));
    if rest {
        statements.push((pending, false));
    }
    statements
}

#[test]
fn a_document_is_taken_apart() {
    let document = "Some text.\n\n<!-- goes on -->\n```console\n$ one \\\n  'two\n  three'\nprints …\n$ four\n```\n```\nshown\n```\n\
                    More.\n<!-- not run: it is long -->\n```js chat.mjs\nlet x;\n```\n";
    let found = blocks(document);
    let seen: Vec<_> = found.iter().map(|one| (one.line, one.language.as_str(), one.mark, one.adjacent)).collect();
    assert_eq!(
        seen,
        [(4, "console", Mark::GoesOn, false), (11, "", Mark::None, true), (15 + 1, "js", Mark::NotRun, false)]
    );
    assert_eq!(found[2].file.as_deref(), Some("chat.mjs"));
    let commands = prompted(&found[0]);
    assert_eq!(commands[0].command, "one \\\n  'two\n  three'");
    assert_eq!(commands[0].expected, ["prints …"]);
    assert_eq!((commands[1].command.as_str(), commands[1].expected.len()), ("four", 0));
}

#[test]
fn a_here_document_is_one_command() {
    let document = "```console\n$ cat >x <<'END'\n$ is no prompt here\nEND\nprinted\n```\n";
    let commands = prompted(&blocks(&document.replace("$ is", "is"))[0]);
    assert_eq!(commands[0].command, "cat >x <<'END'\nis no prompt here\nEND");
    assert_eq!(commands[0].expected, ["printed"]);
}

#[test]
fn statements_end_with_semicolons() {
    let text = "-- first\nSELECT 1\nFROM x;\nSELECT 2;   -- admins\n\nSELECT 3\n";
    let found = statements(text);
    let admins: Vec<bool> = found.iter().map(|(_, admin)| *admin).collect();
    assert_eq!(admins, [false, true, false]);
    assert_eq!(found[0].0, "-- first\nSELECT 1\nFROM x;\n");
    assert!(statements("-- only a remark\n").is_empty());
}
