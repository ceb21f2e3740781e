//! What a run needs of a disk, and whether that is there.

use std::collections::HashSet;

use super::stacks::stack_files;
use super::tars::tar_files;
use super::{Options, most_of_file};
use crate::backend::done::Done;
use crate::error::Error;
use crate::plan::{Naming, Plan, Stack};
use crate::record::{entry, manifest};
use crate::sink::Sink;
use crate::source::Source;

/// Bytes of a manifest's line but for names and the dump's path.
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
        for stack in stack_files(source, plan, options)? {
            need.add(stack.len(), 1, block);
        }
        for tar in tar_files(plan) {
            if done.is_none_or(|done| done.missing(tar.images.start, tar.images.end) > 0) {
                need.add(tar.len, 1, block);
            }
        }
        for (at, row) in plan.rows().iter().enumerate() {
            let images = match done {
                None => row.images,
                Some(done) => done.missing(row.first_image, row.first_image + row.images),
            };
            let times = |bytes: u64| bytes.saturating_mul(images);
            if plan.stack() == Stack::None && plan.tar().is_none() {
                let file = most_of_file(source, plan, options, at)?;
                need.add(file, images, block);
            }
            if options.record.is_some() && images > 0 {
                let json = |text: &str| serde_json::Value::from(text).to_string().len();
                let tensor = &source.tensors()[row.tensor];
                let name = json(&plan.name(at, row.images - 1));
                let names = 2 * (name + json(&manifest::named(&tensor.name).0));
                let dump = json(&source.dumps()[tensor.dump].label);
                let line = LINE + (names + dump) as u64;
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

    /// Adds so many files of a length on a disk of such blocks.
    fn add(&mut self, file: u64, count: u64, block: u64) {
        let times = |bytes: u64| bytes.saturating_mul(count);
        self.files = self.files.saturating_add(times(file));
        let blocks = file.checked_next_multiple_of(block).unwrap_or(u64::MAX);
        self.disk = self.disk.saturating_add(times(blocks));
        self.inodes = self.inodes.saturating_add(count);
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
        // The output folder itself may have to be made.
        let all = self.inodes.saturating_add(u64::from(!space.exists));
        if space.inodes.is_some_and(|free| all > free) || self.disk > space.bytes {
            let (mut inodes, mut bytes) = (0, 0);
            for name in names.take_while(|_| space.occupied) {
                if let Some(stored) = sink.stored(&name)? {
                    inodes += 1;
                    let blocks = stored.checked_next_multiple_of(space.block.max(1));
                    bytes += blocks.unwrap_or(stored);
                }
            }
            let needed = all.saturating_sub(inodes);
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
    if plan.tar().is_some() {
        return 0;
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::{Record, planned};
    use crate::source::MemorySource;
    use crate::tensor::Dtype;

    /// A run of all has the entries and the manifest's lines of all; a shard its own entries alone.
    #[test]
    fn a_run_needs_room_for_its_record() {
        let source = MemorySource::new("m").with("abc", Dtype::U8, &[100, 2, 2], vec![0; 400]);
        let source = source.unwrap();
        let need = |record: bool, shard: Option<std::ops::Range<u64>>| {
            let record = record.then(|| Record::new("out"));
            let done = shard.as_ref().map(|shard| Done::all_but(100, shard));
            let options = Options { record, shard, ..Options::default() };
            let plan = planned(&source, &options).unwrap();
            Need::of(&source, &options, &plan, done.as_ref(), Some(1000)).unwrap()
        };
        let images = need(false, None);
        assert_eq!((images.disk, images.inodes), (100_000, 104));
        let line = LINE + (2 * ("'m/abc/99.tif'".len() + "'abc'".len()) + "'m'".len()) as u64;
        assert_eq!(need(true, None).disk, 100_000 + 100 * (64 + line));
        let shard = need(true, Some(20..30));
        assert_eq!((shard.disk, shard.inodes), (10_000 + 10 * 64, 14));
        assert_eq!(need(false, Some(20..30)).disk, 10_000);
    }
}
