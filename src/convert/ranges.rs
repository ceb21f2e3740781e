//! Ranges that are known before the images are made: those of scopes wider than an image, and of
//! images that are done in blocks and whose norm asks for more than an extent.

use std::collections::HashMap;
use std::iter;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::clock::{Clock, Stage};
use super::recorder::Begun;
use super::run::Run;
use super::{Options, spans};
use crate::backend::Backend as _;
use crate::backend::cpu::gather::{Gathered, Wanted};
use crate::backend::cpu::survey::{Lookers, Stretch, Surveyed, survey};
use crate::backend::{Desk, Finding, ImageId};
use crate::error::Error;
use crate::normalize::{self, Norm};
use crate::plan::{Part, Plan, Row, Scopes};
use crate::report::Stages;
use crate::sink::NullSink;
use crate::source::Source;

/// Which ranges are to be known before.
pub(super) struct Before {
    scopes: Option<Scopes>,
    rows: Vec<Row>,
    wanted: Wanted,
    /// Images of more samples are done in blocks.
    block: u64,
    /// Whether the range of every image is known before.
    all: bool,
}

/// Ranges by scope, where each image is one by its number, or by image where only some are known.
#[derive(Debug, Default)]
pub(super) struct Known {
    of_scopes: Vec<Option<normalize::Range>>,
    of_images: HashMap<ImageId, normalize::Range>,
}

impl Before {
    /// `None` where every range follows from its image's own samples, as they are read.
    pub(super) fn new(options: &Options, plan: &Plan) -> Option<Before> {
        let wanted = Wanted::of(options.rule.norm);
        let block = spans::block(options, plan);
        let scopes = match options.rule.norm {
            Norm::None | Norm::Fixed { .. } => return None,
            _ => Scopes::new(options.scope, plan.rows()),
        };
        let giants = plan.rows().iter().any(|row| row.samples() > block);
        let all = scopes.is_none() && is_every_range_known_before(options);
        let needed = scopes.is_some() || all || (giants && !wanted.is_nothing());
        needed.then(|| Before { scopes, rows: plan.rows().to_vec(), wanted, block, all })
    }

    /// Of what is known, an image's range.
    pub(super) fn range(&self, known: &Known, image: ImageId) -> Option<normalize::Range> {
        match &self.scopes {
            None if self.all => known.of_scopes.get(self.number(image)).copied()?,
            None => known.of_images.get(&image).copied(),
            Some(scopes) => {
                known.of_scopes.get(scopes.of(&self.rows, image.span, image.index)).copied()?
            }
        }
    }

    /// The number of an image among all.
    fn number(&self, image: ImageId) -> usize {
        usize::try_from(self.rows[image.span].first_image + image.index).unwrap_or(usize::MAX)
    }

    /// How often samples are read for it, at most: percentiles of large scopes settle 16 bits a time.
    fn reads(&self, row: &Row) -> u64 {
        match (self.wanted.percents.is_empty(), &self.scopes) {
            (true, _) => 1,
            (false, Some(scopes)) if scopes.is_wide(row) => 4,
            (false, None) if row.dtype.is_wide() => 4,
            (false, _) => 2,
        }
    }
}

/// Whether the ranges of all images are found before: kernels make pixels by a range that is there, and of
/// percentiles none follows from an extent. Where the CPU takes part, it makes the images at once.
pub(super) fn is_every_range_known_before(options: &Options) -> bool {
    matches!(options.rule.norm, Norm::Percentile { .. }) && !options.devices.use_cpu()
}

/// A run whose ranges are being found.
struct Survey<'s, 'a> {
    run: &'s Run<'a>,
    before: &'s Before,
    /// The numbers of the scopes, or of images in place of them.
    what: What,
    known: Mutex<Known>,
}

enum What {
    Scopes(Vec<usize>),
    Images(Vec<ImageId>),
}

