//! The plan under what options do to it: fields of a regular expression, layouts, picks, stacks and tars.
//!
//! The source's samples are their own numbers, so that what is read of an image tells which samples it is of.
//! What was selected is worked out here from the rules, index by index.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};

use proptest::prelude::*;
use tensortiff::error::Error;
use tensortiff::plan::{Naming, Pick, Plan, Sample, Selected, Selection, Stack, Tar};
use tensortiff::{Dtype, Dump, Layout, Source, TensorInfo, View};

use super::hostile::{clashes, is_safe, name, runner, template};

/// What a regular expression's fields are in a name, worked out by hand; `None` where it does not match.
type Fields = fn(&str) -> Option<Vec<String>>;

/// Expressions, the names of their fields, and templates of those.
const REGEXES: [(&str, Fields, &[&str]); 3] = [
    (
        r"^l\.(?<layer>[0-9]+)\.(?<part>.*)$",
        |name| {
            let (layer, part) = name.strip_prefix("l.")?.split_once('.')?;
            let is_number = !layer.is_empty() && layer.bytes().all(|b| b.is_ascii_digit());
            (is_number && !part.contains('\n')).then(|| vec![layer.to_owned(), part.to_owned()])
        },
        &[
            "{layer}/{part}/{index}.tif",
            "{stem}/{layer}_{part}_{index}.tif",
            "{part}{layer}{index}.tif",
            "{stem}/{layer}{index}/{part}.tif",
            "{stem}/{part}/{layer}.tif",
            "{part}{layer}/{index}.tiff",
        ],
    ),
    (
        "^(?<number>[0-9]+)?",
        |name| Some(vec![name.chars().take_while(char::is_ascii_digit).collect()]),
        &["{stem}/{number}{tensor}/{index}.tif", "{number}x{tensor}{index}.tif"],
    ),
    (
        "(?<first>[aAwW])",
        |name| name.chars().find(|c| "aAwW".contains(*c)).map(|c| vec![c.to_string()]),
        &[
            "{first}/{tensor}/{index}.tif",
            "{stem}/{tensor}/{first}{index}.tif",
            "{first}{index}.tif",
        ],
    ),
];

/// Indices of an axis: one, or from one on, to another, so many apart.
#[derive(Debug, Clone)]
enum Indices {
    One(i64),
    Slice(Option<i64>, Option<i64>, i64),
}

impl Indices {
    fn text(&self) -> String {
        let open = |number: &Option<i64>| number.map_or(String::new(), |n| n.to_string());
        match self {
            Indices::One(index) => index.to_string(),
            Indices::Slice(from, to, step) => format!("{}:{}:{step}", open(from), open(to)),
        }
    }

    /// Those that an axis has, one by one; `None` where there is none.
    fn of(&self, len: u64) -> Option<Vec<u64>> {
        let len = len.cast_signed();
        let place = |at: i64| if at < 0 { (at + len).max(0) } else { at.min(len) };
        let all: Vec<i64> = match *self {
            Indices::One(index) => {
                let index = if index < 0 { index + len } else { index };
                (0..len).filter(|at| *at == index).collect()
            }
            Indices::Slice(from, to, step) => {
                let from = from.map_or(0, place);
                let is_taken = |at: &i64| *at >= from && (*at - from) % step == 0;
                (0..to.map_or(len, place)).filter(is_taken).collect()
            }
        };
        (!all.is_empty()).then(|| all.into_iter().map(i64::cast_unsigned).collect())
    }
}

#[derive(Debug, Clone, Default)]
struct Look {
    /// Letters, of tensors whose names begin so.
    letters: Option<(Option<&'static str>, &'static str)>,
    select: Option<(char, Indices)>,
    reduce: Option<(char, &'static str)>,
    /// Of rows, transposed, flipped.
    more: Vec<(&'static str, &'static str)>,
}

impl Look {
    fn layout(&self) -> Result<Layout, Error> {
        let mut layout = Layout::default();
        if let Some((begin, letters)) = self.letters {
            let of = begin.map_or(String::new(), |begin| format!("{begin}**="));
            layout.add("layout", &format!("{of}{letters}"))?;
        }
        if let Some((letter, indices)) = &self.select {
            layout.add("select", &format!("{letter}={}", indices.text()))?;
        }
        if let Some((letter, how)) = self.reduce {
            layout.add("reduce", &format!("{letter}={how}"))?;
        }
        self.more.iter().try_for_each(|(option, text)| layout.add(option, text))?;
        Ok(layout)
    }

