//! `.safetensors` files: 8 bytes of header length, a JSON header, the tensors' bytes.

use std::collections::BTreeMap;
use std::collections::hash_map::{Entry, HashMap};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::header::{self, Header};
use super::open_files::{self, Gone, OpenFiles};
use super::{Source, past_end, pread};
use crate::error::{Error, shown_path};
use crate::tensor::{Dump, Origin, TensorInfo, Unsupported};

/// One or more `.safetensors` files.
///
/// Opening reads and checks every header and nothing else. Files stay open, up to a quarter of the
/// descriptors that the process may have; of more, each is opened when it is read.
#[derive(Debug)]
pub struct SafetensorsFiles {
    files: OpenFiles,
    metadata: Vec<BTreeMap<String, String>>,
    dumps: Vec<Dump>,
    tensors: Vec<TensorInfo>,
    /// Where each tensor's bytes begin in its file.
    begins: Vec<u64>,
    unsupported: Vec<Unsupported>,
}

impl SafetensorsFiles {
    /// Opens files and checks their headers.
    ///
    /// # Errors
    /// [`Error::Open`] or [`Error::Format`] for a bad file, [`Error::Inputs`] with all of them
    /// for several, [`Error::Usage`] for a file that is named twice.
    pub fn open<P: AsRef<Path>>(paths: &[P]) -> Result<SafetensorsFiles, Error> {
        let (source, bad) = SafetensorsFiles::open_those_that_can_be(paths);
        if bad.is_empty() { Ok(source) } else { Err(Error::of_all(bad)) }
    }

    /// Opens those files whose headers are good, and tells what is wrong with each of the others.
    pub fn open_those_that_can_be<P: AsRef<Path>>(paths: &[P]) -> (SafetensorsFiles, Vec<Error>) {
        let mut source = SafetensorsFiles {
            files: OpenFiles::new(paths.len()),
            metadata: Vec::new(),
            dumps: Vec::new(),
            tensors: Vec::new(),
            begins: Vec::new(),
            unsupported: Vec::new(),
        };
        let mut bad = Vec::new();
        let mut known = HashMap::new();
        for path in paths.iter().map(AsRef::as_ref) {
            let new = is_new(path, &mut known).and_then(|()| open(path));
            if let Err(error) = new.and_then(|found| source.add(path, found)) {
                bad.push(error);
            }
        }
        (source, bad)
    }

    fn fill(&self, dump: usize, at: u64, buf: &mut [u8]) -> Result<(), Gone> {
        let file = self.files.get(dump)?;
        let read = pread::fill(&file, at, buf)?;
        if read == buf.len() {
            return Ok(());
        }
        // It may have grown again since.
        Err(Gone::Changed(file.metadata()?.len().min(at + read as u64)))
    }

    fn add(&mut self, path: &Path, (file, header, data): Found) -> Result<(), Error> {
        self.files.add(path, file).map_err(open_error(path))?;
        let dump = self.dumps.len();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        self.dumps.push(Dump { label: path.to_string_lossy().into_owned(), stem });
        self.metadata.push(header.metadata);
        for tensor in header.tensors {
            match tensor.dtype {
                Ok(dtype) => {
                    self.tensors.push(TensorInfo {
                        name: tensor.name,
                        dump,
                        dtype,
                        shape: tensor.shape,
                    });
                    self.begins.push(data + tensor.begin);
                }
                Err(dtype) => {
                    self.unsupported.push(Unsupported {
                        dump,
                        tensor: tensor.name,
                        dtype,
                        shape: tensor.shape,
                        bytes: tensor.bytes,
                    });
                }
            }
        }
        Ok(())
    }
}

