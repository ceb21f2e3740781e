//! Deflated members of archives, read anywhere by many threads at once.
//!
//! A stream can only be unpacked from its begin. Whoever first needs what lies ahead takes it on, chunk
//! after chunk, and all others who need of it wait for theirs: so a first pass unpacks everything once,
//! however many threads read it. On the way [`Point`]s are kept from which it goes on later, and the last
//! chunks, because threads read near each other. What lies behind the front is unpacked by each thread for
//! itself, from where a cursor was left (reading on is the fast case) or from the nearest point.
//!
//! The front sees every byte once and in order. So it is the front that knows the checksum, when it
//! arrives at the end.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::inflate::{Broken, CHUNK, Cursor, Fill, Packed, Point};

/// Chunks that are kept of those that a front unpacked last.
const RECENT: usize = 32;
/// Cursors that there are at most: those that threads use, and of the others the last ones.
const CURSORS: usize = 32;
/// Points that are kept of all members together: where there is more to unpack they are farther apart.
const POINTS: u64 = 256;
/// How far points are apart at least, in chunks.
const NEAREST: u64 = 4;

/// See the module.
#[derive(Default)]
pub(super) struct Unpacker {
    members: Vec<Packed>,
    /// Chunks of all members.
    chunks: u64,
    shared: Mutex<Shared>,
    /// A front has moved, or has nobody any more who moves it, or a cursor is free.
    moved: Condvar,
}

#[derive(Default)]
struct Shared {
    /// One for each member.
    fronts: Vec<Front>,
    /// Member, number, bytes.
    recent: VecDeque<(usize, u64, Arc<Vec<u8>>)>,
    /// Chunks that are about to be among them.
    coming: usize,
    /// By member and the number of the chunk that comes next.
    points: BTreeMap<(usize, u64), Arc<Point>>,
    /// Cursors that nobody uses; the one that was used last comes last.
    idle: Vec<(usize, Box<Cursor>)>,
    /// How many are used.
    used: usize,
}

/// How far a member was unpacked.
#[derive(Default)]
struct Front {
    /// Chunks.
    done: u64,
    /// The checksum of them.
    crc: u32,
    /// Whether a thread takes it on.
    is_moved: bool,
    damage: Option<Box<str>>,
}

/// How a chunk is come by.
enum Way {
    There(Arc<Vec<u8>>),
    /// With a cursor, from before it; whether it is for the front.
    Unpack(Box<Cursor>, bool),
}

impl Unpacker {
    /// Adds a member; answers with its number.
    pub(super) fn add(&mut self, packed: Packed) -> usize {
        self.members.push(packed);
        self.chunks = self.chunks.saturating_add(packed.chunks());
        let shared = self.shared.get_mut().unwrap_or_else(PoisonError::into_inner);
        shared.fronts.push(Front::default());
        self.members.len() - 1
    }

    /// Bytes that it takes at most.
    pub(super) fn memory(&self) -> u64 {
        let points = (self.chunks / self.step()).min(POINTS) * Point::BYTES;
        let recent = self.chunks.min(RECENT as u64) * CHUNK;
        let cursors = self.chunks.min(CURSORS as u64) * Cursor::BYTES;
        points + recent + cursors
    }

    /// How many chunks points are apart.
    fn step(&self) -> u64 {
        self.chunks.div_ceil(POINTS).max(NEAREST)
    }

    /// Fills `buf` with bytes from `at` on of a member, which has so many.
    pub(super) fn read<E>(
        &self,
        member: usize,
        at: u64,
        buf: &mut [u8],
        fill: &mut Fill<'_, E>,
    ) -> Result<(), Broken<E>> {
        let mut done = 0;
        while done < buf.len() {
            let from = at + done as u64;
            let (number, skipped) = (from / CHUNK, from % CHUNK);
            let skipped = usize::try_from(skipped).expect("less than a chunk");
            let mut take = |chunk: &[u8]| {
                let some = (chunk.len() - skipped).min(buf.len() - done);
                buf[done..done + some].copy_from_slice(&chunk[skipped..skipped + some]);
                some
            };
            done += match self.way(member, number).map_err(Broken::Damaged)? {
                Way::There(chunk) => take(&chunk),
                Way::Unpack(mut cursor, is_front) => {
                    let arrived = if is_front {
                        self.take_on(member, number, &mut cursor, fill)
                    } else {
                        self.go(member, number, &mut cursor, fill)
                    };
                    let some = arrived.map(|()| take(cursor.chunk()));
                    self.leave(member, some.is_ok().then_some(cursor));
                    some?
                }
            };
        }
        Ok(())
    }

