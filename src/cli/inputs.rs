//! What was typed as dumps becomes files: folders, patterns, lists.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::args::ReadingArgs;
use super::{Verbosity, say};
use crate::error::{Error, counted, shown, shown_path};
use crate::source::{DumpFiles, Reading, View, files_of_index, why_not};
use crate::tensor::Glob;

/// Longest list that is read.
const LONGEST: u64 = 1 << 30;
/// What files in folders are taken.
const EXTENSIONS: [&str; 5] = ["safetensors", "npy", "npz", "pt", "pth"];
/// The name of many things: in folders those files are taken that begin as torch's do.
const MAYBE: &str = "bin";

/// Opens all that is meant.
pub(super) fn open(
    typed: &[PathBuf],
    args: &ReadingArgs,
    verbosity: Verbosity,
) -> Result<View<DumpFiles>, Error> {
    let (layout, reading) = (args.layout()?, args.reading());
    let files = expand(typed, &reading, &mut noting(verbosity)).map_err(Error::of_all)?;
    Ok(View::new(DumpFiles::open_as(&files, &reading)?, layout))
}

/// Says what is to be noted.
pub(super) fn noting(verbosity: Verbosity) -> impl FnMut(String) {
    move |note| {
        if verbosity > Verbosity::Quiet {
            say(&format!("tensortiff: note: {note}"));
        }
    }
}

/// The files that are meant, in the order in which they were typed; those of a folder or pattern by
/// their names. What is wrong with each is told, and what is left out noted.
pub(super) fn expand(
    typed: &[PathBuf],
    reading: &Reading,
    note: &mut dyn FnMut(String),
) -> Result<Vec<PathBuf>, Vec<Error>> {
    let (mut files, mut bad) = (Vec::new(), Vec::new());
    for path in typed {
        match one(path, reading, note) {
            Ok(found) => files.extend(found),
            Err(error) => bad.push(error),
        }
    }
    match (files.is_empty(), bad.is_empty()) {
        (_, false) => Err(bad),
        (true, true) if !typed.is_empty() => {
            Err(vec![Error::Usage("the list names no dump".to_owned())])
        }
        _ => Ok(files),
    }
}

fn one(
    path: &Path,
    reading: &Reading,
    note: &mut dyn FnMut(String),
) -> Result<Vec<PathBuf>, Error> {
    let text = path.to_str().unwrap_or_default();
    if text == "-" {
        let mut list = String::new();
        let read = io::stdin().lock().take(LONGEST).read_to_string(&mut list);
        read.map_err(|source| Error::Open { path: "standard input".into(), source })?;
        return Ok(lines(&list));
    }
    if fs::symlink_metadata(path).is_ok() {
        return if path.is_dir() { folder(path, reading, note) } else { Ok(vec![path.to_owned()]) };
    }
    if let Some(list) = text.strip_prefix('@') {
        let failed = |source| Error::Open { path: list.into(), source };
        let file = fs::File::open(list).map_err(failed)?;
        let mut text = String::new();
        file.take(LONGEST).read_to_string(&mut text).map_err(failed)?;
        return Ok(lines(&text));
    }
    if text.contains(['*', '?', '[']) {
        return pattern(text);
    }
    // To be opened, and told to be missing.
    Ok(vec![path.to_owned()])
}

/// One path a line, as it stands.
fn lines(list: &str) -> Vec<PathBuf> {
    let list = list.strip_prefix('\u{feff}').unwrap_or(list);
    list.lines().filter(|line| !line.is_empty()).map(PathBuf::from).collect()
}

