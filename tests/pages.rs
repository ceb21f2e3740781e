//! Completions and manual pages name what there is.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test that panics says where")]

#[path = "common/tool.rs"]
mod tool;

use std::fs;

use tool::{ends_with, folder};

const SHELLS: [&str; 5] = ["bash", "zsh", "fish", "powershell", "elvish"];

/// The long options of a command, as its help lists them.
fn options(command: &str) -> Vec<String> {
    let (help, _) = ends_with(0, &[command, "--help"]);
    let heads = help.lines().filter(|line| {
        let indent = line.len() - line.trim_start().len();
        (2..=6).contains(&indent) && line.trim_start().starts_with('-')
    });
    let long = |line: &str| {
        let word = line.split_whitespace().find(|word| word.starts_with("--"))?;
        let end = word[2..].find(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
        Some(word[..end.map_or(word.len(), |end| end + 2)].to_owned())
    };
    heads.filter_map(long).collect()
}

/// The commands, as the program's help lists them.
fn commands() -> Vec<String> {
    let (help, _) = ends_with(0, &["--help"]);
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = lines.take_while(|line| line.starts_with("  "));
    let names = lines.filter(|line| !line.starts_with("   "));
    names.filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect()
}

#[test]
fn every_option_is_named() {
    let all = options("convert");
    assert!(all.len() > 40 && all.contains(&"--bigtiff".to_owned()), "{all:?}");
    let (page, _) = ends_with(0, &["man", "convert"]);
    let page = page.replace("\\-", "-");
    for option in &all {
        assert!(page.contains(&format!("\\fB{option}\\fR")), "man: {option}");
    }
    for shell in SHELLS {
        let (script, _) = ends_with(0, &["completions", shell]);
        for option in &all {
            let named = match shell {
                "fish" => {
                    script.contains(&format!(" -l {} ", &option[2..]))
                        || script.contains(&format!(" -l {}\n", &option[2..]))
                }
                _ => script.contains(option.as_str()),
            };
            assert!(named, "{shell}: {option}");
        }
    }
    ends_with(2, &["completions", "tcsh"]);
    ends_with(2, &["completions"]);
}

#[test]
fn every_command_has_a_page() {
    let all = commands();
    assert!(all.len() > 12 && all.contains(&"verify".to_owned()), "{all:?}");
    let (_dir, out) = folder();
    ends_with(0, &["man", "-o", &out]);
    let mut pages: Vec<String> = fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let mut due: Vec<String> = all
        .iter()
        .filter(|command| *command != "help")
        .map(|command| format!("tensortiff-{command}.1"))
        .chain(["tensortiff.1".to_owned()])
        .collect();
    pages.sort();
    due.sort();
    assert_eq!(pages, due);
    let (whole, _) = ends_with(0, &["man"]);
    for command in due.iter().filter(|page| *page != "tensortiff.1") {
        let told = command.trim_end_matches(".1").replace('-', "\\-");
        assert!(whole.contains(&format!("{told}(1)")), "{command}");
    }
    assert_eq!(fs::read_to_string(format!("{out}/tensortiff.1")).unwrap(), whole);
    let (_, said) = ends_with(2, &["man", "nothing"]);
    assert!(said.contains("nothing is no command"), "{said}");
    // A file in the folder's place.
    let (_, said) = ends_with(1, &["man", "-o", &format!("{out}/tensortiff.1")]);
    assert!(said.contains("tensortiff.1") && said.lines().count() == 1, "{said}");
}

/// In a shell, as Tab does it.
#[test]
#[cfg(unix)]
fn bash_completes() {
    let tool = env!("CARGO_BIN_EXE_tensortiff");
    let script = format!(
        "source <('{tool}' completions bash); COMP_WORDS=(tensortiff convert --bigt); COMP_CWORD=2; \
         _tensortiff tensortiff --bigt convert; echo \"${{COMPREPLY[@]}}\""
    );
    let output = std::process::Command::new("bash").args(["-c", &script]).output().unwrap();
    assert_eq!(tool::text(&output.stdout), "--bigtiff\n", "{}", tool::text(&output.stderr));
}
