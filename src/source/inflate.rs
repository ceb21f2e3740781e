//! One deflated member of an archive, unpacked chunk after chunk from any point that was kept.
//! Format: RFC 1951, by the crate `miniz_oxide`, whose decoder can be copied in mid-stream.
//!
//! What a decoder needs to go on is its own state (11 KB), the last 32 KiB that it made, and where it
//! is in the file: that is a [`Point`].

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::{
    TINFL_FLAG_HAS_MORE_INPUT, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF,
};
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

/// Bytes that are unpacked at once; the last chunk of a member has fewer.
pub(super) const CHUNK: u64 = 256 << 10;
/// How far back a stream refers at most.
const WINDOW: usize = 32 << 10;
/// Packed bytes that are read at once.
const INPUT: u64 = 64 << 10;
/// How many bytes one packed byte can stand for at most: a length of 258 in two bits.
const MOST_FROM_ONE: u64 = 1032;

/// A deflated member, as the archive's directory has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packed {
    /// Where it begins in the file, and its bytes there.
    pub(super) begin: u64,
    pub(super) len: u64,
    /// Its bytes unpacked, and their CRC-32.
    pub(super) size: u64,
    pub(super) crc: u32,
}

impl Packed {
    /// Whether so many bytes can come of the packed ones.
    pub(super) fn is_possible(&self) -> bool {
        self.len.checked_mul(MOST_FROM_ONE).is_none_or(|most| self.size <= most)
    }

    /// How many chunks it has.
    pub(super) fn chunks(&self) -> u64 {
        self.size.div_ceil(CHUNK)
    }
}

/// Why there are no bytes.
#[derive(Debug)]
pub(super) enum Broken<E> {
    /// The file cannot be read.
    Read(E),
    /// It can, and is not what it ought to be.
    Damaged(String),
}

/// Fills a buffer from a byte of the file on.
pub(super) type Fill<'f, E> = dyn FnMut(u64, &mut [u8]) -> Result<(), E> + 'f;

/// A decoder on its way through a member. It holds one chunk.
pub(super) struct Cursor {
    state: Box<DecompressorOxide>,
    /// Packed bytes that were read from the file, and of the last of them how many were taken.
    read: u64,
    input: Vec<u8>,
    taken: usize,
    /// What a stream may refer to, and behind it the chunk.
    out: Vec<u8>,
    window: usize,
    /// How many bytes of the member end with the chunk.
    end: u64,
}

/// Where a decoder can go on, at the begin of a chunk.
pub(super) struct Point {
    state: Box<DecompressorOxide>,
    read: u64,
    window: Box<[u8]>,
    end: u64,
}

impl Point {
    /// Bytes that one takes at most.
    pub(super) const BYTES: u64 = (size_of::<DecompressorOxide>() + WINDOW) as u64;
}

impl Cursor {
    /// Bytes that one takes at most.
    pub(super) const BYTES: u64 = Point::BYTES + INPUT + CHUNK;

    /// At the begin of a member.
    pub(super) fn new() -> Cursor {
        Cursor {
            state: Box::default(),
            read: 0,
            input: Vec::new(),
            taken: 0,
            out: Vec::new(),
            window: 0,
            end: 0,
        }
    }

    /// Goes to where another one was, or to the begin of a member, in the memory that it has.
    pub(super) fn go_to(&mut self, point: Option<&Point>) {
        match point {
            None => *self.state = DecompressorOxide::new(),
            Some(point) => self.state.clone_from(&point.state),
        }
        self.read = point.map_or(0, |point| point.read);
        self.end = point.map_or(0, |point| point.end);
        self.input.clear();
        self.taken = 0;
        self.out.clear();
        self.out.extend_from_slice(point.map_or(&[], |point| &point.window));
        self.window = self.out.len();
    }

    /// Where this one is, behind its chunk.
    pub(super) fn point(&self) -> Point {
        let rest = (self.input.len() - self.taken) as u64;
        Point {
            state: self.state.clone(),
            read: self.read - rest,
            window: self.out[self.out.len().saturating_sub(WINDOW)..].into(),
            end: self.end,
        }
    }

    /// How many bytes of the member end with its chunk.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// The bytes that it unpacked last.
    pub(super) fn chunk(&self) -> &[u8] {
        &self.out[self.window..]
    }

