//! Everything that can go wrong, as one type. Messages are one line, lower-case, name the file,
//! tensor or image, and say what would help. Text that came from outside (paths, tensor names) is
//! shown through [`shown`], so that control characters cannot disturb a terminal and no message is
//! as long as a hostile name.

pub(crate) mod nearest;

use std::io;
use std::path::PathBuf;

/// Whether safetensors, NumPy or PyTorch call complex numbers of two f32 so.
pub(crate) fn is_complex(dtype: &str) -> bool {
    matches!(dtype, "C64" | "<c8" | ">c8" | "complex64")
}

/// What helps with a type that is not converted.
fn help_with(dtype: &str) -> &'static str {
    if is_complex(dtype) { "--complex abs, re or im makes numbers of it, or " } else { "" }
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An input file cannot be opened or read before the run.
    #[error("{}: {}", shown_path(.path), told(.source))]
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
    /// An input file is what its format demands, and more than is read.
    #[error("{}: this {format} file is not read: {problem}", shown_path(.path))]
    Unread {
        /// The file as the user named it.
        path: PathBuf,
        /// Its format.
        format: &'static str,
        /// What it holds that is not read, and what helps.
        problem: String,
    },
    /// Several inputs are bad; all are listed.
    #[error("{}", lines(.0))]
    Inputs(Vec<Error>),
    /// Reading an image's bytes failed.
    #[error("{}: tensor {}: {}", shown(.dump), shown(.tensor), told(.source))]
    Read {
        /// The dump.
        dump: String,
        /// The tensor.
        tensor: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A file is not what it was when its header was read: it ends before bytes that were there, or
    /// it is another file.
    #[error(
        "{}: input changed: it ends at byte {end} now that tensor {} is read; was it truncated, replaced or rewritten during the run?",
        shown(.dump), shown(.tensor)
    )]
    Changed {
        /// The dump.
        dump: String,
        /// The tensor.
        tensor: String,
        /// Where the file ends now.
        end: u64,
    },
    /// What a file holds is not what its own checksum or format says: what was read of it before may
    /// be wrong as well.
    #[error(
        "{}: tensor {}: {problem}; images that were made of it are not to be trusted; leave the tensor out with --exclude",
        shown(.dump), shown(.tensor)
    )]
    Damaged {
        /// The dump.
        dump: String,
        /// The tensor.
        tensor: String,
        /// What was found.
        problem: String,
    },
    /// A file was written to while it was read.
    #[error(
        "{}: input changed: it was modified during the run, and nobody knows which images are of before; --overwrite starts again",
        shown(.dump)
    )]
    Modified {
        /// The dump.
        dump: String,
    },
    /// An image has samples that are not finite, and is not to be made then.
    #[error(
        "{}: {nan} NaN and {} (--nonfinite says what becomes of them)",
        shown(.name), counted(*.inf, "infinite sample")
    )]
    Nonfinite {
        /// The name that the image would have had.
        name: String,
        /// Number of NaN.
        nan: u64,
        /// Number of infinite samples.
        inf: u64,
    },
    /// An output file or folder cannot be written.
    #[error("{}: {}", shown_path(.path), told(.source))]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Output files exist already, and replacing them was not asked for.
    #[error(
        "{}: exists already{} (--overwrite replaces existing files; where they are no stacks or tars --skip-existing keeps them, and --resume goes on with a run that was interrupted)",
        shown_path(.first), and_others(*.count)
    )]
    Exists {
        /// The first of them.
        first: PathBuf,
        /// How many there are.
        count: u64,
    },
    /// The output's file system has too little room.
    #[error(
        "{}: the images need {needed} {what}, and the file system has {free} left (--no-space-check begins all the same)",
        shown_path(.path)
    )]
    Space {
        /// The folder.
        path: PathBuf,
        /// What the run needs at most.
        needed: u64,
        /// What there is.
        free: u64,
        /// Bytes, or files and folders.
        what: &'static str,
    },
    /// Another run is at work in the output folder.
    #[error("{}: another run is writing to this folder", shown_path(.path))]
    Busy {
        /// The folder.
        path: PathBuf,
    },
    /// A run that was interrupted cannot be continued.
    #[error("{}: cannot be resumed: {problem} (--overwrite starts again)", shown_path(.path))]
    Resume {
        /// Its journal or manifest.
        path: PathBuf,
        /// Why not.
        problem: String,
    },
    /// A plan is of another run than it would be now.
    #[error("{}: it is planned otherwise: {problem}; another plan is needed", shown_path(.path))]
    Planned {
        /// The plan.
        path: PathBuf,
        /// What differs.
        problem: String,
    },
    /// Shards cannot be merged yet.
    #[error(
        "{}: {} missing (`tensortiff status` says of which shards)",
        shown_path(.path), counted_are(*.missing, "image")
    )]
    Incomplete {
        /// The folder.
        path: PathBuf,
        /// How many images.
        missing: u64,
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
    /// A list of names does not fit the images, or holds one that cannot be a file's.
    #[error("{0}")]
    Names(String),
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
    #[error(
        "{}: tensor {}: {problem}; leave the tensor out with --exclude",
        shown(.dump), shown(.tensor)
    )]
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
        "{}: tensor {}: the dtype {} is not converted; {}leave the tensor out with --exclude",
        shown(.dump), shown(.tensor), shown(.dtype), help_with(.dtype)
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
    /// A run restricted to GPUs met a tensor that only the CPU computes.
    #[error(
        "{}: tensor {}: {reason}; add cpu to --device, or leave the tensor out with --exclude",
        shown(.dump), shown(.tensor)
    )]
    CpuOnly {
        /// The dump.
        dump: String,
        /// The tensor.
        tensor: String,
        /// Its element type or the option, and what follows from it.
        reason: String,
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
    #[error("{cause}; stopped after {done} of {}, which are whole", counted(*.images, "image"))]
    Stopped {
        /// Why.
        cause: Box<Error>,
        /// Images that had failed before, in a way that trying again does not help.
        failed_for_good: u64,
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
    /// One error of several, at least one.
    #[must_use]
    pub fn of_all(mut errors: Vec<Error>) -> Error {
        if errors.len() == 1 { errors.remove(0) } else { Error::Inputs(errors) }
    }

    /// Whether the call, rather than the input or the machine, is at fault.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        match self {
            Error::Usage(_) | Error::Names(_) | Error::Collision { .. } => true,
            Error::Inputs(all) => all.iter().all(Error::is_usage),
            _ => false,
        }
    }

    /// Whether the same call may well go right another time, and nothing but that helps: a device or
    /// a network file system that failed, no room, too many open files. Schedulers may try again.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Open { source, .. }
            | Error::Read { source, .. }
            | Error::Write { source, .. } => is_transient(source),
            Error::Stopped { cause, failed_for_good, .. } => {
                *failed_for_good == 0 && cause.is_transient()
            }
            Error::Space { .. } => true,
            Error::Inputs(all) => all.iter().all(Error::is_transient),
            _ => false,
        }
    }

    /// Whether the error is about the whole run (a full disk, a changed input) and not about one
    /// image only, so that going on is pointless.
    #[must_use]
    pub fn stops_the_run(&self) -> bool {
        match self {
            Error::Read { .. } | Error::Nonfinite { .. } => false,
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

/// Longest text of a name or problem that is shown whole, in bytes. The line of an error names a
/// few, and the whole of it is to be readable.
const LONGEST: usize = 400;
/// Longest path that is shown whole: a path is of use only as a whole, and systems take 4096 bytes.
const LONGEST_PATH: usize = 1000;
/// Longest sentence of another library that is shown whole; it may hold two names that were cut.
const LONGEST_SENTENCE: usize = 1200;
/// Most axes of a shape that are shown; NumPy's most is 64.
const MOST_AXES: usize = 64;

/// `text` fit for one line of a terminal: control and formatting characters are escaped, and of more
/// than 400 bytes the middle is left out, as names differ at their ends.
#[must_use]
pub fn shown(text: &str) -> String {
    cut(text, LONGEST)
}

/// A path, shown like [`shown`], but of up to 1000 bytes whole.
#[must_use]
pub fn shown_path(path: &std::path::Path) -> String {
    cut(&path.to_string_lossy(), LONGEST_PATH)
}

/// What another library says of a problem, shown like [`shown`], but up to 1200 bytes whole.
pub(crate) fn shown_problem(problem: &impl std::fmt::Display) -> String {
    cut(&problem.to_string(), LONGEST_SENTENCE)
}

/// A shape as Rust and Python write it; of more than 64 axes the first ones.
#[must_use]
pub fn shown_shape(shape: &[u64]) -> String {
    match shape.get(..MOST_AXES) {
        Some(first) if shape.len() > MOST_AXES => {
            let first = format!("{first:?}");
            format!("{}, … ({} axes in all)]", first.trim_end_matches(']'), shape.len())
        }
        _ => format!("{shape:?}"),
    }
}

/// `text` with control and formatting characters escaped, whole however long it is: for results,
/// where a name is not decoration.
#[must_use]
pub fn escaped(text: &str) -> String {
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

/// Looks at what is shown alone: a name of 100 MB costs no more than a short one.
fn cut(text: &str, longest: usize) -> String {
    if text.len() <= longest {
        return escaped(text);
    }
    let boundary = |at: &usize| text.is_char_boundary(*at);
    let head = (0..=longest * 2 / 3).rev().find(boundary).unwrap_or(0);
    let tail = (text.len() - longest / 3..text.len()).find(boundary).unwrap_or(text.len());
    let (head, tail) = (escaped(&text[..head]), escaped(&text[tail..]));
    format!("{head} … ({} bytes in all) … {tail}", text.len())
}

/// The system's answer, and what helps where that is known.
fn told(error: &io::Error) -> String {
    let help = match error.raw_os_error() {
        Some(EMFILE) if cfg!(unix) => "; raise this process's limit on open files (ulimit -n)",
        Some(ENFILE) if cfg!(unix) => "; the whole system has too many files open",
        _ => "",
    };
    format!("{error}{help}")
}

/// Whether what the system says is of the moment.
fn is_transient(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    let (eio, eremoteio) = (5, 121);
    let by_number = match error.raw_os_error() {
        Some(number) if cfg!(unix) => [eio, eremoteio, EMFILE, ENFILE].contains(&number),
        _ => false,
    };
    by_number
        || matches!(
            error.kind(),
            Kind::ConnectionAborted
                | Kind::ConnectionRefused
                | Kind::ConnectionReset
                | Kind::HostUnreachable
                | Kind::Interrupted
                | Kind::NetworkDown
                | Kind::NetworkUnreachable
                | Kind::NotConnected
                | Kind::OutOfMemory
                | Kind::QuotaExceeded
                | Kind::ResourceBusy
                | Kind::StaleNetworkFileHandle
                | Kind::StorageFull
                | Kind::TimedOut
                | Kind::WouldBlock
        )
}

/// What Unix systems answer where a process, or all of them, has too many files open; std has no
/// kind for it.
pub(crate) const EMFILE: i32 = 24;
pub(crate) const ENFILE: i32 = 23;

/// The indices of an axis of this length, which is not 0: `0 to 9`, or `0` alone.
pub(crate) fn shown_indices(len: u64) -> String {
    if len == 1 { "0".to_owned() } else { format!("0 to {}", len - 1) }
}

/// `1 image`, `2 images`.
pub(crate) fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// `1 image is`, `2 images are`.
pub(crate) fn counted_are(count: u64, what: &str) -> String {
    format!("{} {}", counted(count, what), if count == 1 { "is" } else { "are" })
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

    #[test]
    fn the_middle_of_a_long_text_is_left_out() {
        let whole = "é".repeat(200);
        assert_eq!(shown(&whole), whole);
        for pad in ["", "x", "xy", "xyz"] {
            let long = format!("{pad}{}end", "😀".repeat(1 << 18));
            let text = shown(&long);
            assert!(text.starts_with(&format!("{pad}😀")) && text.ends_with("😀end"), "{text}");
            assert!(text.contains(&format!(" … ({} bytes in all) … ", long.len())), "{text}");
            assert!(text.len() < 450, "{} bytes", text.len());
        }
        assert!(shown(&"\u{202E}".repeat(1 << 20)).len() < 1500);
        assert_eq!(shown_path("p".repeat(1000).as_ref()), "p".repeat(1000));
        assert!(shown_path("p".repeat(9000).as_ref()).contains("9000 bytes in all"));
    }

    #[test]
    fn shapes_of_many_axes_are_cut() {
        assert_eq!([shown_shape(&[]), shown_shape(&[3, 4])], ["[]", "[3, 4]"]);
        assert_eq!(shown_shape(&[1; 64]), format!("{:?}", [1; 64]));
        assert!(shown_shape(&[1; 65]).ends_with(", 1, … (65 axes in all)]"));
    }

    #[test]
    fn no_error_is_as_long_as_the_names_in_it() {
        let long = || "n".repeat(1 << 20);
        let (dump, tensor, path) = (long(), long(), PathBuf::from(long()));
        let failed = || io::Error::from(io::ErrorKind::NotFound);
        let all = [
            Error::Open { path: path.clone(), source: failed() },
            Error::Format { path: path.clone(), format: "x", problem: "y".to_owned() },
            Error::Unread { path: path.clone(), format: "x", problem: "y".to_owned() },
            Error::Read { dump: dump.clone(), tensor: tensor.clone(), source: failed() },
            Error::Changed { dump: dump.clone(), tensor: tensor.clone(), end: 1 },
            Error::Write { path: path.clone(), source: failed() },
            Error::Exists { first: path.clone(), count: 2 },
            Error::InTheWay { path, problem: "x" },
            Error::Collision { name: long(), one: long(), other: long(), hint: "x" },
            Error::TooLarge { dump: dump.clone(), tensor: tensor.clone(), problem: "x".to_owned() },
            Error::Dtype { dump: dump.clone(), tensor: tensor.clone(), dtype: long() },
            Error::CpuOnly { dump, tensor, reason: "x".to_owned() },
            Error::Nonfinite { name: long(), nan: 1, inf: 2 },
        ];
        for error in all {
            let error =
                Error::Stopped { cause: Box::new(error), failed_for_good: 0, done: 1, images: 2 };
            let text = error.to_string();
            assert!(text.len() < 2000 && text.contains("bytes in all"), "{} bytes", text.len());
        }
    }

    #[test]
    #[cfg(unix)]
    fn what_may_go_right_another_time_is_told_from_what_will_not() {
        let write = |errno| {
            let source = io::Error::from_raw_os_error(errno);
            Error::Write { path: "f".into(), source }
        };
        let transient = |error: Error| error.is_transient();
        let [eio, eagain, ebusy, emfile, enfile, enospc, estale] = [5, 11, 16, 24, 23, 28, 116];
        for errno in [eio, eagain, ebusy, emfile, enfile, enospc, estale] {
            assert!(transient(write(errno)) || (errno == estale && !cfg!(target_os = "linux")));
        }
        let [eacces, eisdir, erofs] = [13, 21, 30];
        assert!(![eacces, eisdir, erofs].into_iter().any(|errno| transient(write(errno))));
        // No room is no room, before the run or in it.
        let space = || Error::Space { path: "o".into(), needed: 2, free: 1, what: "bytes" };
        let stopped = |cause, failed_for_good| Error::Stopped {
            cause: Box::new(cause),
            failed_for_good,
            done: 1,
            images: 3,
        };
        assert!(transient(space()) && transient(stopped(write(enospc), 0)));
        assert!(!transient(stopped(write(enospc), 1)) && !transient(stopped(write(erofs), 0)));
        assert!(!transient(Error::of_all(vec![write(eio), write(eacces)])));
    }

    #[test]
    #[cfg(unix)]
    fn too_many_open_files_come_with_what_helps() {
        let dump = || "d.safetensors".to_owned();
        let of = |errno| {
            let source = || io::Error::from_raw_os_error(errno);
            [
                Error::Open { path: dump().into(), source: source() },
                Error::Read { dump: dump(), tensor: "t".to_owned(), source: source() },
                Error::Write { path: dump().into(), source: source() },
            ]
            .map(|error| error.to_string())
        };
        for text in of(EMFILE) {
            assert!(text.contains("d.safetensors") && text.contains("ulimit -n"), "{text}");
        }
        for text in of(ENFILE) {
            assert!(text.contains("d.safetensors") && text.contains("whole system"), "{text}");
        }
        for text in of(5) {
            assert!(text.ends_with("(os error 5)"), "{text}");
        }
    }
}
