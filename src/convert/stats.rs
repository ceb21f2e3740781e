//! What the samples of dumps are like, scope by scope: by the same passes that find ranges.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::planned::planned_to_be_read;
use super::ranges::{Reading, stretches};
use super::recorder::Begun;
use super::run::Run;
use super::{Options, cpu, workers};
use crate::backend::choose::{Devices, Opened};
use crate::backend::cpu::gather::{Gathered, Wanted};
use crate::backend::cpu::survey::{Lookers, Stretch, Surveyed, survey};
use crate::backend::{Backend, Desk, ImageId};
use crate::error::Error;
use crate::normalize::{Extent, Moments, Rule, Scope};
use crate::plan::{Part, Plan, Row, Scopes};
use crate::sink::NullSink;
use crate::source::Source;

/// Scopes that are looked at before they are told.
const AT_ONCE: u64 = 4096;

/// What the samples of one scope are like.
#[derive(Debug, Clone, PartialEq)]
pub struct ScopeStats {
    /// Index of its tensor in the source; `None` of all tensors together.
    pub tensor: Option<usize>,
    /// Which part of the tensor it is: the index of its channel, the place of its image on the axes
    /// before its own; empty of all of it.
    pub index: Vec<u64>,
    /// Number of images.
    pub images: u64,
    /// Those whose finite samples are all equal.
    pub constant_images: u64,
    /// Least and greatest finite sample, and how many are not finite.
    pub extent: Extent,
    /// Number of samples that are 0.
    pub zeros: u64,
    /// `None` without a finite sample.
    pub moments: Option<Moments>,
    /// Those asked for, in f64 and not rounded to the working type; none without a finite sample.
    pub percentiles: Vec<f64>,
}

/// Looks at all samples of the selected images and tells what they are like, scope by scope in the
/// order of the plan. Nothing is written, so that images may have the same names. Of `options` the
/// selection, the scope, the devices, the number of threads, the
/// memory, the watch and the cancelling count; `percents` are from 0 to 100 and ascend. Memory does not
/// grow with the number of images.
///
/// Devices that are listed look at pieces of a million samples, the CPU at what they do not take, and at
/// all of it where `auto` chooses.
///
/// # Errors
/// As [`convert`](super::convert) before any work, where devices cannot be used among others; [`Error::Read`] where samples cannot be read; and
/// what `tell` answers.
pub fn stats(
    source: &dyn Source,
    options: &Options,
    percents: &[f64],
    tell: &mut dyn FnMut(ScopeStats) -> Result<(), Error>,
) -> Result<(), Error> {
    if let Some(wrong) = percents.iter().find(|p| !(0.0..=100.0).contains(*p)) {
        return Err(Error::Usage(format!("percentile {wrong:?}: they are from 0 to 100")));
    }
    if !percents.is_sorted() {
        return Err(Error::Usage("percentiles: in ascending order".to_owned()));
    }
    let plan = planned_to_be_read(source, options)?;
    let cpu = cpu(source, &plan, options)?;
    // The types decide how a scope is computed, and not a rule.
    let rule = Rule::default();
    let options = Options { rule, record: None, ..options.clone() };
    let opened = match options.devices {
        Devices::Auto => Opened::default(),
        Devices::List(_) => workers::adapters(source, &plan, &options, cpu.pullers())?,
    };
    let others = opened.backends.iter().map(|backend| -> &dyn Backend { &**backend });
    let lookers = Lookers::new(&cpu, options.devices.use_cpu(), others);
    let run = Run::new(source, &NullSink, &options, &plan, cpu.pullers(), Begun::empty());
    run.note_skipped();
    opened.problems().for_each(|problem| run.note(problem.to_owned()));
    let scopes = Scopes::new(options.scope, plan.rows());
    let count = scopes.as_ref().map_or(plan.images(), |scopes| scopes.count() as u64);
    if let Some(watch) = &options.watch {
        let bytes: u64 = plan.rows().iter().map(Row::bytes).fold(0, u64::saturating_add);
        watch.planned(0, if scopes.is_some() { bytes.saturating_mul(2) } else { bytes });
    }
    let of_image = |index| usize::try_from(index).expect("there is a count for each scope");
    let constant: Vec<AtomicU64> = match &scopes {
        Some(_) => (0..count).map(|_| AtomicU64::new(0)).collect(),
        None => Vec::new(),
    };
    if let Some(scopes) = &scopes {
        let found = |image: u64, gathered: Gathered| {
            let (row, index) = place(&plan, image);
            let count = &constant[scopes.of(plan.rows(), row, index)];
            count.fetch_add(u64::from(is_constant(&gathered.stats.extent)), Ordering::Relaxed);
        };
        let all = 0..plan.images();
        let again = || constant.iter().for_each(|count| count.store(0, Ordering::Relaxed));
        let (found, again): (&Found<'_>, &Again<'_>) = (&found, &again);
        let images = Looking { run: &run, plan: &plan, scopes: None, part: all, found, again };
        survey(&lookers, run.queue(), &Wanted::default(), &images)?;
    }
    let wanted = Wanted { moments: true, percents: percents.to_vec(), zeros: true };
    for first in (0..count).step_by(of_image(AT_ONCE)) {
        let part = first..count.min(first + AT_ONCE);
        let gathered = Mutex::new(vec![None; of_image(part.end - part.start)]);
        let found = |scope: u64, found: Gathered| {
            let mut gathered = gathered.lock().unwrap_or_else(PoisonError::into_inner);
            gathered[of_image(scope)] = Some(found);
        };
        let (scopes, plan) = (scopes.as_ref(), &plan);
        let (part_of, found, again): (_, &Found<'_>, &Again<'_>) = (part.clone(), &found, &|| ());
        let looking = Looking { run: &run, plan, scopes, part: part_of, found, again };
        survey(&lookers, run.queue(), &wanted, &looking)?;
        let gathered = gathered.into_inner().unwrap_or_else(PoisonError::into_inner);
        for (scope, gathered) in part.zip(gathered) {
            let Some(gathered) = gathered else { continue };
            let (tensor, index, images) = about(plan, scopes, scope, options.scope);
            let constant_images = match scopes {
                Some(_) => constant[of_image(scope)].load(Ordering::Relaxed),
                None => u64::from(is_constant(&gathered.stats.extent)),
            };
            tell(ScopeStats {
                tensor,
                index,
                images,
                constant_images,
                extent: gathered.stats.extent,
                zeros: gathered.zeros,
                moments: gathered.stats.moments,
                percentiles: gathered.percentiles,
            })?;
        }
    }
    source.check_unchanged()
}

