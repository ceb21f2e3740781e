//! A run by what its record says was asked for: the way back from `identify`.

use super::identify::{identity, names_hash};
use super::{Options, planned};
use crate::encode::{Encoding, EncodingText};
use crate::error::{Error, shown};
use crate::normalize::{Rule, RuleText, Scope};
use crate::plan::{Naming, Selection, Tar};
use crate::record::identity::{Asked, Identity};
use crate::source::{Layout, Reading, Source};

/// What of it a record has beside axes and images.
const COMPLEX: &str = "complex";
const STACK: &str = "stack";
pub(super) const TAR: &str = "tar";

/// How a run read its dumps, and its options that decide names and bytes.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// What the dumps did not say themselves.
    pub reading: Reading,
    /// What became of axes.
    pub layout: Layout,
    /// The others are as by default.
    pub options: Options,
}

impl Recorded {
    /// What a record says; names are those of `list`, if there is one.
    ///
    /// # Errors
    /// What this version does not understand, in one line.
    pub fn of(asked: &Asked, list: Option<Vec<String>>) -> Result<Recorded, String> {
        let (rule, scope) = rule(asked)?;
        let encoding = encoding(asked)?;
        let first = |name| asked.more.get(name).and_then(|texts| texts.first()).map(String::as_str);
        let complex = first(COMPLEX);
        let stack = first(STACK).map(str::parse).transpose()?.unwrap_or_default();
        let tar = asked.more.get(TAR).map(|texts| Tar::of(texts)).transpose()?;
        let reading = Reading::of(asked.raw.as_deref(), asked.npy_v2.as_deref(), complex)
            .map_err(|error| format!("it wants its dumps read otherwise: {error}"))?;
        let (layout, selection) = more(asked).map_err(|error| error.to_string())?;
        let naming = match list {
            Some(list) => Naming::List(list),
            None => Naming::Template(asked.names.clone()),
        };
        let selection = Selection {
            tensors: asked.tensors.clone(),
            exclude: asked.exclude.clone(),
            channel: asked.channel,
            ..selection
        };
        let options =
            Options { rule, scope, selection, naming, encoding, stack, tar, ..Options::default() };
        Ok(Recorded { reading, layout, options })
    }

    /// How a run of `source` would differ from the recorded one, other than by when the dumps were written
    /// and where they are; `None` if it makes the same images.
    ///
    /// # Errors
    /// As [`convert`](super::convert) before any work.
    pub(crate) fn difference(
        &self,
        source: &dyn Source,
        was: &Identity,
    ) -> Result<Option<String>, Error> {
        let options = &self.options;
        let plan = planned(source, options)?;
        let names = names_hash(source, options, &plan);
        let mut now = identity(source, options, &plan, was.options.hash, names);
        for (now, was) in now.dumps.iter_mut().zip(&was.dumps) {
            (now.modified, now.files) = (was.modified, was.files);
        }
        Ok(was.difference(&now))
    }
}

/// How samples become pixels.
fn rule(asked: &Asked) -> Result<(Rule, Scope), String> {
    let mut text = RuleText::default();
    text.set("norm", &asked.norm);
    for (name, value) in &asked.rule {
        if !text.set(name, value) {
            return Err(unknown(name));
        }
    }
    text.read().map_err(|problem| shown(&problem))
}

/// What is said of axes and images.
fn more(asked: &Asked) -> Result<(Layout, Selection), Error> {
    let (mut layout, mut selection) = (Layout::default(), Selection::default());
    // A sample comes before its seed.
    let others = [COMPLEX, STACK, TAR];
    let others = asked.more.iter().filter(|(name, _)| !others.contains(&name.as_str()));
    for (name, texts) in others {
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

/// How pixels are stored.
fn encoding(asked: &Asked) -> Result<Encoding, String> {
    let mut text = EncodingText::default();
    for (name, value) in &asked.encoding {
        if !text.set(name, value) {
            return Err(unknown(name));
        }
    }
    text.read().map_err(|problem| shown(&problem))
}

fn unknown(name: &str) -> String {
    format!("it wants --{}, which this version does not know", shown(name))
}
