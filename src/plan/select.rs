//! Which tensors, and which planes of them.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use super::fields::Regex;
use super::pick::{Pick, Sample};
use super::row::{Row, Taken};
use super::template::{Index, Template};
use crate::error::nearest::{no_match, told_of_no_match};
use crate::error::{Error, counted, shown, shown_indices, shown_shape};
use crate::tensor::{Dump, Glob, Leading, Misfit, TensorInfo, Unsupported};

/// Which tensors to take, and which of their planes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Patterns of which a name must match one; all names do if there is none. `*` matches
    /// anything but `/`, `**` anything, `?` one character, `[a-z]` one of a set.
    pub tensors: Vec<String>,
    /// Patterns of which a name must match none.
    pub exclude: Vec<String>,
    /// A regular expression that has to match in a name. Its named groups are fields of names.
    pub regex: Option<String>,
    /// A template of fields of names, as of images' names: tensors of which it makes the same text are a
    /// group. See [`Scope::Group`](crate::normalize::Scope::Group).
    pub group_by: Option<String>,
    /// Take only this index of the third axis from the end.
    pub channel: Option<u64>,
    /// Which of the images then.
    pub pick: Pick,
}

impl Selection {
    /// Options that are not fields of their own in what is recorded, as [`add`](Selection::add) takes them.
    pub const NAMES: [&'static str; 6] =
        ["tensor-regex", "group-by", "every", "sample", "seed", "limit"];

    /// Sets one of [`NAMES`](Selection::NAMES) as the command line has it, without its `--`; a seed after
    /// the sample.
    ///
    /// # Errors
    /// [`Error::Usage`] for a text that is none, or another name.
    pub fn add(&mut self, option: &str, text: &str) -> Result<(), Error> {
        let wrong = |_| Error::Usage(format!("--{option} {}: a number is due", shown(text)));
        let seed = self.pick.sample.map_or(0, |sample| sample.seed);
        match option {
            "tensor-regex" => self.regex = Some(text.to_owned()),
            "group-by" => self.group_by = Some(text.to_owned()),
            "sample" | "limit" if text.parse() == Ok(0_u64) => {
                return Err(Error::Usage(format!("--{option} 0: 1 is the least")));
            }
            "every" => self.pick.every = Some(text.parse().map_err(wrong)?),
            "sample" => {
                self.pick.sample = Some(Sample { count: text.parse().map_err(wrong)?, seed });
            }
            "seed" => match &mut self.pick.sample {
                Some(sample) => sample.seed = text.parse().map_err(wrong)?,
                None => return Err(Error::Usage("--seed goes with --sample".to_owned())),
            },
            "limit" => self.pick.limit = Some(text.parse().map_err(wrong)?),
            _ => return Err(Error::Usage(format!("--{}: there is no such option", shown(option)))),
        }
        Ok(())
    }

    /// The options of [`NAMES`](Selection::NAMES) that were set.
    #[must_use]
    pub fn texts(&self) -> BTreeMap<String, String> {
        let Pick { every, sample, limit } = self.pick;
        let seed = sample.map(|sample| sample.seed).filter(|seed| *seed != 0);
        let all = [
            ("tensor-regex", self.regex.clone()),
            ("group-by", self.group_by.clone()),
            ("every", every.map(|every| every.to_string())),
            ("sample", sample.map(|sample| sample.count.to_string())),
            ("seed", seed.map(|seed| seed.to_string())),
            ("limit", limit.map(|limit| limit.to_string())),
        ];
        let set = |(name, text): (&str, Option<String>)| Some((name.to_owned(), text?));
        all.into_iter().filter_map(set).collect()
    }
}

/// A selected tensor that gives no image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Index of the tensor in the source.
    pub tensor: usize,
    /// Why.
    pub reason: SkipReason,
}