fn folder(
    path: &Path,
    reading: &Reading,
    note: &mut dyn FnMut(String),
) -> Result<Vec<PathBuf>, Error> {
    let mut found = walk(path, &|_| true)?;
    // Raw files are called anything: one that does not fit is told, and none is left out in silence.
    if reading.raw.is_some() {
        return if found.is_empty() { Err(none(path, "no file is in it")) } else { Ok(found) };
    }
    // The files of an index are one dump, under the index's name.
    let (mut indices, mut parts) = (HashSet::new(), HashSet::new());
    for path in &found {
        if let Some(files) = files_of_index(path)? {
            indices.insert(path.clone());
            parts.extend(files);
        }
    }
    let mut left_out: Vec<(PathBuf, String)> = Vec::new();
    let is_dump = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        let known = |of: &str| EXTENSIONS.iter().any(|known| of.eq_ignore_ascii_case(known));
        if extension.is_some_and(|of| of.eq_ignore_ascii_case(MAYBE))
            && let Some(problem) = why_not(path)
        {
            left_out.push((path.clone(), problem));
            return false;
        }
        let known = |of: &str| known(of) || of.eq_ignore_ascii_case(MAYBE);
        indices.contains(path) || (extension.is_some_and(known) && !parts.contains(path))
    };
    found.retain(is_dump);
    let left_out = left_out.first().map(|(first, problem)| {
        let more = left_out.len() as u64 - 1;
        let more = if more > 0 { format!(" and {}", counted(more, "more file")) } else { String::new() };
        format!(
            "{}{more}: left out, as no file of torch.save with tensors ({problem}; --raw takes samples without a \
             header)",
            shown_path(first)
        )
    });
    if found.is_empty() {
        let left_out = left_out.map_or(String::new(), |left_out| format!("; {left_out}"));
        return Err(none(
            path,
            &format!("no .safetensors, .npy, .npz or .pt file is in it{left_out}"),
        ));
    }
    left_out.into_iter().for_each(note);
    Ok(found)
}

fn pattern(text: &str) -> Result<Vec<PathBuf>, Error> {
    let glob = Glob::new(text)
        .map_err(|problem| Error::Usage(format!("the pattern {}: {problem}", shown(text))))?;
    // The folder that no part of the pattern is in.
    let fixed = text.find(['*', '?', '[', '\\']).unwrap_or(text.len());
    let base = text[..fixed].rsplit_once('/').map_or("", |(folder, _)| folder);
    let base = match (base, text.starts_with('/')) {
        ("", true) => "/",
        ("", false) => ".",
        (base, _) => base,
    };
    let may_hold = |folder: &Path| may_hold(text, base, folder);
    let mut found =
        if Path::new(base).is_dir() { walk(Path::new(base), &may_hold)? } else { Vec::new() };
    found.retain(|path| matches(&glob, path));
    let plain = |path: PathBuf| match (base, path.strip_prefix(".")) {
        (".", Ok(path)) if !text.starts_with("./") => path.to_owned(),
        _ => path,
    };
    if found.is_empty() {
        return Err(none(Path::new(text), "no file is meant by this pattern"));
    }
    Ok(found.into_iter().map(plain).collect())
}

/// Whether a path is meant, as the pattern is typed: with the point that stands for this folder or without.
fn matches(glob: &Glob, path: &Path) -> bool {
    let path = path.to_string_lossy();
    glob.matches(&path) || path.strip_prefix("./").is_some_and(|path| glob.matches(path))
}

/// Whether a file in a folder below `base` can be meant: other folders may be large, or may not be read.
fn may_hold(pattern: &str, base: &str, folder: &Path) -> bool {
    let parts: Vec<&str> = pattern.split('/').collect();
    let depth = folder.to_string_lossy().split('/').count();
    let depth = if base == "." && !pattern.starts_with("./") { depth - 1 } else { depth };
    let meant = |start: &str| Glob::new(start).map_or(true, |start| matches(&start, folder));
    pattern.contains("**") || depth < parts.len() && meant(&parts[..depth].join("/"))
}

fn none(path: &Path, problem: &str) -> Error {
    let source = io::Error::new(io::ErrorKind::NotFound, problem);
    Error::Open { path: path.to_owned(), source }
}