/// The ranges of all scopes that are wider than an image; none where there is none such.
pub(super) fn ranges_of_scopes(
    source: &dyn Source,
    options: &Options,
    plan: &Plan,
) -> Result<Vec<normalize::Range>, Error> {
    let cpu = super::cpu(source, plan, options)?;
    let run = Run::new(source, &NullSink, options, plan, cpu.pullers(), Begun::empty());
    if run.before.as_ref().is_none_or(|before| before.scopes.is_none()) {
        return Ok(Vec::new());
    }
    run.find_ranges(&Lookers::new(&cpu, true, iter::empty()))?;
    source.check_unchanged()?;
    Ok(run.known().into_iter().flat_map(|known| &known.of_scopes).flatten().copied().collect())
}

impl<'a> Run<'a> {
    /// The ranges of all scopes, where a plan has them.
    fn planned_ranges(&self, before: &Before) -> Option<&[normalize::Range]> {
        let scopes = before.scopes.as_ref()?;
        let planned = self.options.record.as_ref()?.planned.as_ref()?;
        (planned.ranges.len() == scopes.count()).then_some(&planned.ranges[..])
    }

    /// Bytes that are read before the first image is made.
    pub(super) fn bytes_before(&self) -> u64 {
        let Some(before) = &self.before else { return 0 };
        if self.planned_ranges(before).is_some() {
            return 0;
        }
        let survey = Survey::new(self, before);
        let bytes = |at| {
            survey.stretches(at).map(|stretch| {
                let row = &before.rows[stretch.first.span];
                let bytes = (stretch.samples.end - stretch.samples.start) * row.dtype.size() as u64;
                bytes.saturating_mul(before.reads(row))
            })
        };
        (0..survey.scopes()).flat_map(bytes).fold(0, u64::saturating_add)
    }

    /// Finds the ranges that must be known before.
    pub(super) fn find_ranges(&self, lookers: &Lookers<'_>) -> Result<(), Error> {
        let Some(before) = &self.before else { return Ok(()) };
        if let Some(ranges) = self.planned_ranges(before) {
            let of_scopes = ranges.iter().copied().map(Some).collect();
            self.know(Known { of_scopes, ..Known::default() });
            return Ok(());
        }
        let found = Survey::new(self, before);
        survey(lookers, self.queue(), &before.wanted, &found)?;
        self.know(found.known.into_inner().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }
}

impl<'s, 'a> Survey<'s, 'a> {
    /// Of all that this run is to make and that is not done.
    fn new(run: &'s Run<'a>, before: &'s Before) -> Survey<'s, 'a> {
        let queue = run.queue();
        let rows = &before.rows;
        let left = |row: usize, images: Range<u64>| queue.left(row, images);
        let what = match &before.scopes {
            Some(scopes) => {
                let needed = |scope: &usize| {
                    let mut parts = scopes.parts(rows, *scope);
                    parts.any(|part| left(part.row, part.first..part.first + part.run) > 0)
                };
                What::Scopes((0..scopes.count()).filter(needed).collect())
            }
            None => {
                let giants = |row: &usize| before.all || rows[*row].samples() > before.block;
                let images = |row: usize| {
                    (0..rows[row].images)
                        .filter(move |&index| left(row, index..index + 1) > 0)
                        .map(move |index| ImageId { span: row, index })
                };
                What::Images((0..rows.len()).filter(giants).flat_map(images).collect())
            }
        };
        let known = match &before.scopes {
            Some(scopes) => Known { of_scopes: vec![None; scopes.count()], ..Known::default() },
            None if before.all => {
                let images = rows.iter().map(|row| row.images).sum::<u64>();
                let images = usize::try_from(images).unwrap_or(usize::MAX);
                Known { of_scopes: vec![None; images], ..Known::default() }
            }
            None => Known::default(),
        };
        Survey { run, before, what, known: Mutex::new(known) }
    }

