//! `medley completions`: for which shell.

use std::io::{self, Write};

use clap_complete::Shell;

/// What `medley completions` was asked.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Completions {
    /// The shell: bash, zsh, fish, elvish or powershell
    #[arg(value_name = "SHELL", value_enum, hide_possible_values = true)]
    pub shell: Shell,
}

impl Completions {
    /// Writes the script that the shell is to source. Blocks.
    ///
    /// # Errors
    /// `out` cannot be written to.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        // The library's own writing ends the process where nobody reads.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut super::command(), "medley", &mut script);
        out.write_all(&script)
    }
}