    /// Unpacks the next bytes, `len` or as many as there are. With the last ones it looks whether the
    /// stream ends there as well.
    pub(super) fn advance<E>(
        &mut self,
        packed: &Packed,
        len: u64,
        fill: &mut Fill<'_, E>,
    ) -> Result<(), Broken<E>> {
        let wanted = len.min(packed.size - self.end);
        // What can still be referred to goes to the front.
        let kept = self.out.len().min(WINDOW);
        let from = self.out.len() - kept;
        self.out.copy_within(from.., 0);
        self.window = kept;
        let end = kept + usize::try_from(wanted).expect("at most a chunk");
        // Behind the last byte there is room for one more: whether one comes is the question then, and
        // without room a decoder that lacks input does not say so.
        let is_last = self.end + wanted == packed.size;
        self.out.resize(end + usize::from(is_last), 0);
        let (begin, size, mut at) = (self.end, packed.size, kept);
        let damaged = |problem: &str, at: usize| {
            let byte = begin + (at.min(end) - kept) as u64;
            Broken::Damaged(format!("its packed bytes {problem} at byte {byte} of {size}"))
        };
        while at < end || is_last {
            if self.taken == self.input.len() {
                let more = INPUT.min(packed.len - self.read);
                self.input.resize(usize::try_from(more).expect("at most INPUT"), 0);
                self.taken = 0;
                fill(packed.begin + self.read, &mut self.input).map_err(Broken::Read)?;
                self.read += more;
            }
            let (status, taken, made) = decompress(
                &mut self.state,
                &self.input[self.taken..],
                &mut self.out,
                at,
                TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF | TINFL_FLAG_HAS_MORE_INPUT,
            );
            (self.taken, at) = (self.taken + taken, at + made);
            let is_used_up = self.taken == self.input.len() && self.read == packed.len;
            match status {
                _ if at > end => return Err(damaged("do not end", at)),
                TINFLStatus::Done if at < end || !is_last => return Err(damaged("end", at)),
                TINFLStatus::Done if !is_used_up => {
                    return Err(damaged("go on behind their end,", at));
                }
                TINFLStatus::Done => break,
                TINFLStatus::NeedsMoreInput if is_used_up => {
                    return Err(damaged("are cut off", at));
                }
                TINFLStatus::NeedsMoreInput if self.taken == self.input.len() => {}
                TINFLStatus::HasMoreOutput if taken + made > 0 || (at == end && !is_last) => {}
                _ => return Err(damaged("are damaged", at)),
            }
        }
        self.out.truncate(end);
        self.end += wanted;
        Ok(())
    }
}

/// The first bytes of a member, of which more and more are asked for.
pub(super) struct Beginning {
    packed: Packed,
    cursor: Cursor,
    bytes: Vec<u8>,
}

impl Beginning {
    pub(super) fn new(packed: Packed) -> Beginning {
        Beginning { packed, cursor: Cursor::new(), bytes: Vec::new() }
    }

