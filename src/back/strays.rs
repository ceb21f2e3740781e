//! Files in an output folder that no manifest names.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Output;
use crate::error::Error;
use crate::plan::Tar;
use crate::record::{self, Hasher};

/// Tells the files below the folder of these manifests that none of them names, folder by folder, and how
/// many there are. A run's manifests are its own; its journal is not, as it says that a run is not
/// finished. Links are told, and not followed.
///
/// It takes 8 bytes a name of memory.
///
/// # Errors
/// [`Error::Open`] where a folder cannot be read, [`Error::Format`] for a damaged manifest.
pub fn strays(outputs: &[Output], tell: &mut dyn FnMut(&Path)) -> Result<u64, Error> {
    let Some(Output { folder, .. }) = outputs.first() else { return Ok(0) };
    if fs::metadata(folder).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(0); // that its images are missing is told of each
    }
    let mut names = Vec::new();
    for output in outputs {
        output.sums(&mut |line| {
            if line.error.is_none() {
                names.push(hash(&line.name));
            }
            Ok(())
        })?;
    }
    names.sort_unstable();
    let tars: Option<Vec<Tar>> = outputs.iter().map(Output::tar).collect::<Result<_, _>>()?;
    // A tar is beside whatever it likes: only others of its numbers may be taken for its own.
    let is_near = |name: &str| {
        tars.as_ref().is_none_or(|tars| tars.iter().any(|tar| tar.number(name).is_some()))
    };
    let own: HashSet<PathBuf> = record::manifests(folder)?.into_iter().collect();
    let named = outputs.iter().map(|output| &output.manifest);
    let is_own = |path: &PathBuf| own.contains(path) || named.clone().any(|of| of == path);
    let mut found = 0;
    let mut folders = vec![String::new()];
    while let Some(below) = folders.pop() {
        let path = folder.join(&below);
        let failed = |source| Error::Open { path: path.clone(), source };
        let mut entries = Vec::new();
        for entry in fs::read_dir(&path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let leaf = entry.file_name();
            let name = if below.is_empty() {
                leaf.to_string_lossy().into_owned()
            } else {
                format!("{below}/{}", leaf.to_string_lossy())
            };
            if entry.file_type().map_err(failed)?.is_dir() {
                folders.extend(tars.is_none().then_some(name));
            } else if is_near(&name)
                && names.binary_search(&hash(&name)).is_err()
                && !is_own(&entry.path())
            {
                entries.push(entry.path());
            }
        }
        entries.sort();
        entries.iter().for_each(|path| tell(path));
        found += entries.len() as u64;
    }
    Ok(found)
}

fn hash(name: &str) -> u64 {
    let mut hasher = Hasher::default();
    hasher.text(name);
    hasher.finish()
}