    fn is_default(&self) -> bool {
        self.letters.is_none()
            && self.select.is_none()
            && self.reduce.is_none()
            && self.more.is_empty()
    }

    /// The letter of each axis of a tensor.
    fn letters_of(&self, tensor: &TensorInfo) -> Vec<Option<char>> {
        let said =
            self.letters.filter(|(begin, _)| begin.is_none_or(|b| tensor.name.starts_with(b)));
        match said {
            Some((_, letters)) => letters.chars().map(Some).collect(),
            None => {
                let usual = ['W', 'H', 'C', 'N'];
                (0..tensor.shape.len()).rev().map(|behind| usual.get(behind).copied()).collect()
            }
        }
    }
}

fn look() -> impl Strategy<Value = Look> {
    let letters = prop::sample::select(vec![
        "HWC", "NHWC", "CHW", "WH", "NCHW", "CTHW", "HCW", "HW", "CW", "W", "WHCN",
    ]);
    let letters = (prop::option::weighted(0.5, Just("l.")), letters);
    let at = || prop::option::of(-3..4_i64);
    let indices = prop_oneof![
        (-2..2_i64).prop_map(Indices::One),
        (at(), at(), 1..4_i64).prop_map(|(from, to, step)| Indices::Slice(from, to, step)),
    ];
    let letter = || prop::sample::select(vec!['C', 'C', 'C', 'N', 'H', 'W', 'T']);
    let how = prop::sample::select(vec!["max", "min", "mean", "l2"]);
    let more = prop::sample::subsequence(
        vec![("rows", "1"), ("transpose", ""), ("flip", "x"), ("flip", "y")],
        0..=4,
    );
    let more = prop_oneof![1 => Just(vec![("rows", "2")]), 3 => more];
    (
        prop::option::weighted(0.4, letters),
        prop::option::weighted(0.5, (letter(), indices)),
        prop::option::weighted(0.3, (letter(), how)),
        prop_oneof![1 => Just(Vec::new()), 1 => more],
    )
        .prop_map(|(letters, select, reduce, more)| Look { letters, select, reduce, more })
}

/// What files are.
#[derive(Debug, Clone)]
enum Way {
    Files,
    Stack(Stack),
    Tar(Option<u64>),
}

#[derive(Debug, Clone)]
struct Case {
    dumps: Vec<Dump>,
    tensors: Vec<TensorInfo>,
    regex: Option<usize>,
    template: String,
    look: Look,
    channel: Option<u64>,
    pick: Pick,
    way: Way,
}

/// Names as checkpoints have them, and such as nobody would give.
fn tensor_name() -> impl Strategy<Value = String> {
    let layers = (0..12_u64, prop::sample::select(vec!["w", "W", "b", "w/x", "a/0", "é"]));
    prop_oneof![
        6 => layers.prop_map(|(layer, part)| format!("l.{layer}.{part}")),
        2 => prop::sample::select(vec!["a", "b", "w", "12a", "a/0", "0"]).prop_map(str::to_owned),
        1 => name(),
    ]
}

fn shape() -> impl Strategy<Value = Vec<u64>> {
    let axis = prop_oneof![8 => 1..4_u64, 1 => Just(11), 1 => Just(0)];
    prop_oneof![
        1 => prop::collection::vec(axis.clone(), 0..2),
        9 => prop::collection::vec(axis, 2..5),
        4 => Just(vec![2, 3, 2, 4]),
    ]
}

fn pick() -> impl Strategy<Value = Pick> {
    let every = prop::option::weighted(0.4, 1..5_u64);
    let sample = prop::option::weighted(0.4, (1..20_u64, 0..4_u64));
    let limit = prop::option::weighted(0.4, 1..12_u64);
    (every, sample, limit).prop_map(|(every, sample, limit)| Pick {
        every: every.and_then(std::num::NonZeroU64::new),
        sample: sample.map(|(count, seed)| Sample { count, seed }),
        limit,
    })
}

fn case() -> impl Strategy<Value = Case> {
    let regex = prop_oneof![1 => Just(None), 1 => (0..REGEXES.len()).prop_map(Some)];
    let named = (regex, template(), any::<prop::sample::Index>()).prop_map(|(regex, own, at)| {
        let usual = ["{stem}/{tensor}/{index}.tif", "{tensor}/{index}.tif", "all.tif"];
        let template = match regex {
            Some(regex) => at.get(REGEXES[regex].2).to_string(),
            None if at.index(2) == 0 => (*at.get(&usual)).to_owned(),
            None => own,
        };
        (regex, template)
    });
    let tensors =
        prop::collection::vec((tensor_name(), shape(), any::<prop::sample::Index>()), 1..5);
    let look = prop_oneof![2 => Just(Look::default()), 3 => look()];
    let channel = prop_oneof![4 => Just(None), 1 => (0..2_u64).prop_map(Some)];
    let pick = prop_oneof![1 => Just(Pick::default()), 1 => pick()];
    let size = prop::sample::select(vec![1, 3000, 5000, 12_000, 1 << 30]);
    let way = prop_oneof![
        4 => Just(Way::Files),
        2 => Just(Way::Stack(Stack::Tensor)),
        1 => Just(Way::Stack(Stack::All)),
        3 => prop::option::of(size).prop_map(Way::Tar),
    ];
    (1..3_usize, tensors, named, look, channel, pick, way).prop_map(
        |(dumps, tensors, (regex, template), look, channel, pick, way)| {
            let mut seen = HashSet::new();
            let tensors = tensors
                .into_iter()
                .map(|(name, shape, at)| TensorInfo::new(name, at.index(dumps), Dtype::U32, shape));
            // A dump holds a name once.
            let fresh = tensors.filter(|t| seen.insert((t.dump, t.name.clone()))).collect();
            let dumps = ["s", "t"].into_iter().take(dumps).map(super::dump).collect();
            Case { dumps, tensors: fresh, regex, template, look, channel, pick, way }
        },
    )
}

/// A source whose samples are their own numbers.
struct Numbered<'c>(&'c Case);

