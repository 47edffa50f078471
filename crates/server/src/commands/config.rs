//! `kalamdb config`: the settings in effect, or the sample file.
//!
//! Invariant: changes nothing, starts nothing, shows no secret.

use std::io::Write as _;

use crate::{
    Failure,
    settings::{self, Source},
};

/// What the command line says.
#[derive(clap::Args)]
pub struct Arguments {
    /// Print the sample settings file instead: every setting, explained
    #[arg(long)]
    sample: bool,
    #[command(flatten)]
    source: Source,
}

/// Prints them.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let text = if arguments.sample { settings::sample() } else { settings::load(&arguments.source)?.show() };
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}
