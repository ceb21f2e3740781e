//! `.safetensors` files: 8 bytes of header length, a JSON header, the tensors' bytes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::header::{self, Header};
use super::{Source, pread};
use crate::error::Error;
use crate::tensor::{Dump, TensorInfo, Unsupported};

/// One or more `.safetensors` files.
///
/// Opening reads and checks every header and nothing else; one file stays open for each.
#[derive(Debug)]
pub struct SafetensorsFiles {
    files: Vec<OpenFile>,
    dumps: Vec<Dump>,
    tensors: Vec<TensorInfo>,
    /// Where each tensor's bytes begin in its file.
    begins: Vec<u64>,
    unsupported: Vec<Unsupported>,
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    metadata: BTreeMap<String, String>,
}

impl SafetensorsFiles {
    /// Opens files and checks their headers.
    ///
    /// # Errors
    /// [`Error::Open`] or [`Error::Format`] for a bad file, [`Error::Inputs`] with all of them
    /// for several, [`Error::Usage`] for a file that is named twice.
    pub fn open<P: AsRef<Path>>(paths: &[P]) -> Result<SafetensorsFiles, Error> {
        let mut source = SafetensorsFiles {
            files: Vec::new(),
            dumps: Vec::new(),
            tensors: Vec::new(),
            begins: Vec::new(),
            unsupported: Vec::new(),
        };
        let mut bad = Vec::new();
        let mut known = Vec::new();
        for path in paths.iter().map(AsRef::as_ref) {
            match fs::canonicalize(path).map_err(open_error(path)) {
                Ok(real) if known.contains(&real) => bad.push(Error::Usage(format!(
                    "{}: this file is named twice",
                    crate::error::shown_path(path)
                ))),
                Ok(real) => {
                    known.push(real);
                    match open(path) {
                        Ok((file, header, data)) => source.add(path, file, header, data),
                        Err(error) => bad.push(error),
                    }
                }
                Err(error) => bad.push(error),
            }
        }
        match bad.len() {
            0 => Ok(source),
            1 => Err(bad.remove(0)),
            _ => Err(Error::Inputs(bad)),
        }
    }

    /// The `__metadata__` of a dump.
    #[must_use]
    pub fn metadata(&self, dump: usize) -> &BTreeMap<String, String> {
        &self.files[dump].metadata
    }

    fn add(&mut self, path: &Path, file: File, header: Header, data: u64) {
        let dump = self.dumps.len();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        self.dumps.push(Dump { label: path.to_string_lossy().into_owned(), stem });
        self.files.push(OpenFile { file, metadata: header.metadata });
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

    fn read_at(&self, tensor: usize, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        let info = &self.tensors[tensor];
        // The header was checked: begin + bytes is at most the file's length then.
        let at = self.begins[tensor] + offset;
        let names = || (self.dumps[info.dump].label.clone(), info.name.clone());
        match pread::fill(&self.files[info.dump].file, at, buf) {
            Ok(read) if read == buf.len() => Ok(()),
            Ok(read) => {
                let (dump, tensor) = names();
                Err(Error::Changed { dump, tensor, end: at + read as u64 })
            }
            Err(source) => {
                let (dump, tensor) = names();
                Err(Error::Read { dump, tensor, source })
            }
        }
    }
}

fn open_error(path: &Path) -> impl Fn(io::Error) -> Error {
    let path: PathBuf = path.to_owned();
    move |source| Error::Open { path: path.clone(), source }
}

/// The file, its header, and where its data begin.
fn open(path: &Path) -> Result<(File, Header, u64), Error> {
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