    /// How this thread comes by a chunk. Waits for others who are about it.
    fn way(&self, member: usize, number: u64) -> Result<Way, String> {
        let mut shared = self.shared();
        loop {
            if let Some(damage) = &shared.fronts[member].damage {
                return Err(damage.to_string());
            }
            let of = |(whose, which, _): &&(usize, u64, _)| (*whose, *which) == (member, number);
            if let Some((.., chunk)) = shared.recent.iter().rev().find(of) {
                return Ok(Way::There(Arc::clone(chunk)));
            }
            let is_free = shared.used < CURSORS;
            if is_free && number < shared.fronts[member].done {
                return Ok(Way::Unpack(shared.cursor(member, number, number + 1), false));
            }
            if is_free && !shared.fronts[member].is_moved {
                shared.fronts[member].is_moved = true;
                let front = shared.fronts[member].done;
                return Ok(Way::Unpack(shared.cursor(member, front, front), true));
            }
            shared = self.moved.wait(shared).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Unpacks up to and with a chunk that the front has passed.
    fn go<E>(
        &self,
        member: usize,
        number: u64,
        cursor: &mut Cursor,
        fill: &mut Fill<'_, E>,
    ) -> Result<(), Broken<E>> {
        while cursor.end() <= number * CHUNK {
            cursor.advance(&self.members[member], CHUNK, fill)?;
        }
        Ok(())
    }

    /// Takes the front on to a chunk, and the chunk with it. The cursor is somewhere before.
    fn take_on<E>(
        &self,
        member: usize,
        number: u64,
        cursor: &mut Cursor,
        fill: &mut Fill<'_, E>,
    ) -> Result<(), Broken<E>> {
        let moving = Moving { unpacker: self, member };
        let packed = &self.members[member];
        let (mut front, mut crc) = {
            let front = &self.shared().fronts[member];
            (front.done, front.crc)
        };
        if front > 0 {
            self.go(member, front - 1, cursor, fill)?;
        }
        while front <= number {
            let advanced = cursor.advance(packed, CHUNK, fill).map_err(|broken| match broken {
                Broken::Damaged(problem) => moving.damaged(problem),
                broken => broken,
            });
            advanced?;
            let mut checksum = crc32fast::Hasher::new_with_initial(crc);
            checksum.update(cursor.chunk());
            crc = checksum.finalize();
            front += 1;
            if cursor.end() == packed.size && crc != packed.crc {
                return Err(moving.damaged(format!(
                    "its checksum is {crc:08x}, and the archive says {:08x}",
                    packed.crc
                )));
            }
            let is_kept = front.is_multiple_of(self.step()) && cursor.end() < packed.size;
            let point = is_kept.then(|| Arc::new(cursor.point()));
            let chunk = self.kept(cursor.chunk());
            let mut shared = self.shared();
            if let Some(point) = point {
                shared.points.insert((member, front), point);
            }
            shared.recent.push_back((member, front - 1, chunk));
            shared.coming -= 1;
            shared.fronts[member].done = front;
            shared.fronts[member].crc = crc;
            drop(shared);
            self.moved.notify_all();
        }
        Ok(())
    }

    /// A chunk to be kept, in the memory of the oldest one that is. (An allocator that is asked for
    /// chunks by many threads and given them back by others keeps many times what is used.)
    fn kept(&self, chunk: &[u8]) -> Arc<Vec<u8>> {
        let mut shared = self.shared();
        let is_full = shared.recent.len() + shared.coming >= RECENT;
        let oldest = if is_full { shared.recent.pop_front() } else { None };
        shared.coming += 1;
        drop(shared);
        let mut kept = oldest.map_or_else(Arc::default, |(.., kept)| kept);
        match Arc::get_mut(&mut kept) {
            Some(kept) => {
                kept.clear();
                kept.extend_from_slice(chunk);
            }
            // Somebody still reads it.
            None => kept = Arc::new(chunk.to_vec()),
        }
        kept
    }

    /// Leaves a cursor to who reads on; one that failed is of no use.
    fn leave(&self, member: usize, cursor: Option<Box<Cursor>>) {
        let mut shared = self.shared();
        let was_free = shared.used < CURSORS;
        shared.used -= 1;
        shared.idle.extend(cursor.map(|cursor| (member, cursor)));
        drop(shared);
        if !was_free {
            self.moved.notify_all();
        }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// The cursor that comes soonest to a chunk, of those that have unpacked `most` chunks at most.
    fn cursor(&mut self, member: usize, number: u64, most: u64) -> Box<Cursor> {
        let most = most * CHUNK;
        let idle = self.idle.iter().enumerate().filter(|(_, (whose, _))| *whose == member);
        let idle = idle.map(|(at, (_, cursor))| (cursor.end(), at)).filter(|(end, _)| *end <= most);
        let point = self.points.range((member, 0)..=(member, number)).next_back();
        let (found, point) = match (idle.max(), point) {
            (Some((end, at)), point) if point.is_none_or(|((_, next), _)| next * CHUNK <= end) => {
                (Some(self.idle.remove(at).1), None)
            }
            (_, point) => (None, Some(point.map(|(_, point)| Arc::clone(point)))),
        };
        // The memory of one that nobody used for the longest does as well.
        let is_full = self.idle.len() + self.used >= CURSORS;
        let mut cursor = match found {
            Some(cursor) => cursor,
            None if is_full => self.idle.remove(0).1,
            None => Box::new(Cursor::new()),
        };
        if let Some(point) = point {
            cursor.go_to(point.as_deref());
        }
        self.used += 1;
        cursor
    }
}

/// The right to move a front, which others wait for: given back however it ends.
struct Moving<'u> {
    unpacker: &'u Unpacker,
    member: usize,
}

impl Moving<'_> {
    /// Nobody reads of it any more.
    fn damaged<E>(&self, problem: String) -> Broken<E> {
        let damage = Some(problem.as_str().into());
        self.unpacker.shared().fronts[self.member].damage = damage;
        Broken::Damaged(problem)
    }
}

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        self.unpacker.shared().fronts[self.member].is_moved = false;
        self.unpacker.moved.notify_all();
    }
}

