//! Settings for people: the sample file, and what `kalamdb config` prints.
//!
//! Invariant: both are valid TOML, made from the table alone; neither holds a secret.

use std::fmt::Write as _;

use super::{Effective, Loaded, SECTIONS, spec::Key};

const SAMPLE_HEAD: &str = "\
# KalamDB: every setting, at its default. `kalamdb config --sample` prints this file.
#
# The server reads ./config.toml if it is there, or the file that --config names. Variables of the environment
# come after it (KALAMDB_SERVER__PORT sets server.port), flags last. `kalamdb config` shows what is in effect
# and where each value came from.
#
# To set something, remove the # before its name.
";

/// The sample `config.toml`.
pub fn sample() -> String {
    let mut sample = SAMPLE_HEAD.to_owned();
    for section in SECTIONS {
        sample.push('\n');
        push_comment(&mut sample, section.doc);
        push_line(&mut sample, format_args!("[{}]", section.name));
        for key in section.keys {
            sample.push('\n');
            push_comment(&mut sample, key.doc);
            push_line(&mut sample, format_args!("# Allowed: {}.", key.spec));
            push_line(&mut sample, format_args!("#{} = {}", key.name, key.spec.example()));
        }
    }
    sample
}

impl Loaded {
    /// The settings in effect, each with where it came from.
    pub fn show(&self) -> String {
        let mut shown = match &self.file {
            Some(file) => format!("# From the defaults, then {file}, then the environment, then flags.\n"),
            None => "# From the defaults, then the environment, then flags; no settings file was read.\n".to_owned(),
        };
        let mut section = "";
        for effective in &self.values.0 {
            if effective.key.section != section {
                section = effective.key.section;
                push_line(&mut shown, format_args!("\n[{section}]"));
            }
            push_line(&mut shown, format_args!("{:<44} # {}", assignment(effective), effective.origin));
        }
        shown
    }
}

fn assignment(effective: &Effective) -> String {
    let Key { name, spec, .. } = effective.key;
    match &effective.value {
        Some(value) => format!("{name} = {}", spec.write(value)),
        None => format!("# {name} is not set"),
    }
}

/// Doc comments begin with a space, which is the one after the `#`.
fn push_comment(text: &mut String, lines: &[&str]) {
    for line in lines {
        push_line(text, format_args!("#{line}"));
    }
}

fn push_line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    writeln!(text, "{line}").unwrap_or_default();
}
