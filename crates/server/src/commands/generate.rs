//! `kalamdb generate`: man pages and completions, for whoever packages the program.
//!
//! Invariant: all of it comes from the command line's own definition, so that it says what the program does.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::{Command, CommandFactory as _, ValueEnum as _};
use clap_complete::Shell;

use crate::{CommandLine, Failure};

/// What the command line says.
#[derive(clap::Args)]
pub struct Arguments {
    /// The folder to write into, with the folders that /usr/share has: man/man1, bash-completion/completions, …
    folder: PathBuf,
}

/// The place, below `share`, where a shell looks for completions. No folder is known for the shells that are left out.
fn place(shell: Shell) -> Option<&'static str> {
    match shell {
        Shell::Bash => Some("bash-completion/completions/kalamdb"),
        Shell::Fish => Some("fish/vendor_completions.d/kalamdb.fish"),
        Shell::Zsh => Some("zsh/site-functions/_kalamdb"),
        _ => None,
    }
}

/// Writes them.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let command = CommandLine::command();
    write_man_pages(command.clone(), &arguments.folder.join("man/man1"))?;
    for (shell, place) in Shell::value_variants().iter().filter_map(|shell| Some((*shell, place(*shell)?))) {
        write_completions(command.clone(), shell, &arguments.folder.join(place))?;
    }
    Ok(())
}

fn write_man_pages(command: Command, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    clap_mangen::generate_to(command, folder)
}

fn write_completions(mut command: Command, shell: Shell, file: &Path) -> io::Result<()> {
    fs::create_dir_all(file.parent().unwrap_or(Path::new(".")))?;
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "kalamdb", &mut script);
    fs::write(file, script)
}
