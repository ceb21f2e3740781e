//! The second stage: which images there are, where their bytes lie, and what they are called.
//!
//! A plan is a pure function of the tensors and the options; it reads nothing and writes nothing.
//! It holds one [`Row`] a tensor and works out image *i* of a row when asked, so that ten million
//! images cost no memory. Whatever is wrong with names is found here, before any work.

mod distinct;
mod escape;
mod fields;
mod pick;
mod row;
mod scope;
mod select;
mod stack;
mod tars;
mod template;

use std::borrow::Cow;

pub use pick::{Pick, Sample};
pub use row::Row;
pub use scope::{Part, Scopes};
pub use select::{Filter, Selected, Selection, SkipReason, Skipped};
pub use stack::{Page, Stack};
pub use tars::{Tar, TarFile};

use crate::error::{Error, shown};
use crate::tensor::{Dump, TensorInfo, Unsupported};
use distinct::Clash;
use fields::Regex;
use template::{Index, Pattern, Template};

/// Longest name of an image, in bytes: below what systems take as a path.
const LONGEST_NAME: usize = 4000;
/// Longest part between two `/`, in bytes: what file systems take.
const LONGEST_PART: usize = 255;

/// What images are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Naming {
    /// By a template with the fields `{stem}`, `{tensor}` and `{index}`.
    Template(String),
    /// One name an image, or a stack of some, in the order of the plan; `.tif` is added where it is
    /// missing.
    List(Vec<String>),
}

impl Naming {
    /// The template that is used if nothing else is asked for.
    pub const DEFAULT: &'static str = "{stem}/{tensor}/{index}.tif";
}

impl Default for Naming {
    fn default() -> Naming {
        Naming::Template(Naming::DEFAULT.to_owned())
    }
}

/// All images of a run.
#[derive(Debug)]
pub struct Plan {
    selected: Selected,
    names: Names,
    stack: Stack,
    /// There where images are members of tars.
    cut: Option<tars::Cut>,
}

#[derive(Debug)]
enum Names {
    /// Of each row.
    Patterns(Vec<Pattern>),
    List(Vec<String>),
}

impl Plan {
    /// Plans the selected images and proves their names distinct. Tensors that are `unsupported`
    /// give none, and are known to the patterns that choose.
    ///
    /// # Errors
    /// [`Error::Usage`] for options that do not fit the tensors, [`Error::Names`] for a list that does
    /// not, [`Error::Collision`] where two
    /// images would get one name, [`Error::TooLarge`] where sizes leave 32 bits.
    pub fn new(
        dumps: &[Dump],
        tensors: &[TensorInfo],
        unsupported: &[Unsupported],
        selection: &Selection,
        naming: &Naming,
    ) -> Result<Plan, Error> {
        Plan::stacked(dumps, tensors, unsupported, selection, naming, Stack::None)
    }

    /// The same; some images share a file, as `stack` says. Names are of files: a stack's has no index.
    ///
    /// # Errors
    /// The same; [`Error::Usage`] where images cannot be pages of one stack.
    pub fn stacked(
        dumps: &[Dump],
        tensors: &[TensorInfo],
        unsupported: &[Unsupported],
        selection: &Selection,
        naming: &Naming,
        stack: Stack,
    ) -> Result<Plan, Error> {
        let plan =
            Plan::named(dumps, tensors, (unsupported, selection), naming, stack, Index::None)?;
        plan.distinct(dumps, tensors, naming)
    }

    /// The same as [`new`](Plan::new) where no image is written: names may be the same, and not be files'.
    ///
    /// # Errors
    /// The same, but for names.
    pub fn unnamed(
        dumps: &[Dump],
        tensors: &[TensorInfo],
        unsupported: &[Unsupported],
        selection: &Selection,
    ) -> Result<Plan, Error> {
        let (naming, stack) = (Naming::default(), Stack::None);
        Plan::named(dumps, tensors, (unsupported, selection), &naming, stack, Index::None)
    }

    /// The same as [`new`](Plan::new); an image without an index is called by the index 0, so that `{index}`
    /// alone can be the last part of all names.
    ///
    /// # Errors
    /// The same.
    pub fn keyed(
        dumps: &[Dump],
        tensors: &[TensorInfo],
        unsupported: &[Unsupported],
        selection: &Selection,
        naming: &Naming,
    ) -> Result<Plan, Error> {
        let (stack, single) = (Stack::None, Index::Zero);
        let plan = Plan::named(dumps, tensors, (unsupported, selection), naming, stack, single)?;
        plan.distinct(dumps, tensors, naming)
    }

