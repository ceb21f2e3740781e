//! `*.safetensors.index.json`: one dump whose tensors lie in several `.safetensors` files beside it,
//! as Hugging Face's libraries write large checkpoints. Strict: each tensor must be where the map
//! says, and each file must hold what the map says and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::formats::{Found, open, open_error};
use super::header::{LONGEST, Strings};
use super::reading::Reading;
use crate::error::{Error, shown, shown_problem};

const SUFFIX: &str = ".safetensors.index.json";

/// The dump's name, if the file is an index by its name.
pub(super) fn stem(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?;
    name.strip_suffix(SUFFIX).filter(|stem| !stem.is_empty())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    /// Total size, and what else libraries tell each other.
    #[serde(default, rename = "metadata")]
    _metadata: IgnoredAny,
    weight_map: Strings,
}

/// The files that an index names, in the order of their names, and the tensors that it says are in
/// each.
type Map = BTreeMap<String, BTreeSet<String>>;

fn wrong(path: &Path, problem: String) -> Error {
    Error::Format { path: path.to_owned(), format: "safetensors index", problem }
}

fn read(path: &Path) -> Result<Map, Error> {
    let wrong = |problem: String| wrong(path, problem);
    if !fs::metadata(path).map_err(open_error(path))?.is_file() {
        return Err(wrong("it is not a regular file".to_owned()));
    }
    let mut text = String::new();
    let file = File::open(path).map_err(open_error(path))?;
    file.take(LONGEST + 1).read_to_string(&mut text).map_err(open_error(path))?;
    if text.len() as u64 > LONGEST {
        return Err(wrong(format!("it has more than {LONGEST} bytes")));
    }
    // serde would make the struct of a list, too.
    if !text.trim_start().starts_with('{') {
        return Err(wrong("it is no map".to_owned()));
    }
    let raw: Raw = serde_json::from_str(&text).map_err(|error| wrong(shown_problem(&error)))?;
    let mut files = Map::new();
    for (tensor, file) in raw.weight_map.0 {
        check_name(&file).map_err(|problem| {
            wrong(format!("tensor {} is in {}: {problem}", shown(&tensor), shown(&file)))
        })?;
        files.entry(file).or_default().insert(tensor);
    }
    if files.is_empty() {
        return Err(wrong("its weight_map is empty".to_owned()));
    }
    Ok(files)
}

/// The paths of the files that an index names; `None` where it is no index by its name.
///
/// # Errors
/// [`Error::Open`] or [`Error::Format`] for the index.
#[cfg(feature = "cli")]
pub(crate) fn files(path: &Path) -> Result<Option<Vec<PathBuf>>, Error> {
    if stem(path).is_none() {
        return Ok(None);
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    Ok(Some(read(path)?.keys().map(|file| folder.join(file)).collect()))
}

/// Opens the files that an index names, in the order of their names.
///
/// # Errors
/// [`Error::Open`] or [`Error::Format`] for the index or a file of it, [`Error::Inputs`] with all of
/// them for several.
pub(super) fn open_all(path: &Path) -> Result<Vec<(PathBuf, Found)>, Error> {
    let wrong = |problem: String| wrong(path, problem);
    let files = read(path)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let (mut opened, mut bad) = (Vec::new(), Vec::new());
    for (file, tensors) in &files {
        let at = folder.join(file);
        match open(&at, &Reading::default()) {
            Err(error) => bad.push(error),
            Ok(found) => match difference(&found, tensors) {
                Some((tensor, true)) => bad.push(wrong(format!(
                    "tensor {} is said to be in {}, and is not",
                    shown(tensor),
                    shown(file)
                ))),
                Some((tensor, false)) => bad.push(wrong(format!(
                    "tensor {} is in {}, which it does not say",
                    shown(tensor),
                    shown(file)
                ))),
                None => opened.push((at, found)),
            },
        }
    }
    if bad.is_empty() { Ok(opened) } else { Err(Error::of_all(bad)) }
}

/// A tensor that is only said to be in a file (true), or only is.
fn difference<'t>(found: &'t Found, said: &'t BTreeSet<String>) -> Option<(&'t str, bool)> {
    let said: BTreeSet<&str> = said.iter().map(String::as_str).collect();
    let there: BTreeSet<&str> = found.header.tensors.iter().map(|t| t.name.as_str()).collect();
    let missing = said.difference(&there).next().map(|tensor| (*tensor, true));
    missing.or_else(|| there.difference(&said).next().map(|tensor| (*tensor, false)))
}

/// Files lie beside the index, or below it.
fn check_name(file: &str) -> Result<(), &'static str> {
    if file.starts_with('/') || file.contains(['\\', ':', '\0']) {
        return Err("files are named relative to the index");
    }
    if file.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err("files are beside the index or below it");
    }
    if !file.ends_with(".safetensors") {
        return Err("it is no .safetensors file");
    }
    Ok(())
}
