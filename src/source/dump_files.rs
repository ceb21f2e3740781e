//! Dumps that are files: opened by their formats, read by what their headers say.

use std::collections::BTreeMap;
use std::collections::hash_map::{Entry, HashMap};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::formats::{self, Found};
use super::inflate::{Broken, Packed};
use super::open_files::{self, Gone, OpenFiles};
use super::reading::Reading;
use super::stored::Stored;
use super::unpacker::Unpacker;
use super::{Source, index, past_end, pread};
use crate::error::{Error, shown_path};
use crate::tensor::{Dump, Origin, TensorInfo, Unsupported};

/// One or more files: `.safetensors`, `*.safetensors.index.json` with the files that it names, and
/// `.npy`, `.npz` and what `torch.save` wrote (`.pt`, `.pth`, `.bin`), by their names; or all of them raw, where
/// that is said. Arrays in Fortran order, or with their bytes the other way round, are read as if they
/// were not, and deflated ones as if they were not packed.
///
/// Opening reads and checks every header and nothing else. Files stay open, up to a quarter of the
/// descriptors that the process may have; of more, each is opened when it is read.
#[derive(Debug)]
pub struct DumpFiles {
    files: OpenFiles,
    metadata: Vec<BTreeMap<String, String>>,
    dumps: Vec<Dump>,
    /// The files of each dump.
    parts: Vec<Range<usize>>,
    tensors: Vec<TensorInfo>,
    /// Where each tensor's bytes are.
    places: Vec<Place>,
    unsupported: Vec<Unsupported>,
    /// What was said of the files.
    reading: Reading,
    unpacker: Unpacker,
}

/// Where a tensor's bytes are.
#[derive(Debug)]
struct Place {
    file: usize,
    /// In the file, or in the member that it is packed in.
    begin: u64,
    /// What lies in the file: its bytes, or the whole member.
    lies: Range<u64>,
    stored: Stored,
    /// The number of the member.
    packed: Option<usize>,
}

impl DumpFiles {
    /// Opens files and checks their headers.
    ///
    /// # Errors
    /// [`Error::Open`] or [`Error::Format`] for a bad file, [`Error::Inputs`] with all of them
    /// for several, [`Error::Usage`] for a file that is named twice.
    pub fn open<P: AsRef<Path>>(paths: &[P]) -> Result<DumpFiles, Error> {
        DumpFiles::open_as(paths, &Reading::default())
    }

    /// Opens files and checks their headers, where they have some; what they do not say themselves is
    /// said.
    ///
    /// # Errors
    /// As [`open`](DumpFiles::open).
    pub fn open_as<P: AsRef<Path>>(paths: &[P], reading: &Reading) -> Result<DumpFiles, Error> {
        let (source, bad) = DumpFiles::open_those_that_can_be(paths, reading);
        if bad.is_empty() { Ok(source) } else { Err(Error::of_all(bad)) }
    }

    /// Opens those files whose headers are good, and tells what is wrong with each of the others.
    pub fn open_those_that_can_be<P: AsRef<Path>>(
        paths: &[P],
        reading: &Reading,
    ) -> (DumpFiles, Vec<Error>) {
        let mut source = DumpFiles {
            files: OpenFiles::new(paths.len()),
            metadata: Vec::new(),
            dumps: Vec::new(),
            parts: Vec::new(),
            tensors: Vec::new(),
            places: Vec::new(),
            unsupported: Vec::new(),
            reading: reading.clone(),
            unpacker: Unpacker::default(),
        };
        let mut bad = Vec::new();
        let mut known = HashMap::new();
        for path in paths.iter().map(AsRef::as_ref) {
            if let Err(error) = source.add_dump(path, &mut known) {
                bad.push(error);
            }
        }
        (source, bad)
    }

    /// Fills a buffer from byte `at` on of what a tensor lies in.
    fn fill_from(&self, place: &Place, at: u64, buf: &mut [u8]) -> Result<(), Broken<Gone>> {
        let fill = &mut |at: u64, buf: &mut [u8]| self.fill(place.file, at, buf);
        match place.packed {
            None => fill(at, buf).map_err(Broken::Read),
            Some(member) => self.unpacker.read(member, at, buf, fill),
        }
    }

    fn told(&self, tensor: usize, broken: Broken<Gone>) -> Error {
        let info = &self.tensors[tensor];
        let (dump, tensor) = (self.dumps[info.dump].label.clone(), info.name.clone());
        match broken {
            Broken::Read(Gone::Refused(source)) => Error::Read { dump, tensor, source },
            Broken::Read(Gone::Changed(end)) => Error::Changed { dump, tensor, end },
            Broken::Damaged(problem) => Error::Damaged { dump, tensor, problem },
        }
    }

