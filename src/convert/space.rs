//! What a run needs of a disk, and whether that is there.

use std::collections::HashSet;

use super::{Options, header};
use crate::backend::done::Done;
use crate::error::Error;
use crate::plan::{Naming, Plan};
use crate::record::entry;
use crate::sink::Sink;
use crate::source::Source;

/// Bytes of a manifest's line but for its names, which are in it twice.
const LINE: u64 = 400;
/// Allocation unit of most file systems, where it is not known.
const BLOCK: u64 = 4096;

/// What the images of a run that are not done yet take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Need {
    /// Bytes of all files together.
    pub files: u64,
    /// Bytes of the disk: files take whole blocks, and the run's record its part.
    pub disk: u64,
    /// Files and folders.
    pub inodes: u64,
}

impl Need {
    /// Of the images of a plan that are not `done`.
    pub(super) fn of(
        source: &dyn Source,
        options: &Options,
        plan: &Plan,
        done: Option<&Done>,
        block: Option<u64>,
    ) -> Result<Need, Error> {
        let block = block.filter(|block| *block > 0).unwrap_or(BLOCK);
        let mut need = Need::default();
        for (at, row) in plan.rows().iter().enumerate() {
            let images = match done {
                None => row.images,
                Some(done) => done.missing(row.first_image, row.first_image + row.images),
            };
            let file = header(source, plan, options.norm, at)?.len() as u64 + 4 * row.samples();
            let times = |bytes: u64| bytes.saturating_mul(images);
            need.files = need.files.saturating_add(times(file));
            let blocks = file.checked_next_multiple_of(block).unwrap_or(u64::MAX);
            need.disk = need.disk.saturating_add(times(blocks));
            need.inodes = need.inodes.saturating_add(images);
            if options.record.is_some() && images > 0 {
                let name = plan.name(at, row.images - 1).len();
                let tensor = source.tensors()[row.tensor].name.len().min(1000);
                let line = LINE + 2 * (name + tensor) as u64;
                let record = match options.shard {
                    None => (entry::SIZE as u64 + line).saturating_mul(row.images),
                    // A shard writes no manifest.
                    Some(_) => times(entry::SIZE as u64),
                };
                need.disk = need.disk.saturating_add(record);
            }
        }
        need.inodes = need.inodes.saturating_add(folders(options, plan)).saturating_add(2);
        Ok(need)
    }

    /// Fails where the sink says that it has not so much. Files that are replaced make room.
    pub(super) fn check(
        &self,
        sink: &dyn Sink,
        names: &mut dyn Iterator<Item = String>,
    ) -> Result<(), Error> {
        let Some(space) = sink.space()? else { return Ok(()) };
        let lacks = |needed: u64, free: u64, what| Error::Space {
            path: space.path.clone(),
            needed,
            free,
            what,
        };
        if space.inodes.is_some_and(|free| self.inodes > free) || self.disk > space.bytes {
            let (mut inodes, mut bytes) = (0, 0);
            for name in names.take_while(|_| space.occupied) {
                if let Some(stored) = sink.stored(&name)? {
                    inodes += 1;
                    bytes += stored;
                }
            }
            let needed = self.inodes.saturating_sub(inodes);
            if let Some(free) = space.inodes.filter(|free| needed > *free) {
                return Err(lacks(needed, free, "files and folders"));
            }
            let needed = self.disk.saturating_sub(bytes);
            if needed > space.bytes {
                return Err(lacks(needed, space.bytes, "bytes"));
            }
        }
        Ok(())
    }
}

/// How many folders the images are in, at most: as if none were there yet.
fn folders(options: &Options, plan: &Plan) -> u64 {
    let mut known: HashSet<String> = HashSet::new();
    let mut add = |name: &str| {
        let mut new = 0;
        let mut rest = name;
        while let Some((folder, _)) = rest.rsplit_once('/') {
            if known.contains(folder) {
                break;
            }
            known.insert(folder.to_owned());
            new += 1;
            rest = folder;
        }
        new
    };
    if matches!(options.naming, Naming::List(_)) {
        return plan.names().map(|name| add(&name)).sum();
    }
    let mut count: u64 = 0;
    for (at, row) in plan.rows().iter().enumerate() {
        let [first, last] = [0, row.images - 1].map(|index| plan.name(at, index));
        count = count.saturating_add(add(&first));
        let one = first.rsplit_once('/').map(|(folder, _)| folder);
        if one != last.rsplit_once('/').map(|(folder, _)| folder) {
            count = count.saturating_add(row.images); // an {index} in a folder's name
        }
    }
    count
}