    fn named(
        dumps: &[Dump],
        tensors: &[TensorInfo],
        (unsupported, selection): (&[Unsupported], &Selection),
        naming: &Naming,
        stack: Stack,
        single: Index,
    ) -> Result<Plan, Error> {
        let selected = Selected::new(dumps, tensors, unsupported, selection)?;
        let naming = &stack.usual(naming);
        let names = match naming {
            Naming::Template(template) => {
                let filter = Filter::new(selection)?;
                let fields = filter.fields.as_ref();
                let template = Template::parse(template, fields.map_or(&[], Regex::fields))?;
                let pattern = |row: &Row| {
                    let tensor = &tensors[row.tensor];
                    let stem = &dumps[tensor.dump].stem;
                    let values = fields.map_or_else(Vec::new, |fields| fields.values(&tensor.name));
                    let index = match row.is_indexed() && stack == Stack::None {
                        true => Index::Own,
                        false => single,
                    };
                    template.pattern(stem, &tensor.name, &values, index)
                };
                Names::Patterns(selected.rows().iter().map(pattern).collect())
            }
            Naming::List(list) => {
                let files = stack.files(selected.rows(), selected.images());
                let of = if stack == Stack::None { "image" } else { "stack" };
                Names::List(checked_list(list, files, of)?)
            }
        };
        Ok(Plan { selected, names, stack, cut: None })
    }

    /// It, if each of its files can have its name.
    fn distinct(
        self,
        dumps: &[Dump],
        tensors: &[TensorInfo],
        naming: &Naming,
    ) -> Result<Plan, Error> {
        self.check_names(dumps, tensors)?;
        self.check_one_stack(tensors)?;
        if self.stack == Stack::All {
            return Ok(self);
        }
        if let Some(clash) = distinct::clash(&self) {
            let label = |(row, index): (usize, u64)| self.label(dumps, tensors, row, index);
            return Err(Error::Collision {
                one: label(clash.one),
                other: label(clash.other),
                hint: self.hint(tensors, &self.stack.usual(naming), &clash),
                name: clash.name,
            });
        }
        Ok(self)
    }

    /// The tensors that give images, in the order of the source.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        self.selected.rows()
    }

    /// Number of images.
    #[must_use]
    pub fn images(&self) -> u64 {
        self.selected.images()
    }

    /// The selected tensors that give no image.
    #[must_use]
    pub fn skipped(&self) -> &[Skipped] {
        self.selected.skipped()
    }

    /// What may be a slip in what was asked for, a line each.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        self.selected.notes()
    }

    /// What image number `index` of a row is called: a relative path, `/` between its parts.
    #[must_use]
    pub fn name(&self, row: usize, index: u64) -> String {
        let mut name = String::new();
        self.write_name(row, index, &mut name);
        name
    }

    /// The same, written to `out` in place of what was there.
    pub fn write_name(&self, row: usize, index: u64, out: &mut String) {
        out.clear();
        let row_of = &self.rows()[row];
        match &self.names {
            Names::Patterns(patterns) => patterns[row].write_name(out, |out| {
                row_of.write_index_text(index, out);
            }),
            Names::List(list) => {
                let at = self.stack.file(row, row_of.first_image + index);
                out.push_str(
                    &list[usize::try_from(at).expect("the list holds a name for every file")],
                );
            }
        }
    }

    /// The name of the file that an image is, or is in.
    #[must_use]
    pub fn file(&self, row: usize, index: u64) -> String {
        match (self.tar(), self.in_tar(row, index)) {
            (Some(tar), Some((number, _))) => tar.file(number),
            _ => self.name(row, index),
        }
    }

    /// The names of all files, in the order of the images.
    pub fn names(&self) -> Box<dyn Iterator<Item = String> + '_> {
        if let Some(tar) = self.tar() {
            return Box::new((0..self.tars()).map(|number| tar.file(number)));
        }
        Box::new(self.names_of_rows())
    }

    fn names_of_rows(&self) -> impl Iterator<Item = String> + '_ {
        let rows = if self.stack == Stack::All { 1 } else { usize::MAX };
        (0..self.rows().len().min(rows))
            .flat_map(move |row| (0..self.files_of(row)).map(move |index| self.name(row, index)))
    }

    /// Whether the images of a row are in one folder if the first and the last are: those of a list
    /// may be anywhere.
    #[must_use]
    pub fn has_one_folder_a_row(&self) -> bool {
        self.cut.is_some() || matches!(self.names, Names::Patterns(_))
    }

    fn pattern(&self, row: usize) -> Option<&Pattern> {
        match &self.names {
            Names::List(_) => None,
            Names::Patterns(patterns) => Some(&patterns[row]),
        }
    }

    /// Text that is safe by itself may join to one that is not: `co` + `n`, `com` + index 1.
    ///
    /// All names of a row are of one length, as indices are zero-padded, and only an index of one
    /// digit can end the name of a device, so that the first ten stand for all. A list was checked.
    fn check_names(&self, dumps: &[Dump], tensors: &[TensorInfo]) -> Result<(), Error> {
        if matches!(self.names, Names::List(_)) {
            return Ok(());
        }
        for row in 0..self.rows().len() {
            for index in 0..self.files_of(row).min(10) {
                let name = self.name(row, index);
                check_path(&name).map_err(|problem| {
                    Error::Usage(format!(
                        "{} would be called {}: {problem}; another --name helps",
                        shown(&self.label(dumps, tensors, row, index)),
                        shown(&name)
                    ))
                })?;
            }
        }
        Ok(())
    }

    fn hint(&self, tensors: &[TensorInfo], naming: &Naming, clash: &Clash) -> &'static str {
        let names = [clash.one, clash.other].map(|(row, index)| self.name(row, index));
        if !distinct::is_one_name(&names[0], &names[1]) {
            return "; the second needs a folder of that name";
        }
        let Naming::Template(template) = naming else {
            return if names[0] == names[1] {
                "; the same name is given twice"
            } else {
                "; names are compared without regard to case"
            };
        };
        let [one, other] = [clash.one, clash.other].map(|(row, _)| self.rows()[row].tensor);
        if tensors[one].dump != tensors[other].dump {
            return if template.contains("{stem}") {
                "; give the inputs different names"
            } else {
                "; give the inputs different names or use {stem} in --name"
            };
        }
        match one == other {
            true => "; use {index} in --name",
            false if !template.contains("{tensor}") => "; use {tensor} in --name",
            false if tensors[one].name == tensors[other].name => {
                "; the source has two tensors of this name; --names-from gives every image a name"
            }
            false => {
                "; names that differ in case only meet on some disks; leave one out with \
                 --exclude, or give every image its name with --names-from"
            }
        }
    }

    fn label(&self, dumps: &[Dump], tensors: &[TensorInfo], row: usize, index: u64) -> String {
        let shape = &self.rows()[row];
        let tensor = &tensors[shape.tensor];
        let indices = shape.indices(index);
        let place = indices.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
        let place = if indices.is_empty() { place } else { format!("[{place}]") };
        format!("{}: tensor {}{place}", dumps[tensor.dump].label, tensor.name)
    }
}