impl Source for SafetensorsFiles {
    fn dumps(&self) -> &[Dump] {
        &self.dumps
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn unsupported(&self) -> &[Unsupported] {
        &self.unsupported
    }

    fn metadata(&self, dump: usize) -> &BTreeMap<String, String> {
        &self.metadata[dump]
    }

    fn origin(&self, dump: usize) -> Option<Origin> {
        Some(self.files.origin(dump))
    }

    fn check_unchanged(&self) -> Result<(), Error> {
        match (0..self.dumps.len()).find(|&dump| self.files.is_changed(dump)) {
            None => Ok(()),
            Some(dump) => Err(Error::Modified { dump: self.dumps[dump].label.clone() }),
        }
    }

    fn read_at(&self, tensor: usize, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        let info = &self.tensors[tensor];
        let dump = &self.dumps[info.dump];
        let end = offset.checked_add(buf.len() as u64).filter(|end| Some(*end) <= info.bytes());
        let at = end.and_then(|_| self.begins[tensor].checked_add(offset));
        let at = at.ok_or_else(|| past_end(dump, info, offset, buf.len()))?;
        self.fill(info.dump, at, buf).map_err(|gone| {
            let (dump, tensor) = (dump.label.clone(), info.name.clone());
            match gone {
                Gone::Refused(source) => Error::Read { dump, tensor, source },
                Gone::Changed(end) => Error::Changed { dump, tensor, end },
            }
        })
    }
}

/// Fails for a file that is among `known` already, under whatever name.
fn is_new(path: &Path, known: &mut HashMap<open_files::Place, PathBuf>) -> Result<(), Error> {
    let found = fs::metadata(path).map_err(open_error(path))?;
    let place = open_files::place(path, &found).map_err(open_error(path))?;
    let first = match known.entry(place) {
        Entry::Vacant(entry) => {
            entry.insert(path.to_owned());
            return Ok(());
        }
        Entry::Occupied(entry) if entry.get() == path => String::new(),
        Entry::Occupied(entry) => format!(", the first time as {}", shown_path(entry.get())),
    };
    Err(Error::Usage(format!("{}: this file is named twice{first}", shown_path(path))))
}

fn open_error(path: &Path) -> impl Fn(io::Error) -> Error {
    let path: PathBuf = path.to_owned();
    move |source| Error::Open { path: path.clone(), source }
}

/// The file, its header, and where its data begin.
type Found = (File, Header, u64);

fn open(path: &Path) -> Result<Found, Error> {
    let wrong =
        |problem: String| Error::Format { path: path.to_owned(), format: "safetensors", problem };
    // Looked at before it is opened: opening a pipe waits for a writer.
    let kind = fs::metadata(path).map_err(open_error(path))?.file_type();
    if kind.is_dir() {
        return Err(wrong("it is a folder; name the .safetensors files in it".to_owned()));
    }
    if !kind.is_file() {
        return Err(wrong("it is not a regular file".to_owned()));
    }
    let file = File::open(path).map_err(open_error(path))?;
    let len = file.metadata().map_err(open_error(path))?.len();
    let mut prefix = [0; 8];
    if pread::fill(&file, 0, &mut prefix).map_err(open_error(path))? < prefix.len() {
        return Err(wrong(format!("it has {len} bytes, and the header's length alone takes 8")));
    }
    let claimed = u64::from_le_bytes(prefix);
    if claimed > header::LONGEST {
        return Err(wrong(format!(
            "its first 8 bytes promise a header of {claimed} bytes, and {} are the most; is it a \
             safetensors file?",
            header::LONGEST
        )));
    }
    let data = 8 + claimed;
    if data > len {
        return Err(wrong(format!(
            "the file is truncated: the header ends at byte {data}, the file at {len}"
        )));
    }
    // Not more than the file holds, so no allocation is sized by a claim alone.
    let mut json = vec![0; usize::try_from(claimed).expect("at most 100 MB")];
    if pread::fill(&file, 8, &mut json).map_err(open_error(path))? < json.len() {
        return Err(wrong("it shrank while it was read".to_owned()));
    }
    let header = header::parse(&json, len - data).map_err(wrong)?;
    Ok((file, header, data))
}