impl Source for Numbered<'_> {
    fn dumps(&self) -> &[Dump] {
        &self.0.dumps
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.0.tensors
    }

    fn read_at(&self, _: usize, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        for (at, byte) in (offset..).zip(buf) {
            *byte = ((at / 4) as u32).to_le_bytes()[(at % 4) as usize];
        }
        Ok(())
    }
}

impl Case {
    fn selection(&self, pick: Pick) -> Selection {
        let regex = self.regex.map(|regex| REGEXES[regex].0.to_owned());
        Selection { regex, channel: self.channel, pick, ..Selection::default() }
    }

    /// The plan of images and their names, before those of a tar are members.
    fn plan_names(&self, view: &dyn Source, pick: Pick) -> Result<Plan, Error> {
        let (selection, naming) = (self.selection(pick), Naming::Template(self.template.clone()));
        let (dumps, tensors) = (view.dumps(), view.tensors());
        match &self.way {
            Way::Files => Plan::new(dumps, tensors, &[], &selection, &naming),
            Way::Stack(stack) => Plan::stacked(dumps, tensors, &[], &selection, &naming, *stack),
            Way::Tar(_) => Plan::keyed(dumps, tensors, &[], &selection, &naming),
        }
    }

    fn plan(&self, view: &dyn Source, pick: Pick) -> Result<Plan, Error> {
        let plan = self.plan_names(view, pick)?;
        let Way::Tar(size) = self.way else { return Ok(plan) };
        let tar = Tar::new("t.tar", size).unwrap();
        let bytes: Vec<u64> = plan.rows().iter().map(|row| member(row.samples())).collect();
        Ok(plan.in_tars(&tar, |row| bytes[row], END)?.unwrap())
    }
}

