//! The formats of files: which one a file is of, and its header.

use std::fs::{self, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use super::header::{self, Header, Tensor};
use super::inflate::{Beginning, Broken};
use super::reading::Reading;
use super::zip::{self, Member};
use super::{npy, pread, raw, torch};
use crate::error::{Error, counted, shown};

/// A file that was opened.
pub(super) struct Found {
    pub(super) file: File,
    /// What it was before anything of it was read.
    pub(super) seen: Metadata,
    pub(super) header: Header,
    /// Where its data begin.
    pub(super) data: u64,
}

pub(super) fn open_error(path: &Path) -> impl Fn(io::Error) -> Error {
    let path: PathBuf = path.to_owned();
    move |source| Error::Open { path: path.clone(), source }
}

/// Opens a file and reads its header. Where raw files are read it is one; otherwise it is `.npy`, `.npz`,
/// or torch's (`.pt`, `.pth`, `.bin`) if its name says so, else `.safetensors`.
pub(super) fn open(path: &Path, reading: &Reading) -> Result<Found, Error> {
    let is = |wanted: &str| path.extension().is_some_and(|of| of.eq_ignore_ascii_case(wanted));
    let (format, read): (_, Reader) = match () {
        () if reading.raw.is_some() => ("--raw", read_raw),
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
    let seen = file.metadata().map_err(open_error(path))?;
    let (header, data) =
        read(&file, path, seen.len(), reading).map_err(|problem| match problem {
            Problem::Io(source) => open_error(path)(source),
            Problem::Format(problem) => wrong(problem),
            Problem::Unread(problem) => Error::Unread { path: path.to_owned(), format, problem },
        })?;
    Ok(Found { file, seen, header, data })
}

/// What is wrong with a file.
pub(super) enum Problem {
    Io(io::Error),
    Format(String),
    /// Nothing: it holds what is not read.
    Unread(String),
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

/// Reads the header of a file at a path, of so many bytes.
type Reader = fn(&File, &Path, u64, &Reading) -> Read;

/// 8 bytes of header length, a JSON header, the tensors' bytes.
fn read_safetensors(file: &File, _: &Path, len: u64, _: &Reading) -> Read {
    let mut prefix = [0; 8];
    if pread::fill(file, 0, &mut prefix)? < prefix.len() {
        return Err(format!(
            "it has {}, and the header's length alone takes 8",
            counted(len, "byte")
        )
        .into());
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
fn read_npy(file: &File, path: &Path, len: u64, reading: &Reading) -> Read {
    let fill = &mut |at: u64, buf: &mut [u8]| Ok(pread::fill(file, at, buf)?);
    let tensor = npy::read(fill, len, &stem(path), reading.npy_v2)?;
    Ok((Header::of(vec![tensor]), 0))
}

/// Bytes without a header.
fn read_raw(_: &File, path: &Path, len: u64, reading: &Reading) -> Read {
    let tensors = reading.raw.iter().map(|raw| raw::tensor(raw, &stem(path), len));
    Ok((Header::of(tensors.collect::<Result<_, _>>()?), 0))
}

/// The name of what has none but its file's.
fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// What torch.save wrote.
fn read_torch(file: &File, path: &Path, len: u64, _: &Reading) -> Read {
    Ok((Header::of(torch::read(file, len, &stem(path))?), 0))
}

/// An archive of `.npy` files, each with the name of its array.
fn read_npz(file: &File, _: &Path, len: u64, reading: &Reading) -> Read {
    let mut members = zip::members(file, len)?;
    members.sort_by_key(|member| member.begin);
    let array = |member: &Member| {
        let Some(name) = member.name.strip_suffix(".npy") else {
            return Err(format!("its member {} is no array", shown(&member.name)).into());
        };
        read_member(file, member, name, reading).map_err(|problem| match problem {
            Problem::Format(problem) => {
                Problem::Format(format!("its member {}: {problem}", shown(&member.name)))
            }
            problem => problem,
        })
    };
    Ok((Header::of(members.iter().map(array).collect::<Result<_, _>>()?), 0))
}

fn read_member(
    file: &File,
    member: &Member,
    name: &str,
    reading: &Reading,
) -> Result<Tensor, Problem> {
    let Some(packed) = member.packed else {
        let fill = &mut |at: u64, buf: &mut [u8]| {
            let left = usize::try_from(member.len.saturating_sub(at)).unwrap_or(usize::MAX);
            let len = buf.len().min(left);
            Ok(pread::fill(file, member.begin + at, &mut buf[..len])?)
        };
        let tensor = npy::read(fill, member.len, name, reading.npy_v2)?;
        return Ok(Tensor { begin: member.begin + tensor.begin, ..tensor });
    };
    let mut beginning = Beginning::new(packed);
    let fill = &mut |at: u64, buf: &mut [u8]| {
        let read = &mut |at: u64, buf: &mut [u8]| match pread::fill(file, at, buf)? {
            read if read < buf.len() => Err("it shrank while it was read".to_owned().into()),
            _ => Ok(()),
        };
        beginning.fill(at, buf, read).map_err(|broken| match broken {
            Broken::Read(problem) => problem,
            Broken::Damaged(problem) => Problem::Format(problem),
        })
    };
    let tensor = npy::read(fill, member.len, name, reading.npy_v2)?;
    Ok(Tensor { packed: Some(Box::new(packed)), ..tensor })
}

/// Not more than the file holds, so no allocation is sized by a claim alone.
pub(super) fn header_bytes(file: &File, begin: u64, len: u64) -> Result<Vec<u8>, Problem> {
    let mut bytes = vec![0; usize::try_from(len).expect("at most 100 MB")];
    if pread::fill(file, begin, &mut bytes)? < bytes.len() {
        return Err("it shrank while it was read".to_owned().into());
    }
    Ok(bytes)
}
