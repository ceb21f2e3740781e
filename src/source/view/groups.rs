//! Images whose samples lie between each other's are made together, and kept until all of them were read.
//!
//! Such images are a *group*: all channels of a sample in the order NHWC, say. It is made in *slabs*, each
//! a stretch of the axis of the plane along which neighbours lie farthest apart, so that all threads that
//! wait for a group make it. Groups that were not asked for the longest go first.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// About so many bytes has a slab.
const SLAB: u64 = 1 << 20;

/// Which images are together: tensor, number of the group in it.
pub(super) type Key = (usize, u64);

/// The groups that are kept.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// Most bytes of them.
    most: u64,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// The one that was asked for last is last.
    groups: VecDeque<(Key, u64, Arc<Group>)>,
    bytes: u64,
    /// Memory of slabs that are gone. (An allocator that many threads ask for megabytes, and others give
    /// them back to, keeps many times what is used.)
    spare: Vec<Vec<u8>>,
}

/// Images that are together.
#[derive(Debug)]
pub(super) struct Group {
    /// Lengths of the stretches, but of the last one, along the plane's far axis, of `len`.
    stretch: u64,
    len: u64,
    slabs: Mutex<Vec<Slab>>,
    moved: Condvar,
    /// Samples that nobody has read yet.
    left: AtomicI64,
}

#[derive(Debug, Clone)]
enum Slab {
    Free,
    Taken,
    Made(Arc<Vec<u8>>),
}

impl Groups {
    pub(super) fn new(most: u64) -> Groups {
        Groups { most, kept: Mutex::default() }
    }

    /// Most bytes that are kept.
    pub(super) fn most(&self) -> u64 {
        self.most
    }

    /// The group of this key, of `bytes`, of which so many samples will be read, whose plane's far axis is `len` long.
    pub(super) fn group(&self, key: Key, bytes: u64, len: u64, samples: u64) -> Arc<Group> {
        let mut kept = self.kept();
        if let Some(at) = kept.groups.iter().position(|(other, ..)| *other == key) {
            let found = kept.groups.remove(at).expect("it was found there");
            kept.groups.push_back(found);
            return Arc::clone(&kept.groups[kept.groups.len() - 1].2);
        }
        while kept.bytes + bytes > self.most && !kept.groups.is_empty() {
            kept.forget_first();
        }
        // What is left of it is what the new one will take.
        while kept.bytes + kept.spare_bytes() > self.most {
            kept.spare.pop();
        }
        let stretch = (SLAB * len / bytes.max(1)).clamp(1, len);
        let slabs = vec![Slab::Free; usize::try_from(len.div_ceil(stretch)).unwrap_or(usize::MAX)];
        let slabs = Mutex::new(slabs);
        let left = AtomicI64::new(samples.cast_signed());
        let group = Arc::new(Group { stretch, len, slabs, moved: Condvar::new(), left });
        kept.groups.push_back((key, bytes, Arc::clone(&group)));
        kept.bytes += bytes;
        group
    }

    /// So many samples of a group were read. Of which all were is forgotten: its memory, which is still in
    /// cache, is the next one's.
    pub(super) fn was_read(&self, group: Arc<Group>, samples: u64) {
        let samples = samples.cast_signed();
        if group.left.fetch_sub(samples, Ordering::Relaxed) > samples {
            return;
        }
        let mut kept = self.kept();
        let at = kept.groups.iter().position(|(.., other)| Arc::ptr_eq(other, &group));
        drop(group);
        if let Some(found) = at.and_then(|at| kept.groups.remove(at)) {
            kept.groups.push_front(found);
            kept.forget_first();
        }
    }

    /// Room for a slab of so many bytes.
    pub(super) fn room(&self, bytes: usize) -> Vec<u8> {
        let mut room = self.kept().spare.pop().unwrap_or_default();
        room.resize(bytes, 0);
        room
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn spare_bytes(&self) -> u64 {
        self.spare.iter().map(|slab| slab.capacity() as u64).sum()
    }

    fn forget_first(&mut self) {
        let Some((_, bytes, group)) = self.groups.pop_front() else { return };
        self.bytes -= bytes;
        // Who still reads of it keeps it.
        let Some(group) = Arc::into_inner(group) else { return };
        for slab in group.slabs.into_inner().unwrap_or_else(PoisonError::into_inner) {
            if let Slab::Made(slab) = slab {
                self.spare.extend(Arc::into_inner(slab));
            }
        }
    }
}

impl Group {
    /// The stretch of the far axis that a slab is of.
    pub(super) fn stretch(&self, slab: usize) -> Range<u64> {
        let begin = slab as u64 * self.stretch;
        begin..(begin + self.stretch).min(self.len)
    }

