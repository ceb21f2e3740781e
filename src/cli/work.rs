//! What `convert` and `plan` are to do: dumps and options as they were typed, or as a plan has them.

use std::fs;
use std::path::{Path, PathBuf};

use super::args::ImagesArgs;
use super::inputs::expand;
use crate::convert::{Options, Planned, unsupported};
use crate::error::{Error, shown, shown_path};
use crate::normalize::{Rule, RuleText, Scope};
use crate::plan::{Naming, Selection};
use crate::record::identity::Asked;
use crate::record::shards::Shards;
use crate::source::{DumpFiles, Layout, Reading, View};
use crate::{Encoding, EncodingText};

/// What of it a plan has beside axes and images.
const COMPLEX: &str = "complex";

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
    pub(super) fn of(args: &ImagesArgs) -> Result<Work, Error> {
        let dumps = &args.input.dumps;
        match dumps.iter().find(|path| is_plan(path)) {
            None => Work::typed(args),
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

    fn typed(args: &ImagesArgs) -> Result<Work, Error> {
        let (rule, scope) = args.norm.text().read().map_err(Error::Usage)?;
        let encoding = args.encoding.text().read().map_err(Error::Usage)?;
        let mut selection = args.input.selection.selection();
        selection.group_by.clone_from(&args.norm.group_by);
        let layout = args.input.reading.layout()?;
        // Whatever is wrong with the inputs is told at once.
        let reading = args.input.reading.reading();
        let (source, mut bad) = match expand(&args.input.dumps, &reading) {
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
        let options = Options { rule, scope, selection, naming, encoding, ..Options::default() };
        let list = args.names_from.clone();
        Ok(Work { source, options, hash: args.hash, plan: None, planned: None, list })
    }

    /// What the plan at `path` says.
    pub(super) fn planned(path: &Path) -> Result<Work, Error> {
        let plan = Shards::read(path)?;
        let head = &plan.head;
        let asked = head.identity.options.clone();
        let wrong =
            |problem: String| Error::Format { path: path.to_owned(), format: "plan", problem };
        let (rule, scope) = rule(&asked).map_err(|problem| wrong(shown(&problem)))?;
        let encoding = encoding(&asked).map_err(|problem| wrong(shown(&problem)))?;
        let complex = asked.more.get(COMPLEX).and_then(|texts| texts.first());
        let complex = complex.map(String::as_str);
        let reading = Reading::of(asked.raw.as_deref(), asked.npy_v2.as_deref(), complex)
            .map_err(|error| wrong(format!("it wants its dumps read otherwise: {error}")))?;
        let (layout, selection) = more(&asked).map_err(|error| wrong(error.to_string()))?;
        let naming = match &head.list {
            Some(list) => Naming::List(list.clone()),
            None => Naming::Template(asked.names),
        };
        let selection = Selection {
            tensors: asked.tensors,
            exclude: asked.exclude,
            channel: asked.channel,
            ..selection
        };
        let dumps: Vec<&str> = head.identity.dumps.iter().map(|dump| dump.path.as_str()).collect();
        let source = View::new(DumpFiles::open_as(&dumps, &reading)?, layout);
        let options = Options { rule, scope, selection, naming, encoding, ..Options::default() };
        let ranges = plan.ranges.clone().into();
        let planned = Planned { path: path.to_owned(), identity: head.identity.clone(), ranges };
        Ok(Work {
            source,
            options,
            hash: asked.hash,
            plan: Some(plan),
            planned: Some(planned),
            list: None,
        })
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

/// What a plan says of how samples become pixels.
fn rule(asked: &Asked) -> Result<(Rule, Scope), String> {
    let mut text = RuleText::default();
    text.set("norm", &asked.norm);
    for (name, value) in &asked.rule {
        if !text.set(name, value) {
            return Err(format!("it wants --{name}, which this version does not know"));
        }
    }
    text.read()
}

/// What a plan says of axes and images.
fn more(asked: &Asked) -> Result<(Layout, Selection), Error> {
    let (mut layout, mut selection) = (Layout::default(), Selection::default());
    // A sample comes before its seed.
    for (name, texts) in asked.more.iter().filter(|(name, _)| *name != COMPLEX) {
        for text in texts {
            if Layout::NAMES.contains(&name.as_str()) {
                layout.add(name, text)?;
            } else {
                selection.add(name, text)?;
            }
        }
    }
    Ok((layout, selection))
}

/// What a plan says of how pixels are stored.
fn encoding(asked: &Asked) -> Result<Encoding, String> {
    let mut text = EncodingText::default();
    for (name, value) in &asked.encoding {
        if !text.set(name, value) {
            return Err(format!("it wants --{name}, which this version does not know"));
        }
    }
    text.read()
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
