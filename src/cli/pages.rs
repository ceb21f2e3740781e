//! `tensortiff completions` and `tensortiff man`: what shells and `man` want to know, out of the same
//! definitions that read what is typed.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;

use super::args::Args;
use super::{Ending, results};
use crate::error::{Error, shown};

pub(super) const SHELLS: &str = "\
Examples:
  tensortiff completions bash > ~/.local/share/bash-completion/completions/tensortiff
  tensortiff completions zsh > ~/.zfunc/_tensortiff     (with `fpath+=~/.zfunc` before compinit)
  tensortiff completions fish > ~/.config/fish/completions/tensortiff.fish
  tensortiff completions powershell >> $PROFILE
  tensortiff completions elvish >> ~/.config/elvish/rc.elv";

#[derive(Debug, clap::Args)]
pub(super) struct CompletionsArgs {
    /// The shell.
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

#[derive(Debug, clap::Args)]
pub(super) struct ManArgs {
    /// The command whose page is printed.
    #[arg(value_name = "COMMAND")]
    command: Option<String>,

    /// Write the pages of all commands into this folder, which is made if it does not exist.
    #[arg(short, long, value_name = "DIR", conflicts_with = "command")]
    output: Option<PathBuf>,
}

pub(super) fn completions(args: &CompletionsArgs) -> anyhow::Result<Ending> {
    let mut script = Vec::new();
    let mut command = Args::command();
    let name = command.get_name().to_owned();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    results(|out| out.write_all(&script))?;
    Ok(Ending::Done)
}

pub(super) fn man(args: &ManArgs) -> anyhow::Result<Ending> {
    let pages = pages();
    if let Some(folder) = &args.output {
        write(&pages, folder)?;
        return Ok(Ending::Done);
    }
    let name = match &args.command {
        None => "tensortiff".to_owned(),
        Some(command) => format!("tensortiff-{command}"),
    };
    let Some((_, page)) = pages.iter().find(|(page, _)| *page == name) else {
        let command = shown(args.command.as_deref().unwrap_or_default());
        return Err(Error::Usage(format!("{command} is no command of this program's")).into());
    };
    results(|out| out.write_all(page))?;
    Ok(Ending::Done)
}

/// The pages by name: of the program, and of each of its commands.
fn pages() -> Vec<(String, Vec<u8>)> {
    let mut whole = Args::command();
    // What is said of all commands is said of each.
    whole.build();
    let page = |command: &Command| {
        let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
        let mut page = Vec::new();
        Man::new(command.clone()).render(&mut page).expect("memory takes everything");
        (name, page)
    };
    let of_commands = whole.get_subcommands().filter(|command| command.get_name() != "help");
    std::iter::once(&whole).chain(of_commands).map(page).collect()
}

fn write(pages: &[(String, Vec<u8>)], folder: &Path) -> Result<(), Error> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Write { path, source }
    };
    fs::create_dir_all(folder).map_err(failed(folder))?;
    for (name, page) in pages {
        let path = folder.join(format!("{name}.1"));
        fs::write(&path, page).map_err(failed(&path))?;
    }
    Ok(())
}
