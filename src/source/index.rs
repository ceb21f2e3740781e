//! `*.safetensors.index.json`: one dump whose tensors lie in several `.safetensors` files beside it,
//! as Hugging Face's libraries write large checkpoints. Strict: each tensor must be where the map
//! says, and each file must hold what the map says and nothing else.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs::{self, File};
use std::hash::BuildHasher as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::formats::{Found, open, open_error};
use super::header::LONGEST;
use super::reading::Reading;
use crate::error::{Error, shown, shown_problem};

const SUFFIX: &str = ".safetensors.index.json";
/// Files at most: each takes ten times the bytes that its name has.
const MOST_FILES: usize = 100_000;

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
    weight_map: Map,
}

/// The files that an index names, in the order of their names, and the tensors that it says are in
/// each.
#[derive(Default)]
struct Map(BTreeMap<String, Vec<Box<str>>>);

impl<'de> Deserialize<'de> for Map {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Map, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Map;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from strings to strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Map, A::Error> {
                let mut files = Map::default();
                // Hashes are few bytes; where two are equal, names are looked at.
                let (mut seen, hash) = (HashSet::new(), RandomState::new());
                while let Some((tensor, file)) = map.next_entry::<Box<str>, String>()? {
                    if !seen.insert(hash.hash_one(&tensor)) && files.has(&tensor) {
                        let twice = format!("the key {} stands twice in a map", shown(&tensor));
                        return Err(de::Error::custom(twice));
                    }
                    if let Some(tensors) = files.0.get_mut(&file) {
                        tensors.push(tensor);
                        continue;
                    }
                    if files.0.len() == MOST_FILES {
                        let problem = format!("it names more than {MOST_FILES} files");
                        return Err(de::Error::custom(problem));
                    }
                    files.0.insert(file, vec![tensor]);
                }
                Ok(files)
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

impl Map {
    fn has(&self, tensor: &str) -> bool {
        self.0.values().flatten().any(|other| **other == *tensor)
    }
}

fn wrong(path: &Path, problem: String) -> Error {
    Error::Format { path: path.to_owned(), format: "safetensors index", problem }
}

fn read(path: &Path) -> Result<BTreeMap<String, Vec<Box<str>>>, Error> {
    let wrong = |problem: String| wrong(path, problem);
    if !fs::metadata(path).map_err(open_error(path))?.is_file() {
        return Err(wrong("it is not a regular file".to_owned()));
    }
    let mut text = Vec::new();
    let file = File::open(path).map_err(open_error(path))?;
    file.take(LONGEST + 1).read_to_end(&mut text).map_err(open_error(path))?;
    if text.len() as u64 > LONGEST {
        return Err(wrong(format!("it has more than {LONGEST} bytes")));
    }
    let text = String::from_utf8(text).map_err(|_| wrong("it is no text, in UTF-8".to_owned()))?;
    // serde would make the struct of a list, too.
    if !text.trim_start().starts_with('{') {
        return Err(wrong("it is no map".to_owned()));
    }
    let raw: Raw = serde_json::from_str(&text).map_err(|error| wrong(shown_problem(&error)))?;
    let mut files = raw.weight_map.0;
    for (file, tensors) in &mut files {
        tensors.sort_unstable();
        check_name(file).map_err(|problem| {
            let tensor = tensors.first().map_or_else(String::new, |tensor| shown(tensor));
            wrong(format!("tensor {tensor} is in {}: {problem}", shown(file)))
        })?;
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

/// A tensor that is only said to be in a file (true), or only is. Those that are said are in order.
fn difference<'t>(found: &'t Found, said: &'t [Box<str>]) -> Option<(&'t str, bool)> {
    let mut there: Vec<&str> = found.header.tensors.iter().map(|t| t.name.as_str()).collect();
    there.sort_unstable();
    let mut said_of = said.iter().map(|tensor| &**tensor);
    let missing = said_of.find(|tensor| there.binary_search(tensor).is_err());
    let is_said = |tensor: &&str| said.binary_search_by(|one| (**one).cmp(tensor)).is_ok();
    let more = || there.iter().copied().find(|tensor| !is_said(tensor));
    missing.map(|tensor| (tensor, true)).or_else(|| more().map(|tensor| (tensor, false)))
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
