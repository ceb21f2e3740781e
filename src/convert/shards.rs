//! A run that is divided among processes: shards of about equal bytes, which of them are done, and
//! one manifest of all.

use std::ops::Range;
use std::time::Instant;

use super::made::Made;
use super::ranges::ranges_of_scopes;
use super::recorder;
use super::{Options, cpu, most_of_file, planned};
use crate::error::Error;
use crate::plan::{Naming, Plan, Stack};
use crate::record::shards::{Head, MOST, Shards, Unit, sum};
use crate::report::Report;
use crate::sink::Sink;
use crate::source::Source;

/// How far a shard is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardState {
    /// Its number, from 0 on.
    pub shard: u64,
    /// How many images it makes.
    pub images: u64,
    /// How many of them are recorded, and there with the right size.
    pub there: u64,
}

impl ShardState {
    /// Whether all its images are there.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.there == self.images
    }
}

/// Divides a run into so many shards, each of consecutive images, whose bytes, read and written, are
/// about equal. Where there are fewer images than shards some have none. Where images share ranges
/// all samples are read, so that no shard need look for them.
///
/// # Errors
/// [`Error::Read`] where samples cannot be read; [`Error::Usage`] for no shards or more than [`MOST`], for options without a record, and as
/// [`convert`](super::convert) before any work.
pub fn divide(source: &dyn Source, options: &Options, shards: u64) -> Result<Shards, Error> {
    if shards == 0 || shards > MOST {
        return Err(Error::Usage(format!("{shards} shards: 1 to {MOST} can be")));
    }
    if options.stack != Stack::None {
        return Err(options.no_stack("a plan"));
    }
    if let Some(tar) = &options.tar {
        return Err(options.no_tar(tar, "a plan"));
    }
    let plan = planned(source, options)?;
    let made = made(source, options, &plan)?;
    let costs = Costs::new(source, options, &plan)?;
    let ranges = ranges_of_scopes(source, options, &plan)?;
    let total = costs.before(plan.images());
    let name = |image: u64| Some(made.name(image));
    let mut units = Vec::new();
    let mut first = 0;
    for shard in 0..shards {
        // To the number of images whose bytes come nearest to this shard's end.
        let end = costs.images_of(total.all() * u128::from(shard + 1) / u128::from(shards));
        let [before, after] = [first, end].map(|image| costs.before(image));
        units.push(Unit {
            shard,
            first,
            images: end - first,
            read: saturated(after.read - before.read),
            written: saturated(after.written - before.written),
            from: if first < end { name(first) } else { None },
            to: if first < end { name(end - 1) } else { None },
        });
        first = end;
    }
    let head = Head {
        tensortiff: env!("CARGO_PKG_VERSION").to_owned(),
        shards,
        names: made.names,
        identity: made.identity.clone(),
        list: match &options.naming {
            Naming::List(list) => Some(list.clone()),
            Naming::Template(_) => None,
        },
        scopes: ranges.len() as u64,
        ranges: sum(&ranges),
    };
    Ok(Shards { head, units, ranges })
}

fn made<'a>(
    source: &'a dyn Source,
    options: &'a Options,
    plan: &'a Plan,
) -> Result<Made<'a>, Error> {
    let Some(record) = &options.record else {
        let problem = "a run that is not recorded cannot be divided".to_owned();
        return Err(Error::Usage(problem));
    };
    Made::new(source, options, plan, record, cpu(source, plan, options)?.threads())
}

fn saturated(bytes: u128) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// Bytes of images.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Cost {
    read: u128,
    written: u128,
}

impl Cost {
    fn all(&self) -> u128 {
        self.read + self.written
    }
}

/// What the images of a plan cost, row by row.
struct Costs {
    /// Of each row: its first image, the cost of all before it, the cost of one of its images.
    rows: Vec<(u64, Cost, Cost)>,
    images: u64,
}

impl Costs {
    fn new(source: &dyn Source, options: &Options, plan: &Plan) -> Result<Costs, Error> {
        let mut before = Cost::default();
        let mut rows = Vec::new();
        for (at, row) in plan.rows().iter().enumerate() {
            let one = Cost {
                read: u128::from(row.samples()) * row.dtype.size() as u128,
                written: u128::from(most_of_file(source, plan, options, at)?),
            };
            rows.push((row.first_image, before, one));
            before.read += one.read * u128::from(row.images);
            before.written += one.written * u128::from(row.images);
        }
        Ok(Costs { rows, images: plan.images() })
    }

    /// The cost of all images before one.
    fn before(&self, image: u64) -> Cost {
        let at = self.rows.partition_point(|(first, ..)| *first <= image);
        let Some((first, before, one)) = at.checked_sub(1).map(|at| self.rows[at]) else {
            return Cost::default();
        };
        let within = u128::from(image - first);
        Cost {
            read: before.read + one.read * within,
            written: before.written + one.written * within,
        }
    }

    /// How many images cost about so much.
    fn images_of(&self, cost: u128) -> u64 {
        let at = self.rows.partition_point(|(_, before, _)| before.all() <= cost);
        let Some((first, before, one)) = at.checked_sub(1).map(|at| self.rows[at]) else {
            return 0;
        };
        let within = (cost - before.all() + one.all() / 2) / one.all();
        let end = self.rows.get(at).map_or(self.images, |(first, ..)| *first);
        u64::try_from(within).map_or(end, |within| end.min(first.saturating_add(within)))
    }
}