/// Bytes that a member takes with all that belongs to it, and those behind the last one.
fn member(samples: u64) -> u64 {
    (512 + 300 + 4 * samples).next_multiple_of(512)
}
const END: u64 = 1024;

/// Images in order, as tensor and plane.
type Images = Vec<(usize, u64)>;

fn images(rows: &[tensortiff::plan::Row]) -> Images {
    rows.iter().flat_map(|row| (0..row.images).map(|i| (row.tensor, row.plane(i)))).collect()
}

/// The samples of a tensor that all its images are to be of, each once. Of those that are combined the last one, for
/// `max`, or the first; of other combinations how many there are.
fn wanted(case: &Case, tensor: &TensorInfo) -> HashSet<u64> {
    let letters = case.look.letters_of(tensor);
    let mut taken: Vec<Vec<u64>> = tensor.shape.iter().map(|len| (0..*len).collect()).collect();
    let place = |letter: char| letters.iter().position(|l| *l == Some(letter));
    if let Some((letter, indices)) = &case.look.select {
        let at = place(*letter).unwrap();
        taken[at] = indices.of(tensor.shape[at]).unwrap();
    }
    let reduced = case.look.reduce.map(|(letter, how)| (place(letter).unwrap(), how));
    if let Some((at, how)) = reduced {
        let one = if how == "max" { *taken[at].last().unwrap() } else { taken[at][0] };
        taken[at] = vec![one];
    }
    if let Some(channel) = case.channel {
        // The last axis that is left, when the image has its own.
        let mut left: Vec<usize> = (0..letters.len()).collect();
        left.retain(|at| reduced.is_none_or(|(reduced, _)| *at != reduced));
        let image: Vec<usize> =
            left.iter().copied().filter(|at| matches!(letters[*at], Some('H' | 'W'))).collect();
        left.retain(|at| !image.contains(at));
        if image.is_empty() {
            left.truncate(left.len() - 2);
        }
        let at = *left.last().unwrap();
        taken[at] = vec![taken[at][channel as usize]];
    }
    let mut all = vec![0];
    for (len, taken) in tensor.shape.iter().zip(&taken) {
        all = all.iter().flat_map(|n| taken.iter().map(move |at| n * len + at)).collect();
    }
    all.into_iter().collect()
}

/// Of images that nothing was picked of: each selected sample is in one image.
fn check_samples(case: &Case, view: &dyn Source, plan: &Plan) -> Result<(), TestCaseError> {
    for row in plan.rows() {
        let info = &view.tensors()[row.tensor];
        let wanted = wanted(case, &case.tensors[row.tensor]);
        let mut found = Vec::new();
        for index in 0..row.images {
            let mut bytes = vec![0; row.samples() as usize * row.dtype.size()];
            view.read_at(row.tensor, row.byte_offset(index), &mut bytes).unwrap();
            match info.dtype {
                Dtype::U32 => found
                    .extend(bytes.as_chunks().0.iter().map(|b| u64::from(u32::from_le_bytes(*b)))),
                _ => {
                    found.extend(bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as u64))
                }
            }
        }
        let distinct: HashSet<u64> = found.iter().copied().collect();
        match case.look.reduce {
            Some((_, "mean" | "l2")) => prop_assert_eq!(found.len(), wanted.len()),
            _ => {
                prop_assert_eq!(distinct.len(), found.len(), "a sample is in two images");
                prop_assert_eq!(distinct, wanted, "of {:?}", info);
            }
        }
    }
    let mut all: Vec<usize> = plan.rows().iter().map(|row| row.tensor).collect();
    all.extend(plan.skipped().iter().map(|skipped| skipped.tensor));
    all.sort_unstable();
    let matches = |name: &str| case.regex.is_none_or(|regex| REGEXES[regex].1(name).is_some());
    let taken: Vec<usize> =
        (0..case.tensors.len()).filter(|&at| matches(&case.tensors[at].name)).collect();
    prop_assert_eq!(all, taken, "tensors that are taken have images or a reason");
    if case.look.is_default() {
        for skipped in plan.skipped() {
            let shape = &case.tensors[skipped.tensor].shape;
            let has_none = shape.len() < 2 || shape.contains(&0);
            prop_assert!(has_none || (case.channel.is_some() && shape.len() == 2), "{skipped:?}");
        }
    }
    Ok(())
}