/// Why a tensor gives no image.
/// Kinds, not cases: a report counts tensors by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SkipReason {
    /// Fewer axes than an image has.
    Rank(usize),
    /// An axis is 0 long.
    Empty,
    /// A channel was asked for, but there is no third axis.
    NoChannels,
    /// Its axes are not those that a layout asks for.
    Misfit(Misfit),
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SkipReason::Rank(1) => {
                f.write_str("1-D: needs at least two axes, or --rows to make them")
            }
            SkipReason::Rank(rank) => write!(f, "{rank}-D: needs at least two axes"),
            SkipReason::Empty => f.write_str("has no elements"),
            SkipReason::Misfit(misfit) => write!(f, "{misfit}"),
            SkipReason::NoChannels => f.write_str("rank 2: --channel needs a third axis"),
        }
    }
}

/// The selected tensors, without names.
#[derive(Debug)]
pub struct Selected {
    rows: Vec<Row>,
    skipped: Vec<Skipped>,
    images: u64,
    notes: Vec<String>,
}

impl Selected {
    /// Selects. A pattern that matches only what is `unsupported` is no slip.
    ///
    /// # Errors
    /// As [`Plan::new`](super::Plan::new), but for names.
    pub fn new(
        dumps: &[Dump],
        tensors: &[TensorInfo],
        unsupported: &[Unsupported],
        selection: &Selection,
    ) -> Result<Selected, Error> {
        let filter = Filter::new(selection)?;
        let mut grouping = Grouping::new(selection, &filter)?;
        let names = || {
            let others = unsupported.iter().map(|tensor| tensor.tensor.as_str());
            tensors.iter().map(|tensor| tensor.name.as_str()).chain(others)
        };
        for (pattern, glob) in selection.tensors.iter().zip(&filter.take) {
            if !names().any(|name| glob.matches(name)) {
                return Err(no_match("--tensor", pattern, names()));
            }
        }
        if let Some(regex) =
            filter.fields.as_ref().filter(|fields| !names().any(|name| fields.matches(name)))
        {
            return Err(Error::Usage(format!(
                "--tensor-regex {}: matches in none of {} (`tensortiff ls` lists them)",
                shown(regex.text()),
                counted(names().count() as u64, "name")
            )));
        }
        let unused = selection.exclude.iter().zip(&filter.leave);
        let unused = unused.filter(|(_, glob)| !names().any(|name| glob.matches(name)));
        let notes = unused.map(|(text, _)| told_of_no_match("--exclude", text, names())).collect();
        let mut selected = Selected { rows: Vec::new(), skipped: Vec::new(), images: 0, notes };
        for (index, tensor) in tensors.iter().enumerate() {
            if !filter.takes(&tensor.name) {
                continue;
            }
            match plan_tensor(index, tensor, selection.channel, &dumps[tensor.dump])? {
                Err(reason) => selected.skipped.push(Skipped { tensor: index, reason }),
                Ok(mut row) => {
                    row.group = grouping.of(&dumps[tensor.dump].stem, &tensor.name);
                    row.first_image = selected.images;
                    selected.images = selected
                        .images
                        .checked_add(row.images)
                        .ok_or_else(|| too_large(&dumps[tensor.dump], tensor, "too many images"))?;
                    selected.rows.push(row);
                }
            }
        }
        let rows = std::mem::take(&mut selected.rows);
        selected.rows = selection.pick.of(rows, selected.images)?;
        selected.images = selected.rows.last().map_or(0, |row| row.first_image + row.images);
        Ok(selected)
    }

    /// The tensors that give images, in the order of the source.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The tensors that give none.
    #[must_use]
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// Number of images.
    #[must_use]
    pub fn images(&self) -> u64 {
        self.images
    }

    /// What may be a slip in what was asked for, a line each: patterns that leave nothing out.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

/// Which group tensors are of.
struct Grouping<'f> {
    by: Option<(Fields<'f>, HashMap<String, usize>)>,
}

type Fields<'f> = (Template, Option<&'f Regex>);