/// How far each shard is, by the journals of all runs in the folder, and the manifest if there is
/// one. Nothing is written or locked; shards may be at work.
///
/// # Errors
/// As [`convert`](super::convert) before any work; [`Error::Resume`] where what is there is of
/// another run.
pub fn shard_states(
    source: &dyn Source,
    sink: &dyn Sink,
    options: &Options,
    shards: &[Range<u64>],
) -> Result<Vec<ShardState>, Error> {
    let plan = planned(source, options)?;
    options.check_marks(plan.images())?;
    let made = made(source, options, &plan)?;
    let known = if made.record.has_folder()? { Some(made.find(sink)?) } else { None };
    let done = known.and_then(|known| known.done);
    let state = |(shard, range): (u64, &Range<u64>)| {
        let images = range.end.saturating_sub(range.start);
        let missing = done.as_ref().map_or(images, |done| done.missing(range.start, range.end));
        ShardState { shard, images, there: images - missing }
    };
    Ok((0..).zip(shards).map(state).collect())
}

/// Makes the manifest of a run whose images shards have made, byte for byte that of one run, and
/// takes away what they left besides. Nothing is done where that was done before.
///
/// # Errors
/// [`Error::Incomplete`] where images are missing, [`Error::Busy`] where a run is at work in the
/// folder; otherwise as [`convert`](super::convert).
pub fn merge(source: &dyn Source, sink: &dyn Sink, options: &Options) -> Result<Report, Error> {
    let started = Instant::now();
    let plan = planned(source, options)?;
    let images = plan.images();
    options.check_marks(images)?;
    let mut report = Report { planned: images, ..Report::default() };
    if images > 0 {
        let threads = cpu(source, &plan, options)?.threads();
        let merged = recorder::merge(source, sink, options, &plan, threads)?;
        (report.failed, report.finished) = merged;
        report.there = images - report.failed;
    }
    report.elapsed = started.elapsed();
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::Record;
    use crate::source::MemorySource;
    use crate::tensor::Dtype;

    /// Of images from 1×1 to 60×60, as they come.
    fn shards(count: u64) -> Shards {
        let mut source = MemorySource::new("m");
        for (at, side) in [(0, 1), (1, 60), (2, 2), (3, 30), (4, 59)] {
            let samples = vec![0; usize::try_from(9 * side * side).unwrap()];
            source = source.with(&format!("t{at}"), Dtype::U8, &[9, side, side], samples).unwrap();
        }
        let options = Options { record: Some(Record::new("out")), ..Options::default() };
        divide(&source, &options, count).unwrap()
    }

    #[test]
    fn shards_cover_all_images_once_and_are_of_about_equal_bytes() {
        for count in [1, 2, 3, 7, 45, 100] {
            let Shards { head, units, .. } = shards(count);
            assert_eq!((head.shards, units.len() as u64), (count, count));
            let mut end = 0;
            for (at, unit) in (0..).zip(&units) {
                assert_eq!((unit.shard, unit.first), (at, end));
                assert_eq!(unit.images == 0, unit.from.is_none() && unit.to.is_none());
                end += unit.images;
            }
            assert_eq!((end, head.identity.images), (45, 45));
            let samples = 9 * (1 + 60 * 60 + 4 + 30 * 30 + 59 * 59);
            let sum = |of: fn(&Unit) -> u64| units.iter().map(of).sum::<u64>();
            assert_eq!(sum(|unit| unit.read), samples);
            // Headers are of some hundred bytes.
            let headers = sum(|unit| unit.written) - 4 * samples;
            assert!((45 * 300..45 * 600).contains(&headers), "{headers}");
            let bytes: Vec<u64> = units.iter().map(|unit| unit.read + unit.written).collect();
            let (largest, total) = (60 * 60 * 5 + 512, bytes.iter().sum::<u64>());
            let even = total / count;
            for of in bytes {
                assert!(of.abs_diff(even) <= largest, "{of} of {even}, {count} shards");
            }
        }
        let names = shards(2).units.iter().map(|unit| unit.from.clone()).collect::<Vec<_>>();
        assert_eq!(names[0].as_deref(), Some("m/t0/0.tif"));
    }

    /// To the image that is nearest to its share of the bytes.
    #[test]
    fn shards_end_at_the_nearest_image() {
        let images = |tensors: &[[u64; 3]], shards: u64| -> Vec<u64> {
            let mut source = MemorySource::new("m");
            for (at, shape) in tensors.iter().enumerate() {
                let samples = vec![0; usize::try_from(shape.iter().product::<u64>()).unwrap()];
                source = source.with(&format!("t{at}"), Dtype::U8, shape, samples).unwrap();
            }
            let options = Options { record: Some(Record::new("out")), ..Options::default() };
            let units = divide(&source, &options, shards).unwrap().units;
            units.iter().map(|unit| unit.images).collect()
        };
        assert_eq!(images(&[[10, 2, 2]], 3), [3, 4, 3]);
        assert_eq!(images(&[[11, 2, 2]], 4), [3, 3, 2, 3]);
        assert_eq!(images(&[[2, 2, 2]], 3), [1, 0, 1]);
        // By what is read and what is written, headers included: the large one is 1001 of the others.
        assert_eq!(images(&[[1000, 1, 1], [1, 300, 302]], 4), [500, 500, 1, 0]);
    }

    #[test]
    fn as_many_shards_as_can_be() {
        let source = MemorySource::new("m").with("a", Dtype::U8, &[2, 2], vec![0; 4]).unwrap();
        let options = Options { record: Some(Record::new("out")), ..Options::default() };
        assert_eq!(divide(&source, &options, MOST).unwrap().units.len() as u64, MOST);
        for wrong in [0, MOST + 1] {
            assert!(divide(&source, &options, wrong).unwrap_err().is_usage(), "{wrong}");
        }
    }
}