/// The images that were picked are those that were asked for, of all that there are.
fn check_pick(case: &Case, view: &dyn Source, plan: &Plan) -> Result<(), TestCaseError> {
    let all = case.selection(Pick::default());
    let all = Selected::new(view.dumps(), view.tensors(), &[], &all).unwrap();
    let all = images(all.rows());
    let Pick { every, sample, limit } = case.pick;
    let mut due: Images =
        all.iter().copied().step_by(every.map_or(1, |n| n.get() as usize)).collect();
    if let Some(sample) = sample {
        let unlimited = case.selection(Pick { limit: None, ..case.pick });
        let found = Selected::new(view.dumps(), view.tensors(), &[], &unlimited).unwrap();
        let found = images(found.rows());
        prop_assert_eq!(found.len() as u64, sample.count.min(due.len() as u64));
        let mut rest = due.iter();
        prop_assert!(found.iter().all(|image| rest.any(|other| other == image)), "{found:?}");
        due = found;
    }
    due.truncate(limit.unwrap_or(u64::MAX) as usize);
    prop_assert_eq!(images(plan.rows()), due);
    let firsts: Vec<u64> = plan.rows().iter().map(|row| row.first_image).collect();
    let counted = plan.rows().iter().scan(0, |n, row| Some(std::mem::replace(n, *n + row.images)));
    prop_assert_eq!(firsts, counted.collect::<Vec<_>>());
    Ok(())
}

/// Which image has which name, by tensor and plane.
fn named(plan: &Plan) -> HashMap<(usize, u64), String> {
    let of_row = |at: usize| {
        let row = &plan.rows()[at];
        (0..row.images).map(move |i| ((row.tensor, row.plane(i)), plan.name(at, i)))
    };
    (0..plan.rows().len()).flat_map(of_row).collect()
}

fn check_names(case: &Case, view: &dyn Source, plan: &Plan) -> Result<(), TestCaseError> {
    let files: Vec<String> = plan.names().collect();
    let names = named(plan);
    prop_assert_eq!(names.len() as u64, plan.images());
    for name in names.values() {
        let safe = is_safe(name);
        prop_assert!(safe.is_ok(), "{name:?} from {:?}: {safe:?}", case.template);
    }
    prop_assert!(!clashes(&files), "{files:?} from {:?}", case.template);
    let mut of_images = Vec::new();
    for (at, row) in plan.rows().iter().enumerate() {
        of_images.extend((0..row.images).map(|index| plan.file(at, index)));
    }
    // In order, each once: the files are those that images are in, and no others.
    of_images.dedup();
    prop_assert_eq!(&files, &of_images);
    match case.way {
        Way::Files => prop_assert_eq!(files.len() as u64, plan.images()),
        Way::Stack(Stack::All) => prop_assert_eq!(files.len(), plan.rows().len().min(1)),
        Way::Stack(_) => prop_assert_eq!(files.len(), plan.rows().len()),
        Way::Tar(_) => {
            let members: Vec<String> = names.values().cloned().collect();
            prop_assert!(!clashes(&members), "{members:?} from {:?}", case.template);
            // WebDataset's: up to the first dot behind the last slash.
            let key = |name: &String| {
                let leaf = name.rfind('/').map_or(0, |at| at + 1);
                let dot = name[leaf..].find('.').map_or(name.len(), |dot| leaf + dot);
                name[..dot].to_owned()
            };
            let keys: HashSet<String> = members.iter().map(key).collect();
            prop_assert_eq!(keys.len(), members.len());
        }
    }
    // What is picked is called as it is among all.
    if let Ok(all) = case.plan(view, Pick::default()) {
        let all = named(&all);
        for (image, name) in &names {
            prop_assert_eq!(name, &all[image]);
        }
    }
    let again = case.plan(view, case.pick).unwrap();
    prop_assert_eq!(named(&again), names);
    prop_assert_eq!(images(again.rows()), images(plan.rows()));
    Ok(())
}