impl<'f> Grouping<'f> {
    fn new(selection: &Selection, filter: &'f Filter) -> Result<Grouping<'f>, Error> {
        let Some(text) = &selection.group_by else { return Ok(Grouping { by: None }) };
        let fields = filter.fields.as_ref();
        let names = fields.map_or(&[][..], Regex::fields);
        let template = Template::of_groups(text, names)?;
        Ok(Grouping { by: Some(((template, fields), HashMap::new())) })
    }

    fn of(&mut self, stem: &str, tensor: &str) -> usize {
        let Some(((template, fields), groups)) = &mut self.by else { return 0 };
        let values = fields.map_or_else(Vec::new, |fields| fields.values(tensor));
        let text = template.pattern(stem, tensor, &values, Index::None).texts.concat();
        let next = groups.len();
        *groups.entry(text).or_insert(next)
    }
}

/// The compiled patterns of a selection.
#[derive(Debug)]
pub struct Filter {
    take: Vec<Glob>,
    leave: Vec<Glob>,
    pub(super) fields: Option<Regex>,
}

impl Filter {
    /// Compiles the patterns.
    ///
    /// # Errors
    /// [`Error::Usage`] for a pattern that is none.
    pub fn new(selection: &Selection) -> Result<Filter, Error> {
        Ok(Filter {
            take: globs("--tensor", &selection.tensors)?,
            leave: globs("--exclude", &selection.exclude)?,
            fields: selection.regex.as_deref().map(Regex::new).transpose()?,
        })
    }

