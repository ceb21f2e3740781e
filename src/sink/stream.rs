//! One file that goes where nothing can be sought: standard output, a socket.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::{Pending, Sink};
use crate::error::Error;

/// Bytes that are written at once, where pieces are small.
const BUFFER: usize = 1 << 20;

/// How long somebody waits who finds a pipe full that does not block.
const PATIENCE: Duration = Duration::from_millis(1);

/// Writes one file from its begin to its end. Pieces that come too early are held in memory: who hands
/// them over is to come nearly in order, as a run does whose [`Tar`](crate::Tar) is
/// [streamed](crate::Tar::streamed).
///
/// What was written cannot be taken back: a file that is not whole ends early.
pub struct StreamSink<W: Write + Send> {
    /// What it is called where it fails.
    name: PathBuf,
    state: Mutex<State<W>>,
}

struct State<W: Write> {
    out: BufWriter<W>,
    /// Whether the file was begun.
    begun: bool,
    /// Where the next byte goes.
    next: u64,
    /// Pieces that came too early, by where they go.
    early: BTreeMap<u64, Vec<u8>>,
    /// Why no more is written.
    failed: Option<(io::ErrorKind, Option<i32>)>,
}

impl<W: Write + Send> StreamSink<W> {
    /// A sink that writes to `out`, which is called `name` in errors.
    pub fn new(name: impl Into<PathBuf>, out: W) -> StreamSink<W> {
        let out = BufWriter::with_capacity(BUFFER, out);
        let state = State { out, begun: false, next: 0, early: BTreeMap::new(), failed: None };
        StreamSink { name: name.into(), state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State<W>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::Write { path: self.name.clone(), source }
    }
}

/// Does it again and again while a pipe that does not block is full.
fn patiently<T>(mut work: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match work() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(PATIENCE),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

fn write_all(out: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match patiently(|| out.write(bytes))? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => bytes = &bytes[written..],
        }
    }
    Ok(())
}

impl<W: Write> State<W> {
    /// Writes a piece that is due, at least in part.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        // A unit that another device was lost with comes again, and is the same.
        let known = usize::try_from(self.next - offset).unwrap_or(usize::MAX);
        let new = bytes.get(known..).unwrap_or_default();
        write_all(&mut self.out, new)?;
        self.next += new.len() as u64;
        Ok(())
    }

    fn add(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if offset > self.next {
            let longer = self.early.get(&offset).is_some_and(|known| known.len() >= bytes.len());
            if !longer {
                self.early.insert(offset, bytes.to_vec());
            }
            return Ok(());
        }
        self.write(offset, bytes)?;
        while let Some(first) = self.early.first_entry().filter(|first| *first.key() <= self.next) {
            let (offset, bytes) = first.remove_entry();
            self.write(offset, &bytes)?;
        }
        Ok(())
    }

    fn told(&mut self, outcome: io::Result<()>) -> io::Result<()> {
        if let Err(error) = &outcome {
            self.failed.get_or_insert((error.kind(), error.raw_os_error()));
            self.early.clear();
        }
        outcome
    }

    fn check(&self) -> io::Result<()> {
        match self.failed {
            None => Ok(()),
            Some((_, Some(errno))) => Err(io::Error::from_raw_os_error(errno)),
            Some((kind, None)) => Err(kind.into()),
        }
    }
}

impl<W: Write + Send> Sink for StreamSink<W> {
    fn prepare(&self, names: &mut dyn Iterator<Item = String>) -> Result<(), Error> {
        if names.nth(1).is_some() {
            let name = self.name.display();
            return Err(Error::Usage(format!(
                "{name}: a stream takes one file, and here are more"
            )));
        }
        Ok(())
    }

    fn put(&self, name: &str, header: &[u8], pixels: &[u8]) -> Result<(), Error> {
        let pending = self.begin(name, Some((header.len() + pixels.len()) as u64))?;
        pending.write_at(0, header)?;
        pending.write_at(header.len() as u64, pixels)?;
        pending.commit()
    }

    fn begin(&self, _name: &str, len: Option<u64>) -> Result<Box<dyn Pending + '_>, Error> {
        let mut state = self.lock();
        if std::mem::replace(&mut state.begun, true) {
            return Err(self.failed(io::Error::other("a stream takes one file")));
        }
        Ok(Box::new(Streaming { sink: self, len }))
    }
}