/// Pages of each stack, or members of each tar, are counted from 0 to the last.
fn check_pages(case: &Case, plan: &Plan) -> Result<(), TestCaseError> {
    let mut pages: BTreeMap<usize, Vec<(u64, u64)>> = BTreeMap::new();
    for (at, row) in plan.rows().iter().enumerate() {
        for index in 0..row.images {
            let page = plan.page(at, index);
            prop_assert_eq!(page.is_some(), !matches!(case.way, Way::Files));
            if let Some(page) = page {
                pages.entry(page.stack).or_default().push((page.page, page.pages));
            }
        }
    }
    prop_assert!(pages.keys().copied().eq(0..pages.len()));
    for pages in pages.values() {
        let all = pages.len() as u64;
        prop_assert!(pages.iter().copied().eq((0..all).map(|page| (page, all))), "{pages:?}");
    }
    Ok(())
}

/// Members lie one after the other, in as few tars as hold them in order.
fn check_tars(plan: &Plan, size: Option<u64>) -> Result<(), TestCaseError> {
    let (mut tar, mut used, mut image) = (0, 0, 0);
    let mut lens = Vec::new();
    for (at, row) in plan.rows().iter().enumerate() {
        let each = member(row.samples());
        for index in 0..row.images {
            if used > 0 && size.is_some_and(|size| used + each + END > size) {
                lens.push((used + END, image));
                (tar, used) = (tar + 1, 0);
            }
            prop_assert_eq!(plan.in_tar(at, index), Some((tar, used)));
            for byte in [used, used + each / 2, used + each - 1] {
                prop_assert_eq!(plan.member_at(tar, byte), Some((at, index)));
            }
            (used, image) = (used + each, image + 1);
        }
    }
    lens.extend((image > 0).then_some((used + END, image)));
    prop_assert_eq!(plan.tars(), lens.len() as u64);
    let mut begin = 0;
    for (number, (len, end)) in lens.into_iter().enumerate() {
        let file = plan.tar_file(number as u64);
        prop_assert_eq!((file.len, file.images), (len, begin..end));
        prop_assert_eq!(plan.member_at(number as u64, len - END), None);
        begin = end;
    }
    prop_assert_eq!(begin, plan.images());
    Ok(())
}

/// A clash of all images is one of names that plans of each tensor alone give.
fn check_clash(case: &Case, view: &dyn Source, error: &Error) -> Result<(), TestCaseError> {
    let told = case.plan(view, case.pick).unwrap_err().to_string();
    prop_assert_eq!(error.to_string(), told);
    if case.pick != Pick::default() {
        return Ok(());
    }
    let mut names = Vec::new();
    for tensor in &case.tensors {
        let one = Case { tensors: vec![tensor.clone()], ..case.clone() };
        let view = View::new(Numbered(&one), one.look.layout().unwrap());
        match one.plan_names(&view, one.pick) {
            Ok(plan) => names.extend(plan.names()),
            // Its own images clash; or it alone is refused, as its name has not what is asked for.
            Err(Error::Collision { .. }) => return Ok(()),
            Err(_) => {}
        }
    }
    // The plan folds more than either of the oracle's foldings alone: ß is ss to some systems.
    let folded = |name: &String| name.to_lowercase().to_uppercase().to_lowercase();
    let folded: Vec<String> = names.iter().map(folded).collect();
    prop_assert!(clashes(&folded), "{error}: {folded:?}");
    Ok(())
}