/// The names of a list, made whole and found safe.
fn checked_list(list: &[String], images: u64, of: &str) -> Result<Vec<String>, Error> {
    let names = list.len() as u64;
    if names != images {
        let first = match usize::try_from(images).ok().and_then(|images| list.get(images)) {
            Some(blank) if blank.trim().is_empty() => {
                format!("the first surplus one, number {}, is empty", images + 1)
            }
            Some(surplus) => format!("first surplus: number {}, {}", images + 1, shown(surplus)),
            None => format!("first missing: number {}", names + 1),
        };
        let [given, needed] = [(names, "name"), (images, of)]
            .map(|(count, what)| format!("{count} {what}{}", if count == 1 { "" } else { "s" }));
        return Err(Error::Names(format!("{given} for {needed} ({first})")));
    }
    let named = |(i, name): (usize, &String)| {
        let whole = whole_name(name);
        let problem = match name.as_str() {
            "" => Err("it is empty"),
            folder if folder.ends_with('/') => Err("it has an empty part after the last /"),
            _ => check_path(&whole),
        };
        problem.map(|()| whole.into_owned()).map_err(|problem| {
            Error::Names(format!("name number {}, {}: {problem}", i + 1, shown(name)))
        })
    };
    list.iter().enumerate().map(named).collect()
}

/// A name of a list as its file has it, with an extension.
pub(crate) fn whole_name(name: &str) -> Cow<'_, str> {
    let lower = name.to_ascii_lowercase();
    match lower.ends_with(".tif") || lower.ends_with(".tiff") {
        true => Cow::from(name),
        false => Cow::from(format!("{name}.tif")),
    }
}

