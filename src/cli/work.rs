//! What `convert` and `plan` are to do: dumps and options as they were typed, or as a plan has them.

use std::fs;
use std::path::{Path, PathBuf};

use super::Verbosity;
use super::args::ImagesArgs;
use super::inputs::{expand, noting};
use crate::convert::{Options, Planned, Recorded, unsupported};
use crate::error::{Error, shown_path};
use crate::plan::{Naming, Stack};
use crate::record::shards::Shards;
use crate::source::{DumpFiles, View};

/// See the module.
pub(super) struct Work {
    pub(super) source: View<DumpFiles>,
    /// Those that decide names and bytes; the others are as by default.
    pub(super) options: Options,
    /// Whether pixels are hashed.
    pub(super) hash: bool,
    /// The plan that it is by.
    pub(super) plan: Option<Shards>,
    pub(super) planned: Option<Planned>,
    /// Where names come from that are a list.
    list: Option<PathBuf>,
}

impl Work {
    /// What was typed.
    pub(super) fn of(args: &ImagesArgs, verbosity: Verbosity) -> Result<Work, Error> {
        let dumps = &args.input.dumps;
        match dumps.iter().find(|path| is_plan(path)) {
            None => Work::typed(args, verbosity),
            Some(plan) if dumps.len() > 1 => Err(Error::Usage(format!(
                "{}: a plan names its dumps, and is given alone",
                shown_path(plan)
            ))),
            Some(plan) => {
                if let Some(option) = args.given() {
                    return Err(Error::Usage(format!(
                        "{option}: {} says that; another plan would be needed",
                        shown_path(plan)
                    )));
                }
                Work::planned(plan)
            }
        }
    }

    fn typed(args: &ImagesArgs, verbosity: Verbosity) -> Result<Work, Error> {
        let (rule, scope) = args.norm.text().read().map_err(Error::Usage)?;
        let encoding = args.encoding.text().read().map_err(Error::Usage)?;
        let stack = args.stack.as_deref().map(str::parse::<Stack>).transpose();
        let stack = stack.map_err(Error::Usage)?.unwrap_or_default();
        let mut selection = args.input.selection.selection();
        selection.group_by.clone_from(&args.norm.group_by);
        let layout = args.input.reading.layout()?;
        // Whatever is wrong with the inputs is told at once.
        let reading = args.input.reading.reading();
        let (source, mut bad) = match expand(&args.input.dumps, &reading, &mut noting(verbosity)) {
            Ok(files) => DumpFiles::open_those_that_can_be(&files, &reading),
            Err(bad) => (DumpFiles::open::<&str>(&[])?, bad),
        };
        let source = View::new(source, layout);
        bad.extend(unsupported(&source, &selection)?);
        let naming = match naming(args) {
            Ok(naming) => naming,
            Err(list) => {
                bad.insert(0, list);
                Naming::default()
            }
        };
        if !bad.is_empty() {
            return Err(Error::of_all(bad));
        }
        let options =
            Options { rule, scope, selection, naming, encoding, stack, ..Options::default() };
        let list = args.names_from.clone();
        Ok(Work { source, options, hash: args.hash, plan: None, planned: None, list })
    }

    /// What the plan at `path` says.
    pub(super) fn planned(path: &Path) -> Result<Work, Error> {
        let plan = Shards::read(path)?;
        let head = &plan.head;
        let asked = &head.identity.options;
        let wrong =
            |problem: String| Error::Format { path: path.to_owned(), format: "plan", problem };
        let Recorded { reading, layout, options } =
            Recorded::of(asked, head.list.clone()).map_err(wrong)?;
        let hash = asked.hash;
        let dumps: Vec<&str> = head.identity.dumps.iter().map(|dump| dump.path.as_str()).collect();
        let source = View::new(DumpFiles::open_as(&dumps, &reading)?, layout);
        let ranges = plan.ranges.clone().into();
        let planned = Planned { path: path.to_owned(), identity: head.identity.clone(), ranges };
        Ok(Work { source, options, hash, plan: Some(plan), planned: Some(planned), list: None })
    }

    /// An error about names with the list that they came from.
    pub(super) fn named(&self, error: Error) -> Error {
        match (error, &self.list) {
            (Error::Names(problem), Some(list)) => {
                Error::Names(format!("{}: {problem}", shown_path(list)))
            }
            (error, _) => error,
        }
    }
}

/// Plans are told from dumps by their names, so that a plan that is damaged is told to be.
pub(super) fn is_plan(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("jsonl"))
}

fn naming(args: &ImagesArgs) -> Result<Naming, Error> {
    let Some(path) = &args.names_from else {
        return Ok(args.name.clone().map_or(Naming::default(), Naming::Template));
    };
    let list =
        fs::read_to_string(path).map_err(|source| Error::Open { path: path.clone(), source })?;
    // Editors on Windows begin a file with a byte order mark.
    let list = list.strip_prefix('\u{feff}').unwrap_or(&list);
    Ok(Naming::List(list.lines().map(str::to_owned).collect()))
}