    /// Fills `buf` from a byte on; answers how many bytes there were.
    pub(super) fn fill<E>(
        &mut self,
        at: u64,
        buf: &mut [u8],
        fill: &mut Fill<'_, E>,
    ) -> Result<usize, Broken<E>> {
        let end = at.saturating_add(buf.len() as u64).min(self.packed.size);
        while self.cursor.end() < end {
            // A header of NumPy's takes 128 bytes, and an archive may have many.
            let more = (end - self.cursor.end()).clamp(128, CHUNK);
            self.cursor.advance(&self.packed, more, fill)?;
            self.bytes.extend_from_slice(self.cursor.chunk());
        }
        let from = usize::try_from(at.min(end)).expect("it was unpacked");
        let there = &self.bytes[from..usize::try_from(end).expect("it was unpacked")];
        buf[..there.len()].copy_from_slice(there);
        Ok(there.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that repeat now and then, and what they are packed.
    fn packed(len: usize) -> (Vec<u8>, Vec<u8>) {
        let mut state = 1_u32;
        let bytes: Vec<u8> = (0..len)
            .map(|at| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if at % 5000 < 2500 { (state >> 24).to_le_bytes()[0] } else { 7 }
            })
            .collect();
        let packed = miniz_oxide::deflate::compress_to_vec(&bytes, 6);
        (bytes, packed)
    }

    fn of(file: &[u8], size: usize) -> Packed {
        Packed { begin: 0, len: file.len() as u64, size: size as u64, crc: 0 }
    }

    fn all(file: &[u8], size: usize, step: u64) -> Result<Vec<u8>, String> {
        let (packed, mut cursor, mut bytes) = (of(file, size), Cursor::new(), Vec::new());
        loop {
            let advanced = cursor.advance(&packed, step, &mut |at, buf: &mut [u8]| {
                let at = usize::try_from(at).unwrap();
                buf.copy_from_slice(file.get(at..at + buf.len()).ok_or("past the end")?);
                Ok::<(), &str>(())
            });
            advanced.map_err(|broken| match broken {
                Broken::Damaged(problem) => problem,
                Broken::Read(problem) => problem.to_owned(),
            })?;
            bytes.extend_from_slice(cursor.chunk());
            if cursor.end() == packed.size {
                return Ok(bytes);
            }
        }
    }

    #[test]
    fn any_step_unpacks_the_same_bytes() {
        let (bytes, file) = packed(300_000);
        for step in [1, 2, 3, 257, 4096, 32_767, 32_768, 32_769, 100_000, CHUNK, 299_999] {
            assert!(all(&file, bytes.len(), step).unwrap() == bytes, "{step}");
        }
        let (none, file) = packed(0);
        assert_eq!(all(&file, 0, 5), Ok(none));
    }

    #[test]
    fn a_point_goes_on_where_it_was_made() {
        let (bytes, file) = packed(500_000);
        let packed = of(&file, bytes.len());
        let fill = &mut |at: u64, buf: &mut [u8]| {
            let at = usize::try_from(at).unwrap();
            buf.copy_from_slice(&file[at..at + buf.len()]);
            Ok::<(), ()>(())
        };
        for step in [1000, 40_000, 123_457] {
            let mut cursor = Cursor::new();
            while cursor.end() < packed.size {
                let point = cursor.point();
                cursor.advance(&packed, step, fill).unwrap();
                let mut other = Cursor::new();
                other.advance(&packed, 7, fill).unwrap();
                other.go_to(Some(&point));
                assert_eq!(other.chunk(), &[0; 0]);
                other.advance(&packed, step, fill).unwrap();
                assert!(other.chunk() == cursor.chunk(), "{step}, {}", cursor.end());
                assert!(point.window.len() <= WINDOW);
                other.go_to(None);
                other.advance(&packed, step, fill).unwrap();
                assert!(other.chunk() == &bytes[..other.chunk().len()]);
            }
        }
    }

    #[test]
    fn streams_that_end_elsewhere_are_refused() {
        let (bytes, file) = packed(70_000);
        let told = |file: &[u8], size| all(file, size, CHUNK).unwrap_err();
        for cut in 0..file.len() {
            let told = told(&file[..cut], bytes.len());
            assert!(told.contains("cut off"), "{cut}: {told}");
        }
        for step in [1000, CHUNK] {
            let more = all(&file, bytes.len() + 1, step).unwrap_err();
            assert!(more.contains("end at byte 70000 of 70001"), "{more}");
            let fewer = all(&file, bytes.len() - 1, step).unwrap_err();
            assert!(fewer.contains("do not end at byte 69999"), "{fewer}");
        }
        let behind = told(&[&file[..], b"x"].concat(), bytes.len());
        assert!(behind.contains("go on behind their end"), "{behind}");
        assert!(told(&[7; 100], 100).contains("damaged at byte 0 of 100"));
    }

    #[test]
    fn no_stream_unpacks_to_more_than_it_can() {
        let zeros = miniz_oxide::deflate::compress_to_vec(&vec![0; 10 << 20], 9);
        assert!(of(&zeros, 10 << 20).is_possible());
        assert!(of(&[0; 10], 10_320).is_possible() && !of(&[0; 10], 10_321).is_possible());
        let huge = Packed { begin: 0, len: u64::MAX, size: u64::MAX, crc: 0 };
        assert!(huge.is_possible());
    }

    #[test]
    fn the_beginning_is_unpacked_as_far_as_it_is_asked_for() {
        let (bytes, file) = packed(300_000);
        let mut beginning = Beginning::new(of(&file, bytes.len()));
        let mut furthest = 0;
        let fill = &mut |at: u64, buf: &mut [u8]| {
            let at = usize::try_from(at).unwrap();
            furthest = furthest.max(at);
            buf.copy_from_slice(&file[at..at + buf.len()]);
            Ok::<(), ()>(())
        };
        for (at, len) in [(0, 8), (8, 2), (3, 200), (100_000, 10), (299_990, 100), (400_000, 5)] {
            let mut buf = vec![0; len];
            let there = beginning.fill(at as u64, &mut buf, fill).unwrap();
            let wanted = &bytes[at.min(bytes.len())..(at + len).min(bytes.len())];
            assert_eq!(&buf[..there], wanted, "{at}");
        }
    }
}