/// Whether a path that the user wrote stays in the output folder on every system.
fn check_path(path: &str) -> Result<(), &'static str> {
    let drive = path.as_bytes().get(1) == Some(&b':');
    if path.starts_with('/') || drive {
        return Err("names are relative to the output folder");
    }
    if path.contains('\\') {
        return Err("write / between folders; names hold no \\");
    }
    // On Windows, what follows is a hidden stream of the file before it.
    if path.contains(':') {
        return Err("names hold no :");
    }
    if path.chars().any(char::is_control) {
        return Err("it holds a control character");
    }
    if path.len() > LONGEST_NAME || path.split('/').any(|part| part.len() > LONGEST_PART) {
        return Err("it is too long for a file");
    }
    for part in path.split('/') {
        match part {
            "" => return Err("it has an empty part between two /"),
            "." | ".." => return Err("names hold no . or .. as a part"),
            _ if part.ends_with(['.', ' ']) => {
                return Err("it has a part that ends in a dot or a space, which Windows drops");
            }
            _ if escape::is_reserved(part) => return Err("the name is a device on Windows"),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Dtype;

    /// Number of the dump, name, shape.
    type Tensor<'a> = (usize, &'a str, &'a [u64]);

    fn plan(tensors: &[Tensor<'_>], template: &str) -> Result<Plan, Error> {
        let stems = [("d.safetensors", "d"), ("x/d.safetensors", "d")];
        let dumps = stems.map(|(label, stem)| Dump { label: label.into(), stem: stem.into() });
        let tensors = tensors.iter().map(|&(dump, name, shape)| {
            TensorInfo::new(name.to_owned(), dump, Dtype::F32, shape.to_vec())
        });
        let naming = Naming::Template(template.to_owned());
        Plan::new(&dumps, &tensors.collect::<Vec<_>>(), &[], &Selection::default(), &naming)
    }

    #[test]
    fn parts_that_are_safe_alone_are_looked_at_once_joined() {
        let cases: [(&str, &[u64], &str, &str); 6] = [
            ("n", &[2, 2], "co{tensor}.tif", "Windows"),
            ("t", &[10, 2, 2], "COM{index}.tif", "Windows"),
            ("t", &[2, 2], "..{index}/{tensor}.tif", "ends in a dot"),
            ("t", &[2, 2], "...{index}/{tensor}.tif", "ends in a dot"),
            (&"y".repeat(199), &[2, 2], "{tensor}{tensor}.tif", "too long"),
            (&"a/".repeat(2000), &[2, 2], "{tensor}.tif", "too long"),
        ];
        for (name, shape, template, part) in cases {
            let error = plan(&[(0, name, shape)], template).unwrap_err();
            assert!(error.is_usage() && error.to_string().contains(part), "{template}: {error}");
        }
        assert!(plan(&[(0, "t", &[11, 2, 2])], "COM{index}.tif").is_ok());
    }

    #[test]
    fn a_collision_says_what_would_tell_the_images_apart() {
        let cases: [(&[Tensor<'_>], &str, &str); 6] = [
            (&[(0, "a", &[2, 2]), (1, "a", &[2, 2])], Naming::DEFAULT, "different names"),
            (&[(0, "a", &[2, 2]), (1, "a", &[2, 2])], "{tensor}.tif", "use {stem}"),
            (&[(0, "a", &[3, 2, 2])], "{tensor}.tif", "use {index}"),
            (&[(0, "a", &[2, 2]), (0, "b", &[2, 2])], "{stem}.tif", "use {tensor}"),
            (&[(0, "a", &[2, 2]), (0, "A", &[2, 2])], Naming::DEFAULT, "case"),
            (&[(0, "a/0", &[2, 2]), (0, "a", &[3, 4, 2, 2])], "{tensor}.tif", "use {index}"),
        ];
        for (tensors, template, part) in cases {
            let error = plan(tensors, template).unwrap_err();
            assert!(matches!(error, Error::Collision { .. }), "{error}");
            assert!(error.to_string().contains(part), "{template}: {error}");
        }
        let two = plan(&[(0, "a", &[3, 4, 2, 2])], "{tensor}.tif").unwrap_err().to_string();
        assert!(
            two.contains("d.safetensors: tensor a[0,0] and d.safetensors: tensor a[0,1]"),
            "{two}"
        );
    }

    #[test]
    fn names_of_a_list_that_meet_are_told_by_how_they_meet() {
        let dump = [Dump { label: "d".into(), stem: "d".into() }];
        let tensor = [TensorInfo::new("t".to_owned(), 0, Dtype::F32, vec![3, 2, 2])];
        let cases = [
            (["a", "x", "a.tif"], "the same name is given twice"),
            (["a", "x", "A"], "without regard to case"),
            (["a", "x", "a.tif/b"], "a folder of that name"),
            (["A.tif/b", "x", "a"], "a folder of that name"),
            (["a.tif/b/c", "x", "a"], "a folder of that name"),
        ];
        for (names, part) in cases {
            let list = Naming::List(names.map(str::to_owned).to_vec());
            let error = Plan::new(&dump, &tensor, &[], &Selection::default(), &list).unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, Error::Collision { .. }) && text.contains(part), "{text}");
            let other = ["twice", "regard to case", "a folder"].map(|hint| text.contains(hint));
            assert_eq!(other.iter().filter(|told| **told).count(), 1, "one reason: {text}");
        }
        let two = [("d/x", &[2_u64, 2][..]), ("d/x.tif/y", &[2, 2])];
        let two: Vec<Tensor<'_>> = two.iter().map(|&(name, shape)| (0, name, shape)).collect();
        let text = plan(&two, "{tensor}.tif").unwrap_err().to_string();
        assert!(text.contains("a folder of that name") && !text.contains("case"), "{text}");
    }
}
