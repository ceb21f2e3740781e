//! The plan of a run, of which each image can be made, or why there is none.

use std::ops::Range;

use super::headers::check_headers;
use super::spans::spans;
use super::{Options, Resume, ranges, tars};
use crate::error::nearest::no_match;
use crate::error::{Error, shown};
use crate::normalize::{Norm, Scope};
use crate::plan::{Filter, Plan, Selection, SkipReason};
use crate::source::{Layout, Source};

/// Most ranges that are known before the images are made: a dump that is a hole can have any number.
const MOST_RANGES: u64 = 1 << 24;

/// The images of a run, of which each can be made.
pub(super) fn planned(source: &dyn Source, options: &Options) -> Result<Plan, Error> {
    planned_as(source, options, true)
}

/// The images of a run that makes none of them: their names need not be distinct.
pub(super) fn planned_to_be_read(source: &dyn Source, options: &Options) -> Result<Plan, Error> {
    planned_as(source, options, false)
}

fn planned_as(source: &dyn Source, options: &Options, named: bool) -> Result<Plan, Error> {
    options.rule.check().map_err(Error::Usage)?;
    let refused = unsupported(source, &options.selection)?;
    if !refused.is_empty() {
        return Err(Error::of_all(refused));
    }
    match (options.scope, &options.selection.group_by) {
        (Scope::Group, None) => {
            let problem =
                "--scope group needs --group-by, as '{layer}' by a group of --tensor-regex";
            return Err(Error::Usage(problem.to_owned()));
        }
        (Scope::Group, Some(_)) | (_, None) => {}
        (_, Some(_)) => {
            return Err(Error::Usage("--group-by goes with --scope group".to_owned()));
        }
    }
    check_channels(source.layout(), &options.selection, options.scope)?;
    options.check_stack()?;
    options.check_tar()?;
    if options.shard.is_some() && options.skip_existing {
        let problem = "the images of a shard cannot be skipped: others may be making them";
        return Err(Error::Usage(problem.to_owned()));
    }
    let (tensors, unsupported) = (source.tensors(), source.unsupported());
    let others = unsupported.iter().map(|tensor| tensor.tensor.as_str());
    let names = tensors.iter().map(|tensor| tensor.name.as_str()).chain(others);
    if let Some(pattern) = source.layout().unmatched(names.clone()) {
        return Err(no_match("--layout", pattern, names));
    }
    let (selection, naming) = (&options.selection, &options.naming);
    let dumps = source.dumps();
    let plan = match &options.tar {
        _ if !named => Plan::unnamed(dumps, tensors, unsupported, selection)?,
        None => Plan::stacked(dumps, tensors, unsupported, selection, naming, options.stack)?,
        Some(_) => Plan::keyed(dumps, tensors, unsupported, selection, naming)?,
    };
    check_fits(source, &plan)?;
    check_range(source, &plan, options)?;
    let plan = match &options.tar {
        None => plan,
        Some(tar) => tars::in_tars(source, plan, options, tar)?,
    };
    if let Some(shard) = &options.shard
        && (shard.start > shard.end || shard.end > plan.images())
    {
        let (Range { start, end }, images) = (shard, plan.images());
        return Err(Error::Usage(format!(
            "a shard of the images {start} to {end}, and there are {images}"
        )));
    }
    let resumes = options.record.as_ref().is_some_and(|record| record.resume != Resume::No);
    if resumes || options.skip_existing || options.shard.is_some() {
        options.check_marks(plan.images())?;
    }
    let ranges = ranges(&plan, options);
    if ranges > MOST_RANGES {
        return Err(Error::Usage(format!(
            "{ranges} ranges are too many ({MOST_RANGES} are the most); --tensor takes some tensors, \
             and a wider --scope has fewer"
        )));
    }
    check_headers(source, &plan, options)?;
    Ok(plan)
}

/// Fails where channels are asked for, and none are left: another axis would be taken for theirs.
pub(crate) fn check_channels(
    layout: &Layout,
    selection: &Selection,
    scope: Scope,
) -> Result<(), Error> {
    let Some(('C', reduce)) = layout.reduced() else { return Ok(()) };
    let option = match (selection.channel, scope) {
        (Some(channel), _) => format!("--channel {channel}"),
        (None, Scope::Channel) => "--scope channel, or --by channel".to_owned(),
        (None, _) => return Ok(()),
    };
    Err(Error::Usage(format!(
        "{option}: {reduce} makes one of all channels; --select C=... takes some of them before that"
    )))
}

/// Fails where 32-bit floats cannot tell the ends of a given range apart, and a tensor is computed in them.
fn check_range(source: &dyn Source, plan: &Plan, options: &Options) -> Result<(), Error> {
    #[allow(clippy::cast_possible_truncation, reason = "to see whether they survive it")]
    let narrow = |x: f64| x as f32;
    let Norm::Fixed { lo, hi } = options.rule.norm else { return Ok(()) };
    if narrow(lo) < narrow(hi) && narrow(lo).is_finite() && narrow(hi).is_finite() {
        return Ok(());
    }
    let spans = spans(options, plan);
    match spans.iter().zip(plan.rows()).find(|(span, _)| !span.wide) {
        None => Ok(()),
        Some((span, row)) => Err(Error::Usage(format!(
            "--range {lo:?},{hi:?}: 32-bit floats, in which tensor {} of {} is computed, cannot tell them \
             apart; --tensor and --exclude choose tensors",
            shown(&source.tensors()[row.tensor].name),
            span.dtype
        ))),
    }
}

/// Errors for tensors that are selected and cannot be converted: leaving them out would be a silent
/// loss. Of many, the first of each dump.
///
/// # Errors
/// [`Error::Usage`] for patterns that are none.
pub(crate) fn unsupported(source: &dyn Source, selection: &Selection) -> Result<Vec<Error>, Error> {
    let filter = Filter::new(selection)?;
    let mut errors = Vec::new();
    let mut last = None;
    for tensor in source.unsupported().iter().filter(|tensor| filter.takes(&tensor.tensor)) {
        if last.replace(tensor.dump) != Some(tensor.dump) {
            errors.push(Error::Dtype {
                dump: source.dumps()[tensor.dump].label.clone(),
                tensor: tensor.tensor.clone(),
                dtype: tensor.dtype.clone(),
            });
        }
    }
    Ok(errors)
}

/// Of a plan without images: fails if an option that says what images are fits no tensor. Most likely it is
/// a slip.
fn check_fits(source: &dyn Source, plan: &Plan) -> Result<(), Error> {
    let is_asked = |reason| matches!(reason, SkipReason::NoChannels | SkipReason::Misfit(_));
    let first = plan.skipped().iter().find(|skipped| is_asked(skipped.reason));
    let Some(first) = first.filter(|_| plan.rows().is_empty()) else { return Ok(()) };
    let (name, reason) = (shown(&source.tensors()[first.tensor].name), first.reason);
    Err(Error::Usage(match plan.skipped().len() - 1 {
        0 => format!("tensor {name}: {reason}"),
        more => format!("no tensor is as the options say: {name} ({reason}), and {more} more"),
    }))
}
