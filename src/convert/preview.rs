//! What a run would do, without doing any of it.

use std::ops::Range;

use super::made::{Made, check_surplus};
use super::recorder::{existing, names_but};
use super::space::Need;
use super::{Options, Resume, planned, stacks, workers};
use crate::backend::choose::Opened;
use crate::backend::done::Done;
use crate::backend::{Backend as _, Span};
use crate::error::Error;
use crate::plan::{Plan, Row};
use crate::sink::{Sink, Space};
use crate::source::Source;

/// What a run would do.
#[derive(Debug)]
pub struct Preview {
    /// Images planned.
    pub images: u64,
    /// Where several images share a file: how many files there are, and what one is called, `stack`, `tar` or
    /// `stream`.
    pub shared: Option<(u64, &'static str)>,
    /// Images that are there already, and would be left as they are.
    pub there: u64,
    /// Bytes of samples of the others.
    pub bytes_in: u64,
    /// What the others take; where they are packed, at most.
    pub need: Need,
    /// Whether they are packed.
    pub packed: bool,
    /// What the output place has; `None` where it is not known.
    pub space: Option<Space>,
    /// Names of the first image and of the last.
    pub first_and_last: Option<(String, String)>,
    /// The devices that would work.
    pub devices: Vec<String>,
    /// Bytes of this process's memory that their buffers take at most.
    pub memory: u64,
    /// Tensors that give no image, and why; devices that would not be used, and why.
    pub notes: Vec<String>,
    /// Why the run would be refused.
    pub refused: Option<Error>,
}

/// Finds out what [`convert`](super::convert) would do. Nothing is written, made or locked;
/// adapters are opened and proved.
///
/// # Errors
/// Whatever is wrong with the options, the plan or the devices. What is wrong with the output
/// place is in [`Preview::refused`].
pub fn preview(source: &dyn Source, sink: &dyn Sink, options: &Options) -> Result<Preview, Error> {
    let plan = planned(source, options)?;
    let cpu = super::cpu(source, &plan, options)?;
    let (opened, refused) = match workers::adapters(source, &plan, options, cpu.pullers()) {
        Ok(opened) => (opened, None),
        Err(error) => (Opened::default(), Some(error)),
    };
    let spans: Vec<Span> = super::spans::spans(options, &plan);
    let block = super::spans::block(options, &plan);
    let mut devices = Vec::new();
    let mut memory: u64 = source.memory();
    if options.devices.use_cpu() {
        devices.push(cpu.name().to_owned());
        memory += cpu.memory(&spans, block);
    }
    for backend in &opened.backends {
        devices.push(backend.name().to_owned());
        memory = memory.saturating_add(backend.memory(&spans, block));
    }
    let mut notes: Vec<String> = opened.problems().map(str::to_owned).collect();
    notes.extend(options.warnings());
    notes.extend(stacks::notes(&stacks::stack_files(source, &plan, options)?));
    notes.extend(super::note_of_large(source, &plan, options));
    notes.extend(plan.notes().iter().cloned());
    notes.extend(plan.skipped().iter().map(|skipped| {
        let tensor = &source.tensors()[skipped.tensor];
        format!("tensor {} skipped: {}", crate::error::shown(&tensor.name), skipped.reason)
    }));
    let images = options.images(&plan);
    let mut preview = Preview {
        images: images.end - images.start,
        shared: shared(&plan),
        there: 0,
        bytes_in: 0,
        need: Need::default(),
        packed: options.encoding.is_packed(),
        space: None,
        first_and_last: first_and_last(&plan, &images),
        devices,
        memory,
        notes,
        refused,
    };
    if let Err(error) = preview.look(source, sink, options, &plan, cpu.threads()) {
        preview.refused.get_or_insert(error);
    }
    Ok(preview)
}

fn shared(plan: &Plan) -> Option<(u64, &'static str)> {
    match (plan.tar(), plan.stacks().count() as u64) {
        (Some(tar), _) => Some((plan.tars(), if tar.is_streamed() { "stream" } else { "tar" })),
        (None, 0) => None,
        (None, stacks) => Some((stacks, "stack")),
    }
}

fn first_and_last(plan: &Plan, images: &Range<u64>) -> Option<(String, String)> {
    let name = |image: u64| {
        let at = plan.rows().partition_point(|row| row.first_image <= image) - 1;
        plan.name(at, image - plan.rows()[at].first_image)
    };
    (images.start < images.end).then(|| (name(images.start), name(images.end - 1)))
}

impl Preview {
    /// Looks at the output place.
    fn look(
        &mut self,
        source: &dyn Source,
        sink: &dyn Sink,
        options: &Options,
        plan: &Plan,
        threads: usize,
    ) -> Result<(), Error> {
        self.space = sink.space()?;
        let block = self.space.as_ref().map(|space| space.block);
        self.count(source, options, plan, None, block)?;
        let images = options.images(plan);
        let mut resumed = false;
        let mut explained: Box<dyn Fn(Error) -> Error> = Box::new(|error| error);
        let mut done = options.shard.as_ref().map(|_| Done::all_but(plan.images(), &images));
        if let Some(record) = options.record.as_ref().filter(|_| plan.images() > 0) {
            let made = Made::new(source, options, plan, record, threads)?;
            let known = made.known(sink, options)?;
            check_surplus(record, plan)?;
            resumed = !known.is_nothing() && record.resume != Resume::No;
            done = known.done;
            explained = Box::new(move |error| made.explained(error));
        }
        if options.skip_existing {
            done = Some(existing(sink, plan, done)?);
        }
        if let Some(done) = &done {
            self.there = self.images - done.missing(images.start, images.end);
        }
        self.count(source, options, plan, done.as_ref(), block)?;
        sink.inspect(&mut names_but(plan, done.as_ref()), resumed).map_err(explained)?;
        if !options.unchecked_space {
            self.need.check(sink, &mut names_but(plan, done.as_ref()))?;
        }
        Ok(())
    }

    /// What the images take that are not done.
    fn count(
        &mut self,
        source: &dyn Source,
        options: &Options,
        plan: &Plan,
        done: Option<&Done>,
        block: Option<u64>,
    ) -> Result<(), Error> {
        self.need = Need::of(source, options, plan, done, block)?;
        let left = |row: &Row| {
            let (first, end) = (row.first_image, row.first_image + row.images);
            let images = done.map_or(row.images, |done| done.missing(first, end));
            images * row.samples() * row.dtype.size() as u64
        };
        self.bytes_in = plan.rows().iter().map(left).sum();
        Ok(())
    }
}