    fn number(&self, at: u64) -> usize {
        usize::try_from(at).expect("it counts what is in a list")
    }
}

impl Surveyed for Survey<'_, '_> {
    fn scopes(&self) -> u64 {
        match &self.what {
            What::Scopes(scopes) => scopes.len() as u64,
            What::Images(images) => images.len() as u64,
        }
    }

    fn stretches(&self, at: u64) -> Box<dyn Iterator<Item = Stretch> + Send + '_> {
        let rows = &self.before.rows;
        let at = self.number(at);
        match (&self.what, &self.before.scopes) {
            (What::Scopes(list), Some(scopes)) => {
                Box::new(stretches(rows, scopes.parts(rows, list[at])))
            }
            (What::Images(images), _) => {
                let first = images[at];
                let samples = 0..rows[first.span].samples();
                Box::new(iter::once(Stretch { first, samples }))
            }
            (What::Scopes(_), None) => Box::new(iter::empty()),
        }
    }

    fn is_wide(&self, at: u64) -> bool {
        let first = self.stretches(at).next();
        first.is_some_and(|stretch| self.run.queue().spans()[stretch.first.span].wide)
    }

    fn desk(&self) -> Box<dyn Desk + '_> {
        Box::new(Reading::new(self.run))
    }

    fn found(&self, at: u64, gathered: Gathered) {
        let range = normalize::Range::of(&self.run.options.rule, &gathered.stats, self.is_wide(at));
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let number = self.number(at);
        match &self.what {
            What::Scopes(scopes) => known.of_scopes[scopes[number]] = Some(range),
            What::Images(images) if self.before.all => {
                known.of_scopes[self.before.number(images[number])] = Some(range);
            }
            What::Images(images) => drop(known.of_images.insert(images[number], range)),
        }
    }

    fn gave_up(&self, error: &Error) {
        self.run.note(format!("{error}; others find the ranges"));
    }
}

/// All samples of the images of a scope.
pub(super) fn stretches<'r>(
    rows: &'r [Row],
    parts: impl Iterator<Item = Part> + Send + 'r,
) -> impl Iterator<Item = Stretch> + Send + 'r {
    parts.flat_map(move |part| {
        let row = &rows[part.row];
        // What follows one another is read as one.
        let together = if row.contiguous() { part.run } else { 1 };
        let firsts = (part.first..part.first + part.run)
            .step_by(usize::try_from(together).unwrap_or(usize::MAX));
        firsts.map(move |index| Stretch {
            first: ImageId { span: part.row, index },
            samples: 0..together * row.samples(),
        })
    })
}

/// A desk that reads, and does nothing else.
pub(super) struct Reading<'s, 'a> {
    run: &'s Run<'a>,
    clock: Option<Clock>,
    stages: Stages,
}

impl<'s, 'a> Reading<'s, 'a> {
    pub(super) fn new(run: &'s Run<'a>) -> Reading<'s, 'a> {
        let clock = Clock::start(run.options.timings);
        Reading { run, clock, stages: Stages::default() }
    }

    fn turn(&mut self, to: Stage) {
        if let Some(clock) = &mut self.clock {
            clock.turn(to, Duration::ZERO, &mut self.stages);
        }
    }
}

impl Drop for Reading<'_, '_> {
    fn drop(&mut self) {
        self.turn(Stage::Wait);
        self.run.account_ranges(self.stages);
    }
}

impl Desk for Reading<'_, '_> {
    fn read(&mut self, image: ImageId, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        self.turn(Stage::Read);
        let outcome = self.run.read_before(image, offset, buf);
        self.turn(Stage::Compute);
        outcome
    }

    fn waiting(&mut self, begins: bool) {
        self.turn(if begins { Stage::Wait } else { Stage::Compute });
    }

    fn put(&mut self, _: ImageId, _: &Finding, _: &[u8]) {}

    fn put_block(&mut self, _: ImageId, _: u64, _: &[u8]) {}

    fn finish_blocks(&mut self, _: ImageId, _: &Finding) {}

    fn fail(&mut self, _: ImageId, _: Error) {}
}
