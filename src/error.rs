//! Everything that can go wrong, as one type. Messages are one line, lower-case, name the file,
//! tensor or image, and say what would help. Text that came from outside (paths, tensor names) is
//! shown through [`shown`], so that control characters cannot disturb a terminal.

use std::io;
use std::path::PathBuf;

use crate::tensor::Dtype;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An input file cannot be opened or read before the run.
    #[error("{}: {source}", shown_path(.path))]
    Open {
        /// The file as the user named it.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// An input file is not what its format demands.
    #[error("{}: not a valid {format} file: {problem}", shown_path(.path))]
    Format {
        /// The file as the user named it.
        path: PathBuf,
        /// The format that was expected.
        format: &'static str,
        /// What is wrong, with what was expected and what was found.
        problem: String,
    },
    /// Several inputs are bad; all are listed.
    #[error("{}", lines(.0))]
    Inputs(Vec<Error>),
    /// Reading an image's bytes failed.
    #[error("{}: tensor {}: {source}", shown(.dump), shown(.tensor))]
    Read {
        /// The dump.
        dump: String,
        /// The tensor.
        tensor: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A file ended before bytes that its header promised, though it was whole at the start.
    #[error(
        "{}: input changed: it ended at byte {end} while tensor {} was read; was it truncated or rewritten during the run?",
        shown(.dump), shown(.tensor)
    )]
    Changed {
        /// The dump.
        dump: String,
        /// The tensor.
        tensor: String,
        /// Where the file ended.
        end: u64,
    },
    /// An output file or folder cannot be written.
    #[error("{}: {source}", shown_path(.path))]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Output files exist already, and replacing them was not asked for.
    #[error(
        "{}: exists already{} (--overwrite replaces existing files)",
        shown_path(.first), and_others(*.count)
    )]
    Exists {
        /// The first of them.
        first: PathBuf,
        /// How many there are.
        count: u64,
    },
    /// Something in the output folder is in the way: a link, or a file where a folder is needed.
    #[error("{}: {problem}", shown_path(.path))]
    InTheWay {
        /// The path in question.
        path: PathBuf,
        /// What it is, and what was needed.
        problem: &'static str,
    },
    /// The call asks for something that does not fit the input; the command line's exit code 2.
    #[error("{0}")]
    Usage(String),
    /// Two images would get the same name.
    #[error(
        "two images would both be written to {}: {} and {}{hint}",
        shown(.name), shown(.one), shown(.other)
    )]
    Collision {
        /// The name.
        name: String,
        /// One image.
        one: String,
        /// The other image.
        other: String,
        /// What would help.
        hint: &'static str,
    },
    /// An image does not fit the output format.
    #[error("{}: tensor {}: {problem}", shown(.dump), shown(.tensor))]
    TooLarge {
        /// The dump.
        dump: String,
        /// The tensor.
        tensor: String,
        /// The limit and what was found.
        problem: String,
    },
    /// A selected tensor has an element type that is not converted.
    #[error(
        "{}: tensor {}: the dtype {} is not converted; leave the tensor out with --exclude",
        shown(.dump), shown(.tensor), shown(.dtype)
    )]
    Dtype {
        /// The dump.
        dump: String,
        /// The tensor.
        tensor: String,
        /// The format's name of the type.
        dtype: String,
    },
    /// No device of those asked for can be used.
    #[error("{0}")]
    Device(String),
    /// A run restricted to GPUs met an element type that only the CPU computes.
    #[error(
        "{}: tensor {}: {dtype} is computed in f64, which no GPU backend takes; add cpu to --device, or leave the tensor out with --exclude",
        shown(.dump), shown(.tensor)
    )]
    CpuOnly {
        /// The dump.
        dump: String,
        /// The tensor.
        tensor: String,
        /// Its element type.
        dtype: Dtype,
    },
    /// A device failed during the run.
    #[error("{device}: {problem}")]
    Gpu {
        /// The device by name.
        device: String,
        /// What happened.
        problem: String,
    },
    /// The run stopped in the middle. What was finished before stays.
    #[error("{cause}; stopped after {done} of {images} images, which are whole")]
    Stopped {
        /// Why.
        cause: Box<Error>,
        /// Images finished.
        done: u64,
        /// Images planned.
        images: u64,
    },
    /// The run was cancelled from outside.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// Whether the call, rather than the input or the machine, is at fault.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        match self {
            Error::Usage(_) => true,
            Error::Inputs(all) => all.iter().all(Error::is_usage),
            _ => false,
        }
    }

    /// Whether the error is about the whole run (a full disk, a changed input) and not about one
    /// image only, so that going on is pointless.
    #[must_use]
    pub fn stops_the_run(&self) -> bool {
        match self {
            Error::Read { .. } => false,
            Error::Write { source, .. } => !matches!(
                source.kind(),
                io::ErrorKind::AlreadyExists
                    | io::ErrorKind::IsADirectory
                    | io::ErrorKind::InvalidFilename
            ),
            Error::Exists { .. } | Error::InTheWay { .. } => false,
            _ => true,
        }
    }
}

/// `text` with control and formatting characters escaped, fit for one line of a terminal.
#[must_use]
pub fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        // Bidirectional controls reorder what a terminal shows.
        let hidden = matches!(c, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{FEFF}');
        if c.is_control() || hidden {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// A path, shown like [`shown`].
#[must_use]
pub fn shown_path(path: &std::path::Path) -> String {
    shown(&path.to_string_lossy())
}

fn lines(errors: &[Error]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn and_others(count: u64) -> String {
    if count > 1 { format!(", and {} more", count - 1) } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(shown("a\nb\u{1b}[2Jc\u{202E}é"), "a\\nb\\u{1b}[2Jc\\u{202e}é");
    }
}