#[test]
fn options_keep_plans_safe_distinct_and_complete() {
    let counts: RefCell<BTreeMap<&str, u32>> = RefCell::default();
    let count = |what| *counts.borrow_mut().entry(what).or_default() += 1;
    let cases = super::cases(12_000);
    let done = runner(12_000).run(&case(), |case| {
        count("all");
        let Ok(layout) = case.look.layout() else {
            count("refused");
            return Ok(());
        };
        let view = View::new(Numbered(&case), layout);
        match case.plan(&view, case.pick) {
            Ok(plan) => {
                check_pick(&case, &view, &plan)?;
                check_names(&case, &view, &plan)?;
                check_pages(&case, &plan)?;
                if let Way::Tar(size) = case.way {
                    check_tars(&plan, size)?;
                }
                if let Ok(all) = case.plan(&view, Pick::default()) {
                    check_samples(&case, &view, &all)?;
                }
                // Counted where there is something to be right or wrong.
                if plan.images() > 1 {
                    let has = [
                        ("planned", true),
                        ("fields", case.regex.is_some()),
                        ("letters", case.look.letters.is_some()),
                        ("select", case.look.select.is_some()),
                        ("reduce", case.look.reduce.is_some()),
                        ("turned", !case.look.more.is_empty()),
                        ("channel", case.channel.is_some()),
                        ("every", case.pick.every.is_some()),
                        ("sample", case.pick.sample.is_some()),
                        ("limit", case.pick.limit.is_some()),
                        ("stack of a tensor", matches!(case.way, Way::Stack(Stack::Tensor))),
                        ("stack of all", matches!(case.way, Way::Stack(Stack::All))),
                        ("tar", matches!(case.way, Way::Tar(None))),
                        ("tars", matches!(case.way, Way::Tar(Some(_))) && plan.tars() > 1),
                    ];
                    has.into_iter().filter(|(_, has)| *has).for_each(|(what, _)| count(what));
                }
                Ok(())
            }
            Err(error @ Error::Collision { .. }) => {
                count("clashing");
                check_clash(&case, &view, &error)
            }
            Err(Error::Usage(_)) => {
                count("refused");
                Ok(())
            }
            Err(other) => Err(TestCaseError::fail(other.to_string())),
        }
    });
    done.unwrap();
    // A generator of refusals only would prove nothing.
    let counts = counts.into_inner();
    println!("{counts:?}");
    let of = |what| counts.get(what).copied().unwrap_or_default();
    assert!(of("planned") * 4 > cases, "{counts:?}");
    for what in [
        "fields",
        "letters",
        "select",
        "reduce",
        "turned",
        "channel",
        "every",
        "sample",
        "limit",
        "stack of a tensor",
        "stack of all",
        "tar",
        "tars",
        "clashing",
    ] {
        assert!(of(what) * 200 > cases, "{what}: {counts:?}");
    }
}

/// A field that has all of a name is worth what `{tensor}` is, whatever is in the name.
#[test]
fn a_field_of_the_whole_name_is_the_tensor() {
    let templates = ["{}/{index}.tif", "{index}_{}.tif", "x/{}.tif", "{}{index}/a.tiff"];
    let tensors = prop::collection::vec((name(), shape()), 1..4);
    let planned = std::cell::Cell::new(0);
    let case = (tensors, prop::sample::select(templates.to_vec()));
    let done = runner(5_000).run(&case, |(tensors, template)| {
        let mut seen = HashSet::new();
        let tensors = tensors.into_iter().filter(|(name, _)| seen.insert(name.clone()));
        let tensor = |(name, shape)| TensorInfo::new(name, 0, Dtype::U32, shape);
        let tensors: Vec<TensorInfo> = tensors.map(tensor).collect();
        let plan = |field: &str, regex: Option<&str>| {
            let naming = Naming::Template(template.replace("{}", field));
            let regex = regex.map(str::to_owned);
            let selection = Selection { regex, ..Selection::default() };
            let plan = Plan::new(&[super::dump("s")], &tensors, &[], &selection, &naming);
            plan.map(|plan| plan.names().collect::<Vec<_>>()).map_err(|error| error.to_string())
        };
        let (own, field) = (plan("{tensor}", None), plan("{all}", Some(r"^(?<all>(?s:.*))$")));
        planned.set(planned.get() + u32::from(own.is_ok()));
        match own {
            Ok(names) => prop_assert_eq!(field, Ok(names)),
            Err(_) => prop_assert!(field.is_err(), "{field:?}"),
        }
        Ok(())
    });
    done.unwrap();
    assert!(planned.get() * 2 > super::cases(5_000), "{} were planned", planned.get());
}
