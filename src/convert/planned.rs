//! The plan of a run, of which each image can be made, or why there is none.

use std::ops::Range;

use super::headers::check_headers;
use super::{Options, Resume, ranges, tars};
use crate::error::nearest::no_match;
use crate::error::{Error, shown};
use crate::normalize::Scope;
use crate::plan::{Filter, Plan, Selection, SkipReason};
use crate::source::Source;

/// Most ranges that are known before the images are made: a dump that is a hole can have any number.
const MOST_RANGES: u64 = 1 << 24;

/// The images of a run, of which each can be made.
pub(super) fn planned(source: &dyn Source, options: &Options) -> Result<Plan, Error> {
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
        None => Plan::stacked(dumps, tensors, unsupported, selection, naming, options.stack)?,
        Some(_) => Plan::keyed(dumps, tensors, unsupported, selection, naming)?,
    };
    check_fits(source, &plan)?;
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