    /// Whether a tensor of this name is selected.
    #[must_use]
    pub fn takes(&self, name: &str) -> bool {
        let matches = |globs: &[Glob]| globs.iter().any(|glob| glob.matches(name));
        (self.take.is_empty() || matches(&self.take))
            && !matches(&self.leave)
            && self.fields.as_ref().is_none_or(|fields| fields.matches(name))
    }
}

fn globs(option: &str, patterns: &[String]) -> Result<Vec<Glob>, Error> {
    let glob = |pattern: &String| {
        Glob::new(pattern)
            .map_err(|problem| Error::Usage(format!("{option} {}: {problem}", shown(pattern))))
    };
    patterns.iter().map(glob).collect()
}

fn plan_tensor(
    index: usize,
    tensor: &TensorInfo,
    channel: Option<u64>,
    dump: &Dump,
) -> Result<Result<Row, SkipReason>, Error> {
    match &tensor.leading {
        Leading::Misfit(misfit) => return Ok(Err(SkipReason::Misfit(*misfit))),
        Leading::Wrong(problem) => return Err(Error::Usage(problem.to_string())),
        Leading::Plain | Leading::Named(_) => {}
    }
    let [axes @ .., height, width] = &tensor.shape[..] else {
        return Ok(Err(SkipReason::Rank(tensor.shape.len())));
    };
    if let Some(k) = channel {
        match axes.last() {
            None => return Ok(Err(SkipReason::NoChannels)),
            Some(&channels) if k >= channels && tensor.shape.iter().all(|&axis| axis > 0) => {
                return Err(Error::Usage(format!(
                    "--channel {k}: tensor {} has {}, {} (shape {}); --tensor and --exclude choose \
                     tensors",
                    shown(&tensor.name),
                    counted(channels, "channel"),
                    shown_indices(channels),
                    shown_shape(&tensor.shape)
                )));
            }
            Some(_) => {}
        }
    }
    if tensor.shape.contains(&0) {
        return Ok(Err(SkipReason::Empty));
    }
    if tensor.bytes().is_none() {
        let problem =
            format!("the shape {} is of more than 2^64 bytes", shown_shape(&tensor.shape));
        return Err(too_large(dump, tensor, &problem));
    }
    if [width, height].into_iter().any(|&n| u32::try_from(n).is_err()) {
        return Err(too_large(
            dump,
            tensor,
            &format!("an image of {width}×{height} does not fit a TIFF, whose sides fit 32 bits"),
        ));
    }
    let counted = if channel.is_some() { &axes[..axes.len() - 1] } else { axes };
    Ok(Ok(Row {
        tensor: index,
        dtype: tensor.dtype,
        width: *width,
        height: *height,
        images: counted.iter().product(), // of a whole tensor, which was found to fit
        first_image: 0,
        group: 0,
        axes: axes.to_vec(),
        called: match &tensor.leading {
            Leading::Named(called) => Some(Arc::clone(called)),
            _ => None,
        },
        taken: match (channel, axes.last()) {
            (Some(first), Some(&step)) => Taken::Every { first, step },
            _ => Taken::First,
        },
    }))
}

fn too_large(dump: &Dump, tensor: &TensorInfo, problem: &str) -> Error {
    Error::TooLarge {
        dump: dump.label.clone(),
        tensor: tensor.name.clone(),
        problem: problem.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Dtype;

    fn select(shape: &[u64], channel: Option<u64>) -> Result<Selected, Error> {
        let dumps = [Dump { label: "d.safetensors".to_owned(), stem: "d".to_owned() }];
        let tensor = TensorInfo::new("t".to_owned(), 0, Dtype::F64, shape.to_vec());
        Selected::new(&dumps, &[tensor], &[], &Selection { channel, ..Selection::default() })
    }

    #[test]
    fn tensors_without_images_are_skipped_with_the_reason() {
        let cases: [(&[u64], Option<u64>, &str); 6] = [
            (&[], None, "0-D: needs at least two axes"),
            (&[3], Some(9), "1-D: needs at least two axes, or --rows to make them"),
            (&[2, 0], None, "has no elements"),
            (&[0, 2, 2], Some(9), "has no elements"),
            (&[u64::MAX, u64::MAX, 0], None, "has no elements"),
            (&[2, 2], Some(0), "rank 2: --channel needs a third axis"),
        ];
        for (shape, channel, reason) in cases {
            let selected = select(shape, channel).unwrap();
            assert_eq!((selected.rows().len(), selected.images()), (0, 0), "{shape:?}");
            let told = selected.skipped()[0].reason.to_string();
            assert_eq!(told, reason, "{shape:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error_and_no_overflow() {
        let most = u64::from(u32::MAX);
        assert!(select(&[1, most], None).is_ok() && select(&[most, 1], None).is_ok());
        let cases: [(&[u64], &str); 4] = [
            (&[1, most + 1], "32 bits"),
            (&[most + 1, 1], "32 bits"),
            (&[u64::MAX, 1, 1], "2^64 bytes"),
            (&[1 << 32, 1 << 32, 1, 1], "2^64 bytes"),
        ];
        for (shape, part) in cases {
            let error = select(shape, None).unwrap_err();
            assert!(matches!(error, Error::TooLarge { .. }), "{shape:?}: {error}");
            assert!(error.to_string().contains(part), "{shape:?}: {error}");
        }
    }

    #[test]
    fn a_channel_out_of_range_is_told_with_tensor_shape_and_channel() {
        assert_eq!(select(&[5, 3, 2, 2], Some(2)).unwrap().images(), 5);
        let error = select(&[5, 3, 2, 2], Some(3)).unwrap_err();
        let told = error.to_string();
        assert!(error.is_usage(), "{told}");
        for part in ["--channel 3", "tensor t", "[5, 3, 2, 2]"] {
            assert!(told.contains(part), "{part}: {told}");
        }
    }

    #[test]
    fn an_index_is_found_by_its_text_and_by_no_other() {
        for channel in [None, Some(1)] {
            let selected = select(&[11, 2, 10, 1, 1], channel).unwrap();
            let row = &selected.rows()[0];
            for index in 0..row.images {
                assert_eq!(row.index_of(&row.index_text(index)), Some(index));
            }
            for text in ["", "0_0_0", "00_0", "00_0_0_0", "11_0_0", "00_2_0", "+1_0_1", "00_0_00"] {
                assert_eq!(row.index_of(text), None, "{text}");
            }
        }
        let selected = select(&[3, 2, 1, 1], Some(1)).unwrap();
        let row = &selected.rows()[0];
        assert_eq!((row.index_of("2_1"), row.index_of("2_0")), (Some(2), None));
    }
}