struct Streaming<'a, W: Write + Send> {
    sink: &'a StreamSink<W>,
    len: Option<u64>,
}

impl<W: Write + Send> Pending for Streaming<'_, W> {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let mut state = self.sink.lock();
        let outcome = state.check().and_then(|()| {
            let outcome = state.add(offset, bytes);
            state.told(outcome)
        });
        outcome.map_err(|source| self.sink.failed(source))
    }

    fn commit(self: Box<Self>) -> Result<(), Error> {
        let mut state = self.sink.lock();
        let outcome = state.check().and_then(|()| {
            let is_whole = state.early.is_empty() && self.len.is_none_or(|len| len == state.next);
            let outcome = match is_whole {
                true => patiently(|| state.out.flush()),
                false => {
                    let problem = format!("only {} bytes could be written in order", state.next);
                    Err(io::Error::new(io::ErrorKind::InvalidData, problem))
                }
            };
            state.told(outcome)
        });
        outcome.map_err(|source| self.sink.failed(source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Some bytes, then an error.
    struct Closed(Vec<u8>, usize);

    impl Write for Closed {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let room = self.1 - self.0.len();
            if room == 0 {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let most = bytes.len().min(room);
            self.0.extend(&bytes[..most]);
            Ok(most)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// In every order, each piece once or twice.
    #[test]
    fn pieces_come_out_in_order_whatever_order_they_come_in() {
        let pieces: [(u64, &[u8]); 4] = [(0, b"ab"), (2, b"c"), (3, b"defg"), (7, b"h")];
        for case in 0..4_usize.pow(5) {
            let order: Vec<usize> = (0..5).map(|k| case / 4_usize.pow(k) % 4).collect();
            let mut out = Vec::new();
            let sink = StreamSink::new("out", &mut out);
            let pending = sink.begin("x", Some(8)).unwrap();
            for &piece in &order {
                let (at, bytes) = pieces[piece];
                pending.write_at(at, bytes).unwrap();
            }
            let whole = (0..4).all(|piece| order.contains(&piece));
            assert_eq!(pending.commit().is_ok(), whole, "{order:?}");
            drop(sink);
            if whole {
                assert_eq!(out, b"abcdefgh", "{order:?}");
            }
        }
    }

    /// Takes little at a time, and every other time nothing.
    #[derive(Default)]
    struct Full(Vec<u8>, bool);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let most = bytes.len().min(1 << 19);
            self.0.extend(&bytes[..most]);
            Ok(most)
        }

        fn flush(&mut self) -> io::Result<()> {
            self.write(&[]).map(drop)
        }
    }

    #[test]
    fn a_pipe_that_does_not_block_is_waited_for() {
        let mut out = Full::default();
        let bytes: Vec<u8> = (0..3 << 20).map(|at: u32| at.to_le_bytes()[1]).collect();
        let sink = StreamSink::new("out", &mut out);
        let pending = sink.begin("x", Some(bytes.len() as u64)).unwrap();
        for (number, piece) in bytes.chunks(777_777).enumerate() {
            pending.write_at(777_777 * number as u64, piece).unwrap();
        }
        pending.commit().unwrap();
        drop(sink);
        assert!(out.0 == bytes);
    }

    #[test]
    fn a_stream_that_closed_takes_nothing_and_holds_nothing() {
        let sink = StreamSink::new("out", Closed(Vec::new(), 2 << 20));
        let pending = sink.begin("x", Some(8 << 20)).unwrap();
        pending.write_at(5 << 20, &[2; 100]).unwrap();
        pending.write_at(0, &vec![1; 2 << 20]).unwrap();
        let error = pending.write_at(2 << 20, &vec![1; 2 << 20]).unwrap_err();
        let told = error.to_string();
        assert!(told.starts_with("out: ") && told.contains("pipe"), "{told}");
        assert!(sink.lock().early.is_empty());
        assert!(pending.write_at(6 << 20, &[1]).is_err() && sink.lock().early.is_empty());
        assert!(pending.commit().is_err());
        assert!(sink.begin("y", None).is_err());
        let two = sink.prepare(&mut ["a", "b"].map(str::to_owned).into_iter());
        assert!(two.unwrap_err().is_usage());
    }
}