impl std::fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unpacker").field("members", &self.members).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// Members of so many bytes, one behind the other, and the file of them.
    fn members(lens: &[usize]) -> (Vec<Vec<u8>>, Vec<u8>, Unpacker) {
        let (mut members, mut file, mut unpacker) = (Vec::new(), Vec::new(), Unpacker::default());
        let mut state = 1_u32;
        for &len in lens {
            let noise = |at: usize| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if at % 50_000 < 5000 { (state >> 24).to_le_bytes()[0] } else { 7 }
            };
            let bytes: Vec<u8> = (0..len).map(noise).collect();
            let packed = miniz_oxide::deflate::compress_to_vec(&bytes, 1);
            let (begin, size) = (file.len() as u64, len as u64);
            let crc = crc32fast::hash(&bytes);
            let member = unpacker.add(Packed { begin, len: packed.len() as u64, size, crc });
            assert_eq!(member, members.len());
            file.extend(packed);
            members.push(bytes);
        }
        (members, file, unpacker)
    }

    fn read(
        unpacker: &Unpacker,
        file: &[u8],
        taken: &AtomicU64,
        (member, at): (usize, usize),
        len: usize,
    ) -> Result<Vec<u8>, Broken<()>> {
        let mut bytes = vec![0; len];
        let fill = &mut |at: u64, buf: &mut [u8]| {
            taken.fetch_add(buf.len() as u64, Ordering::Relaxed);
            let at = usize::try_from(at).unwrap();
            buf.copy_from_slice(file.get(at..at + buf.len()).ok_or(())?);
            Ok(())
        };
        unpacker.read(member, at as u64, &mut bytes, fill).map(|()| bytes)
    }

    fn check_bounds(unpacker: &Unpacker) {
        let shared = unpacker.shared();
        assert!(shared.recent.len() <= RECENT && shared.idle.len() <= CURSORS);
        assert!((shared.used, shared.coming) == (0, 0));
        assert!(shared.points.len() as u64 <= POINTS);
        assert!(shared.fronts.iter().all(|front| !front.is_moved));
    }

    #[test]
    fn any_bytes_are_read_by_any_number_of_threads() {
        let chunk = usize::try_from(CHUNK).unwrap();
        let lens = [0, 1, chunk - 1, chunk, chunk + 1, 9 * chunk, 40 * chunk + 77];
        let (members, file, unpacker) = members(&lens);
        let taken = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for thread in 0..8_u64 {
                let (members, file, unpacker, taken) = (&members, &file, &unpacker, &taken);
                scope.spawn(move || {
                    let mut state = thread;
                    let mut random = |below: usize| {
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        usize::try_from(state >> 33).unwrap() % below.max(1)
                    };
                    for _ in 0..60 {
                        let member = random(members.len());
                        let bytes = &members[member];
                        let at = random(bytes.len() + 1);
                        let most = [100, 3 * chunk][random(2)];
                        let len = random((bytes.len() - at).min(most) + 1);
                        let found = read(unpacker, file, taken, (member, at), len).unwrap();
                        assert!(found == bytes[at..at + len], "{len} from {at} of {member}");
                    }
                });
            }
        });
        check_bounds(&unpacker);
    }

    #[test]
    fn many_fronts_keep_no_more_than_one() {
        let chunk = usize::try_from(CHUNK).unwrap();
        let (members, file, unpacker) = members(&[30 * chunk; 8]);
        let taken = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for (member, bytes) in members.iter().enumerate() {
                let (file, unpacker, taken) = (&file, &unpacker, &taken);
                scope.spawn(move || {
                    let found = read(unpacker, file, taken, (member, 0), bytes.len()).unwrap();
                    assert!(found == *bytes, "{member}");
                });
            }
        });
        check_bounds(&unpacker);
    }

    #[test]
    fn a_pass_of_many_threads_unpacks_everything_once() {
        let (members, file, unpacker) = members(&[20 << 20]);
        let (taken, next) = (AtomicU64::new(0), AtomicU64::new(0));
        let (image, step) = (1 << 20, 128 << 10);
        let images = members[0].len() / image;
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    loop {
                        let at = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap();
                        if at >= images {
                            break;
                        }
                        for from in (at * image..(at + 1) * image).step_by(step) {
                            let found = read(&unpacker, &file, &taken, (0, from), step).unwrap();
                            assert!(found == members[0][from..from + step], "{from}");
                        }
                    }
                });
            }
        });
        // A thread may fall behind what is kept, and begins at a point then.
        let (taken, all) = (taken.load(Ordering::Relaxed), file.len() as u64);
        assert!(taken <= all + all / 2, "{taken} of {all}");
        check_bounds(&unpacker);
    }

    #[test]
    fn to_read_on_costs_what_is_read() {
        let (members, file, unpacker) = members(&[40 << 20]);
        let all = file.len() as u64;
        let pass = |from: usize, step: usize| {
            let taken = AtomicU64::new(0);
            for at in (from..members[0].len() - step).step_by(step) {
                let found = read(&unpacker, &file, &taken, (0, at), step).unwrap();
                assert!(found == members[0][at..at + step]);
            }
            taken.into_inner()
        };
        let first = pass(0, 3001);
        assert_eq!(first, all);
        // Now it begins where a point is, and again nothing is unpacked twice.
        let second = pass(30 << 20, 3001);
        assert!(second < all * 3 / 10, "{second} of {all}");
        let one = AtomicU64::new(0);
        read(&unpacker, &file, &one, (0, 17 << 20), 1).unwrap();
        // (Input is read in pieces.)
        assert!(one.into_inner() < all / 20, "of {all}");
    }

    #[test]
    fn much_takes_no_more_memory_than_little() {
        let mut unpacker = Unpacker::default();
        assert_eq!(unpacker.memory(), 0);
        let of = |size| Packed { begin: 0, len: size, size, crc: 0 };
        unpacker.add(of(1));
        assert!(unpacker.memory() < 2 << 20);
        unpacker.add(of(1 << 30));
        let most = unpacker.memory();
        assert!((16 << 20..34 << 20).contains(&most), "{most}");
        for size in [1 << 40, 1 << 62, u64::MAX] {
            unpacker.add(of(size));
            assert!((16 << 20..34 << 20).contains(&unpacker.memory()));
            assert!(unpacker.chunks / unpacker.step() <= POINTS);
        }
    }

    #[test]
    fn a_wrong_checksum_is_told_to_all_that_read_from_then_on() {
        let (_, file, mut unpacker) = members(&[3 << 20]);
        unpacker.members[0].crc ^= 1;
        let taken = AtomicU64::new(0);
        let told = |at, len| match read(&unpacker, &file, &taken, (0, at), len) {
            Ok(_) => "read".to_owned(),
            Err(Broken::Damaged(problem)) => problem,
            Err(Broken::Read(())) => "unreadable".to_owned(),
        };
        assert_eq!(told(0, 2 << 20), "read");
        assert!(told((3 << 20) - 1, 1).contains("checksum"));
        assert!(told(0, 1).contains("checksum"));
        check_bounds(&unpacker);
    }

    #[test]
    fn a_failure_to_read_is_no_damage_and_keeps_nobody_waiting() {
        let (members, file, unpacker) = members(&[5 << 20]);
        let taken = AtomicU64::new(0);
        let half = &file[..file.len() / 2];
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let failed = || read(&unpacker, half, &taken, (0, (5 << 20) - 9), 9);
                scope.spawn(move || assert!(matches!(failed(), Err(Broken::Read(())))));
            }
        });
        let whole = read(&unpacker, &file, &taken, (0, 0), 5 << 20).unwrap();
        assert!(whole == members[0]);
        check_bounds(&unpacker);
    }
}
