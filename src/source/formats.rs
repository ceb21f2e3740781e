//! The formats of files: which one a file is of, and its header.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::header::{self, Header};
use super::zip::{self, Member};
use super::{npy, pread, torch};
use crate::error::{Error, shown};

/// A file that was opened.
pub(super) struct Found {
    pub(super) file: File,
    pub(super) header: Header,
    /// Where its data begin.
    pub(super) data: u64,
}

pub(super) fn open_error(path: &Path) -> impl Fn(io::Error) -> Error {
    let path: PathBuf = path.to_owned();
    move |source| Error::Open { path: path.clone(), source }
}

/// Opens a file and reads its header. A file is `.npy`, `.npz`, or torch's (`.pt`, `.pth`, `.bin`) if its
/// name says so, else `.safetensors`.
pub(super) fn open(path: &Path) -> Result<Found, Error> {
    let is = |wanted: &str| path.extension().is_some_and(|of| of.eq_ignore_ascii_case(wanted));
    let (format, read): (_, fn(&File, &Path, u64) -> Read) = match () {
        () if is("npy") => ("npy", read_npy),
        () if is("npz") => ("npz", read_npz),
        () if ["pt", "pth", "bin"].into_iter().any(is) => ("torch", read_torch),
        () => ("safetensors", read_safetensors),
    };
    let wrong = |problem: String| Error::Format { path: path.to_owned(), format, problem };
    // Looked at before it is opened: opening a pipe waits for a writer.
    let kind = fs::metadata(path).map_err(open_error(path))?.file_type();
    if kind.is_dir() {
        return Err(wrong("it is a folder; name the files in it".to_owned()));
    }
    if !kind.is_file() {
        return Err(wrong("it is not a regular file".to_owned()));
    }
    let file = File::open(path).map_err(open_error(path))?;
    let len = file.metadata().map_err(open_error(path))?.len();
    let (header, data) = read(&file, path, len).map_err(|problem| match problem {
        Problem::Io(source) => open_error(path)(source),
        Problem::Format(problem) => wrong(problem),
    })?;
    Ok(Found { file, header, data })
}

/// What is wrong with a file.
pub(super) enum Problem {
    Io(io::Error),
    Format(String),
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Problem {
        Problem::Io(error)
    }
}

impl From<String> for Problem {
    fn from(problem: String) -> Problem {
        Problem::Format(problem)
    }
}

/// The header, and where the data begin.
type Read = Result<(Header, u64), Problem>;

/// 8 bytes of header length, a JSON header, the tensors' bytes.
fn read_safetensors(file: &File, _: &Path, len: u64) -> Read {
    let mut prefix = [0; 8];
    if pread::fill(file, 0, &mut prefix)? < prefix.len() {
        return Err(format!("it has {len} bytes, and the header's length alone takes 8").into());
    }
    let claimed = u64::from_le_bytes(prefix);
    if claimed > header::LONGEST {
        return Err(format!(
            "its first 8 bytes promise a header of {claimed} bytes, and {} are the most; is it a \
             safetensors file?",
            header::LONGEST
        )
        .into());
    }
    let data = 8 + claimed;
    if data > len {
        return Err(format!(
            "the file is truncated: the header ends at byte {data}, the file at {len}"
        )
        .into());
    }
    let header = header::parse(&header_bytes(file, 8, claimed)?, len - data)?;
    Ok((header, data))
}

/// One array, which has the file's name.
fn read_npy(file: &File, path: &Path, len: u64) -> Read {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let tensor = npy::read(file, 0..len, &name)?;
    Ok((Header { tensors: vec![tensor], metadata: BTreeMap::new() }, 0))
}

/// What torch.save wrote.
fn read_torch(file: &File, path: &Path, len: u64) -> Read {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let tensors = torch::read(file, len, &name)?;
    Ok((Header { tensors, metadata: BTreeMap::new() }, 0))
}

/// An archive of `.npy` files, each with the name of its array.
fn read_npz(file: &File, _: &Path, len: u64) -> Read {
    let mut tensors = Vec::new();
    for Member { name, begin, len } in zip::members(file, len)? {
        let Some(array) = name.strip_suffix(".npy") else {
            return Err(format!("its member {} is no array", shown(&name)).into());
        };
        let tensor =
            npy::read(file, begin..begin + len, array).map_err(|problem| match problem {
                Problem::Format(problem) => {
                    Problem::Format(format!("its member {}: {problem}", shown(&name)))
                }
                problem => problem,
            })?;
        tensors.push(tensor);
    }
    tensors.sort_by_key(|tensor: &header::Tensor| tensor.begin);
    Ok((Header { tensors, metadata: BTreeMap::new() }, 0))
}

/// Not more than the file holds, so no allocation is sized by a claim alone.
pub(super) fn header_bytes(file: &File, begin: u64, len: u64) -> Result<Vec<u8>, Problem> {
    let mut bytes = vec![0; usize::try_from(len).expect("at most 100 MB")];
    if pread::fill(file, begin, &mut bytes)? < bytes.len() {
        return Err("it shrank while it was read".to_owned().into());
    }
    Ok(bytes)
}
