//! `medley man`: which manual pages, and where to.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

/// What `medley man` was asked.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Man {
    /// Folder for the pages of all commands, e.g. ~/.local/share/man/man1 [default: the main page, to standard output]
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

impl Man {
    /// Writes the page of `medley` to `out` or, where a folder is given, the pages of all commands into it. Blocks.
    ///
    /// # Errors
    /// `out` or the folder cannot be written to.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let command = super::command().disable_help_subcommand(true);
        let Some(folder) = &self.folder else { return clap_mangen::Man::new(command).render(out) };
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("write into {}: {error}", folder.display()));
        fs::create_dir_all(folder).map_err(named)?;
        clap_mangen::generate_to(command, folder).map_err(named)
    }
}