/// All files below a folder, by their names, but hidden ones; of folders in it those that are `wanted`.
/// Links to folders are not followed: they may lead in circles. Links to nothing are files, so that
/// opening them tells what is wrong.
fn walk(folder: &Path, wanted: &dyn Fn(&Path) -> bool) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let failed = |source| Error::Open { path: folder.clone(), source };
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let kind = entry.file_type().map_err(failed)?;
            if kind.is_dir() {
                if wanted(&entry.path()) {
                    folders.push(entry.path());
                }
            } else if kind.is_file() || (kind.is_symlink() && !entry.path().is_dir()) {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(typed: &[&str]) -> Result<Vec<String>, String> {
        let typed: Vec<PathBuf> = typed.iter().map(PathBuf::from).collect();
        match expand(&typed, &Reading::default(), &mut |_| ()) {
            Ok(found) => Ok(found.iter().map(|path| path.to_str().unwrap().to_owned()).collect()),
            Err(bad) => Err(Error::of_all(bad).to_string()),
        }
    }

    #[test]
    fn folders_patterns_and_lists_become_files() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_str().unwrap().to_owned();
        for name in ["b.safetensors", "a.npy", "sub/c.NPY", "sub/.d.npy", ".e/f.npy", "sub/g.txt"] {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        fs::create_dir(dir.path().join("empty")).unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(&root, dir.path().join("sub/loop")).unwrap();
        let at = |name: &str| format!("{root}/{name}");
        let all = |names: &[&str]| Ok(names.iter().map(|name| at(name)).collect::<Vec<_>>());
        assert_eq!(names(&[&root]), all(&["a.npy", "b.safetensors", "sub/c.NPY"]));
        let index = at("sub/m.safetensors.index.json");
        for file in ["sub/m-1.safetensors", "sub/m-2.safetensors", "sub/own.safetensors"] {
            fs::write(at(file), "").unwrap();
        }
        let map = r#"{"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}}"#;
        fs::write(&index, map).unwrap();
        let of_index = ["sub/m.safetensors.index.json", "sub/own.safetensors"];
        assert_eq!(names(&[&at("sub")]), all(&["sub/c.NPY", of_index[0], of_index[1]]));
        fs::write(&index, "{}").unwrap();
        assert!(names(&[&root]).unwrap_err().contains("m.safetensors.index.json"));
        for file in ["m-1.safetensors", "m-2.safetensors", "own.safetensors"] {
            fs::remove_file(at(&format!("sub/{file}"))).unwrap();
        }
        fs::remove_file(index).unwrap();
        assert_eq!(names(&[&at("*.npy")]), all(&["a.npy"]));
        assert_eq!(names(&[&at("**.???")]), all(&["a.npy", "sub/c.NPY", "sub/g.txt"]));
        assert_eq!(names(&[&at("s[tu]b/c*"), &at("a.npy")]), all(&["sub/c.NPY", "a.npy"]));
        // What is there is what is meant, whatever it looks like; what is not is told when opened.
        assert_eq!(names(&[&at("missing.npy")]), all(&["missing.npy"]));
        fs::write(at("[x].npy"), "").unwrap();
        assert_eq!(names(&[&at("[x].npy")]), all(&["[x].npy"]));
        let raw = Reading { raw: Some("u8:?".parse().unwrap()), ..Reading::default() };
        let found = expand(&[at("sub").into()], &raw, &mut |_| ()).unwrap();
        assert_eq!(found, [PathBuf::from(at("sub/c.NPY")), at("sub/g.txt").into()]);
        let told = expand(&[at("empty").into()], &raw, &mut |_| ()).unwrap_err()[0].to_string();
        assert!(told.contains("no file is in it"), "{told}");
        let list = at("list.txt");
        fs::write(&list, "\u{feff}one.npy\r\n\ntwo *.npy\n-\n").unwrap();
        let listed = names(&[&format!("@{list}")]).unwrap();
        assert_eq!(listed, ["one.npy", "two *.npy", "-"]);
        #[cfg(unix)]
        {
            use std::os::unix::ffi::OsStrExt as _;
            // A name that is no text is a name, and a link to nothing is told when it is opened.
            let odd = Path::new(&root).join(std::ffi::OsStr::from_bytes(b"empty/\xff.npy"));
            std::fs::write(&odd, "").unwrap();
            let (pattern, reading) = (at("empty/*.npy").into(), Reading::default());
            let found = expand(&[pattern], &reading, &mut |_| ()).unwrap();
            assert_eq!(found, std::slice::from_ref(&odd));
            fs::remove_file(odd).unwrap();
            std::os::unix::fs::symlink("nowhere", at("empty/gone.pt")).unwrap();
            assert_eq!(names(&[&at("empty")]), all(&["empty/gone.pt"]));
            fs::remove_file(at("empty/gone.pt")).unwrap();
        }
        let told = names(&[&at("empty"), &at("*.zip"), &format!("@{root}/none"), &at("[")]);
        let told = told.unwrap_err();
        assert_eq!(told.lines().count(), 4, "{told}");
        for part in [
            "no .safetensors, .npy, .npz or .pt file",
            "*.zip: no file is meant",
            "No such file",
            "[",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
    }

    #[test]
    fn of_files_of_any_kind_those_that_torch_wrote_are_taken_and_the_others_told() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_str().unwrap();
        let at = |name: &str| dir.path().join(name);
        for (name, bytes) in [
            ("model.bin", &include_bytes!("../../tests/golden/torch/state_dict.pt")[..]),
            ("old.BIN", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."),
            ("raw.bin", &[0; 64]),
            ("sub/raw.bin", b""),
        ] {
            fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            fs::write(at(name), bytes).unwrap();
        }
        let mut notes = Vec::new();
        let found = expand(&[root.into()], &Reading::default(), &mut |note| notes.push(note));
        assert_eq!(found.unwrap(), [at("model.bin"), at("old.BIN")]);
        let told = "raw.bin and 1 more file: left out, as no file of torch.save with tensors (";
        assert!(notes.len() == 1 && notes[0].contains(told), "{notes:?}");
        // What is named or meant by a pattern is opened, and so told.
        assert_eq!(names(&[&format!("{root}/r*.bin")]).unwrap().len(), 1);
        let none = names(&[&format!("{root}/sub")]).unwrap_err();
        assert!(none.contains("no .safetensors") && none.contains("raw.bin: left out"), "{none}");
        assert_eq!(none.lines().count(), 1, "{none}");
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("nowhere", at("sub/gone.bin")).unwrap();
            assert_eq!(names(&[&format!("{root}/sub")]).unwrap().len(), 1);
        }
    }

    #[test]
    fn only_folders_that_can_hold_what_is_meant_are_looked_into() {
        for (pattern, base, folder, is_looked_into) in [
            ("*.npy", ".", "./a", false),
            ("./*.npy", ".", "./a", false),
            ("a*/*.npy", ".", "./ab", true),
            ("./a*/*.npy", ".", "./ab", true),
            ("a*/*.npy", ".", "./b", false),
            ("a*/*.npy", ".", "./ab/c", false),
            ("x/*.npy", "x", "x/a", false),
            ("x/?/b/*.npy", "x", "x/a", true),
            ("x/?/b/*.npy", "x", "x/a/b", true),
            ("x/?/b/*.npy", "x", "x/a/c", false),
            ("/*/b.npy", "/", "/a", true),
            ("/*.npy", "/", "/a", false),
            ("x/a**.npy", "x", "x/a/c", true),
        ] {
            let found = may_hold(pattern, base, Path::new(folder));
            assert_eq!(found, is_looked_into, "{pattern} in {base}: {folder}");
        }
    }
}