    fn fill(&self, file: usize, at: u64, buf: &mut [u8]) -> Result<(), Gone> {
        let file = self.files.get(file)?;
        let read = pread::fill(&file, at, buf)?;
        if read == buf.len() {
            return Ok(());
        }
        // It may have grown again since.
        Err(Gone::Changed(file.metadata()?.len().min(at + read as u64)))
    }

    fn add_dump(&mut self, path: &Path, known: &mut Known) -> Result<(), Error> {
        is_new(path, known)?;
        let label = path.to_string_lossy().into_owned();
        let (stem, files) = match index::stem(path).filter(|_| self.reading.raw.is_none()) {
            Some(stem) => {
                let files = index::open_all(path)?;
                files.iter().try_for_each(|(path, _)| is_new(path, known))?;
                (stem.to_owned(), files)
            }
            None => {
                let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                (stem, vec![(path.to_owned(), formats::open(path, &self.reading)?)])
            }
        };
        let first = self.files.len();
        self.dumps.push(Dump { label, stem });
        self.metadata.push(BTreeMap::new());
        self.parts.push(first..first);
        files.into_iter().try_for_each(|(path, found)| self.add_file(&path, found))
    }

    /// Adds a file to the last dump.
    fn add_file(&mut self, path: &Path, found: Found) -> Result<(), Error> {
        let Found { file: opened, seen, header, data } = found;
        let (dump, file) = (self.dumps.len() - 1, self.files.len());
        self.files.add(path, opened, &seen).map_err(formats::open_error(path))?;
        self.parts[dump].end = self.files.len();
        self.metadata[dump].extend(header.metadata);
        self.tensors.reserve(header.tensors.len());
        self.places.reserve(header.tensors.len());
        for tensor in header.tensors {
            let tensor = tensor.of_complex(self.reading.complex);
            match tensor.dtype {
                Ok(dtype) => {
                    self.tensors.push(TensorInfo::new(tensor.name, dump, dtype, tensor.shape));
                    let begin = data + tensor.begin;
                    let whole = |member: &Packed| member.begin..member.begin + member.len;
                    let own = || begin..begin + tensor.bytes;
                    self.places.push(Place {
                        file,
                        begin,
                        lies: tensor.packed.as_deref().map_or_else(own, whole),
                        stored: tensor.stored,
                        packed: tensor.packed.map(|packed| self.unpacker.add(*packed)),
                    });
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

impl Source for DumpFiles {
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

    fn reading(&self) -> &Reading {
        &self.reading
    }

    fn memory(&self) -> u64 {
        self.unpacker.memory()
    }

    fn origins(&self, dump: usize) -> Vec<Origin> {
        self.parts[dump].clone().map(|file| self.files.origin(file)).collect()
    }

    fn check_unchanged(&self) -> Result<(), Error> {
        let changed = |parts: &Range<usize>| parts.clone().any(|file| self.files.is_changed(file));
        match self.parts.iter().position(changed) {
            None => Ok(()),
            Some(dump) => Err(Error::Modified { dump: self.dumps[dump].label.clone() }),
        }
    }

    fn read_at(&self, tensor: usize, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        let info = &self.tensors[tensor];
        let dump = &self.dumps[info.dump];
        let end = offset.checked_add(buf.len() as u64).filter(|end| Some(*end) <= info.bytes());
        let place @ Place { begin, stored, .. } = &self.places[tensor];
        let at = end.and_then(|_| begin.checked_add(offset));
        let at = at.ok_or_else(|| past_end(dump, info, offset, buf.len()))?;
        let filled = if stored.is_plain() {
            self.fill_from(place, at, buf)
        } else {
            let fill = &mut |at: u64, buf: &mut [u8]| self.fill_from(place, begin + at, buf);
            stored.read(&info.shape, info.dtype.size() as u64, offset, buf, fill)
        };
        filled.map_err(|broken| self.told(tensor, broken))
    }

    fn stored_bytes(&self, tensor: usize) -> u64 {
        let lies = &self.places[tensor].lies;
        lies.end - lies.start
    }

    fn read_stored(&self, tensor: usize, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        let Place { file, lies, .. } = &self.places[tensor];
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > lies.end - lies.start) {
            let info = &self.tensors[tensor];
            return Err(past_end(&self.dumps[info.dump], info, offset, buf.len()));
        }
        let filled = self.fill(*file, lies.start + offset, buf);
        filled.map_err(|gone| self.told(tensor, Broken::Read(gone)))
    }
}

/// Files that were named, by what they are.
type Known = HashMap<open_files::Place, PathBuf>;

/// Fails for a file that is among `known` already, under whatever name.
fn is_new(path: &Path, known: &mut Known) -> Result<(), Error> {
    let found = fs::metadata(path).map_err(formats::open_error(path))?;
    let place = open_files::place(path, &found).map_err(formats::open_error(path))?;
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