fn is_constant(extent: &Extent) -> bool {
    extent.has_finite() && extent.min == extent.max
}

/// The row of an image by number, and its number there.
fn place(plan: &Plan, image: u64) -> (usize, u64) {
    let row = plan.rows().partition_point(|row| row.first_image <= image) - 1;
    (row, image - plan.rows()[row].first_image)
}

/// The tensor of a scope, which part of it the scope is, and how many images it has.
fn about(
    plan: &Plan,
    scopes: Option<&Scopes>,
    scope: u64,
    kind: Scope,
) -> (Option<usize>, Vec<u64>, u64) {
    let rows = plan.rows();
    let Some(scopes) = scopes else {
        let (row, index) = place(plan, scope);
        return (Some(rows[row].tensor), rows[row].indices(index), 1);
    };
    let scope = usize::try_from(scope).expect("scopes are counted by usize");
    let images = scopes.parts(rows, scope).map(|part| part.run).sum();
    let first = scopes.parts(rows, scope).next();
    let (row, first) = first.map_or((0, 0), |part| (part.row, part.first));
    match kind {
        Scope::Dump | Scope::Group => (None, Vec::new(), images),
        Scope::Channel => {
            let channel = rows[row].channel_called(first);
            (Some(rows[row].tensor), channel.into_iter().collect(), images)
        }
        Scope::Tensor | Scope::Image => (Some(rows[row].tensor), Vec::new(), images),
    }
}

type Found<'s> = dyn Fn(u64, Gathered) + Sync + 's;
type Again<'s> = dyn Fn() + Sync + 's;

/// Some scopes, or images in place of them.
struct Looking<'s, 'a> {
    run: &'s Run<'a>,
    plan: &'s Plan,
    scopes: Option<&'s Scopes>,
    part: Range<u64>,
    found: &'s Found<'s>,
    again: &'s Again<'s>,
}

impl Surveyed for Looking<'_, '_> {
    fn scopes(&self) -> u64 {
        self.part.end - self.part.start
    }

    fn stretches(&self, scope: u64) -> Box<dyn Iterator<Item = Stretch> + Send + '_> {
        let rows = self.plan.rows();
        let number = self.part.start + scope;
        match self.scopes {
            Some(scopes) => {
                let number = usize::try_from(number).expect("scopes are counted by usize");
                Box::new(stretches(rows, scopes.parts(rows, number)))
            }
            None => {
                let (row, first) = place(self.plan, number);
                Box::new(stretches(rows, std::iter::once(Part { row, first, run: 1 })))
            }
        }
    }

    fn is_wide(&self, scope: u64) -> bool {
        let first: Option<ImageId> = self.stretches(scope).next().map(|stretch| stretch.first);
        first.is_some_and(|image| self.run.queue().spans()[image.span].wide)
    }

    fn desk(&self) -> Box<dyn Desk + '_> {
        Box::new(Reading::new(self.run))
    }

    fn found(&self, scope: u64, gathered: Gathered) {
        (self.found)(scope, gathered);
    }

    fn gave_up(&self, error: &Error) {
        self.run.note(format!("{error}; others look at its samples"));
    }

    fn again(&self) {
        (self.again)();
    }
}