    /// The slabs that some of the far axis is in.
    pub(super) fn slabs(&self, places: &Range<u64>) -> Range<usize> {
        let number = |at: u64| usize::try_from(at).expect("there are so many slabs");
        number(places.start / self.stretch)..number(places.end.div_ceil(self.stretch))
    }

    /// A slab; `make` makes the one of a number. Where another thread makes it, this one makes others
    /// meanwhile.
    pub(super) fn slab<E>(
        &self,
        number: usize,
        make: &mut dyn FnMut(usize) -> Result<Vec<u8>, E>,
    ) -> Result<Arc<Vec<u8>>, E> {
        loop {
            let mut slabs = self.lock();
            let is_free = |at: &usize| matches!(slabs[*at], Slab::Free);
            let free = match &slabs[number] {
                Slab::Made(slab) => return Ok(Arc::clone(slab)),
                Slab::Free => Some(number),
                Slab::Taken => (number..slabs.len()).find(is_free),
            };
            let Some(free) = free else {
                drop(self.moved.wait(slabs).unwrap_or_else(PoisonError::into_inner));
                continue;
            };
            slabs[free] = Slab::Taken;
            drop(slabs);
            let mut taken = Taken { group: self, number: free, slab: Slab::Free };
            match make(free) {
                Ok(slab) => taken.slab = Slab::Made(Arc::new(slab)),
                // Another slab's failure is for who needs it.
                Err(error) if free == number => return Err(error),
                Err(_) => {
                    drop(taken);
                    return self.own(number, make);
                }
            }
        }
    }

    /// A slab that this thread makes for itself.
    fn own<E>(
        &self,
        number: usize,
        make: &mut dyn FnMut(usize) -> Result<Vec<u8>, E>,
    ) -> Result<Arc<Vec<u8>>, E> {
        if let Slab::Made(slab) = &self.lock()[number] {
            return Ok(Arc::clone(slab));
        }
        make(number).map(Arc::new)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Slab>> {
        self.slabs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A slab that others wait for: told however it ends.
struct Taken<'g> {
    group: &'g Group,
    number: usize,
    slab: Slab,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.group.lock()[self.number] = std::mem::replace(&mut self.slab, Slab::Free);
        self.group.moved.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// Who waits for a slab makes another meanwhile; should that fail, it is for who needs it, and the one that
    /// was waited for is made.
    #[test]
    fn another_slabs_failure_is_for_who_needs_it() {
        let group = Groups::new(1 << 30).group((0, 0), 2 * SLAB, 2, 2);
        assert_eq!(group.slabs(&(0..2)), 0..2);
        let (say_begun, begun) = mpsc::channel();
        let (say_end, end) = mpsc::channel();
        thread::scope(|scope| {
            let group = &group;
            let first = scope.spawn(move || {
                group.slab(0, &mut |_| {
                    say_begun.send(()).unwrap();
                    // If nobody says so, it was waited for.
                    let _ = end.recv_timeout(Duration::from_secs(5));
                    Ok::<_, ()>(vec![1])
                })
            });
            begun.recv().unwrap();
            let mut made = Vec::new();
            let second = group.slab(0, &mut |number| {
                made.push(number);
                if number == 1 { Err(()) } else { Ok(vec![2]) }
            });
            say_end.send(()).unwrap();
            assert_eq!((second.unwrap().to_vec(), made), (vec![2], vec![1, 0]));
            assert_eq!(*first.join().unwrap().unwrap(), [1]);
        });
        assert_eq!(group.slab(1, &mut |_| Err("wanted")), Err("wanted"));
        assert_eq!(*group.slab(1, &mut |_| Ok::<_, ()>(vec![3])).unwrap(), [3]);
    }
}
