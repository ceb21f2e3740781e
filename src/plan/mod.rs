//! The second stage: which images there are, where their bytes lie, and what they are called.
//!
//! A plan is a pure function of the tensors and the options; it reads nothing and writes nothing.
//! It holds one [`Row`] a tensor and works out image *i* of a row when asked, so that ten million
//! images cost no memory. Whatever is wrong with names is found here, before any work.

mod distinct;
mod escape;
mod glob;
mod select;
mod template;

use std::borrow::Cow;

pub use select::{Filter, Row, Selected, Selection, SkipReason, Skipped};

use crate::error::{Error, shown};
use crate::tensor::{Dump, TensorInfo};
use template::{Pattern, Template};

/// Longest name of an image, in bytes: below what systems take as a path.
const LONGEST_NAME: usize = 4000;
/// Longest part between two `/`, in bytes: what file systems take.
const LONGEST_PART: usize = 255;

/// What images are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Naming {
    /// By a template with the fields `{stem}`, `{tensor}` and `{index}`.
    Template(String),
    /// One name an image, in the order of the plan; `.tif` is added where it is missing.
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
    /// `{stem}` and `{tensor}` of each row.
    fields: Vec<(String, String)>,
}

#[derive(Debug)]
enum Names {
    Template(Template),
    List(Vec<String>),
}

impl Plan {
    /// Plans the selected images and proves their names distinct.
    ///
    /// # Errors
    /// [`Error::Usage`] for options that do not fit the tensors, [`Error::Collision`] where two
    /// images would get one name, [`Error::TooLarge`] where sizes leave 32 bits.
    pub fn new(
        dumps: &[Dump],
        tensors: &[TensorInfo],
        selection: &Selection,
        naming: &Naming,
    ) -> Result<Plan, Error> {
        let selected = Selected::new(dumps, tensors, selection)?;
        let names = match naming {
            Naming::Template(template) => Names::Template(Template::parse(template)?),
            Naming::List(list) => Names::List(checked_list(list, selected.images())?),
        };
        let fields = selected.rows().iter().map(|row| {
            let tensor = &tensors[row.tensor];
            (dumps[tensor.dump].stem.clone(), tensor.name.clone())
        });
        let fields = fields.collect();
        let plan = Plan { selected, names, fields };
        plan.check_lengths()?;
        if let Some(clash) = distinct::clash(&plan) {
            let label = |(row, index): (usize, u64)| plan.label(dumps, tensors, row, index);
            return Err(Error::Collision {
                one: label(clash.one),
                other: label(clash.other),
                name: clash.name,
                hint: match naming {
                    Naming::Template(_) => {
                        "; {stem}, {tensor} and {index} together tell images apart"
                    }
                    Naming::List(_) => "; names are compared without regard to case",
                },
            });
        }
        Ok(plan)
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

    /// What image number `index` of a row is called: a relative path, `/` between its parts.
    #[must_use]
    pub fn name(&self, row: usize, index: u64) -> String {
        match &self.names {
            Names::Template(template) => {
                let (stem, tensor) = &self.fields[row];
                let shape = &self.rows()[row];
                template.pattern(stem, tensor, shape.is_indexed()).name(&shape.index_text(index))
            }
            Names::List(list) => {
                let at = self.rows()[row].first_image + index;
                list[usize::try_from(at).expect("the list holds a name for every image")].clone()
            }
        }
    }

    /// All names, row by row.
    pub fn names(&self) -> impl Iterator<Item = String> + '_ {
        (0..self.rows().len()).flat_map(move |row| {
            (0..self.rows()[row].images).map(move |index| self.name(row, index))
        })
    }

    fn pattern(&self, row: usize) -> Option<Pattern> {
        match &self.names {
            Names::List(_) => None,
            Names::Template(template) => {
                let (stem, tensor) = &self.fields[row];
                Some(template.pattern(stem, tensor, self.rows()[row].is_indexed()))
            }
        }
    }

    /// All names of a row are of one length, as indices are zero-padded; a list was checked.
    fn check_lengths(&self) -> Result<(), Error> {
        if matches!(self.names, Names::List(_)) {
            return Ok(());
        }
        for row in 0..self.rows().len() {
            let name = self.name(row, 0);
            if name.len() > LONGEST_NAME || name.split('/').any(|part| part.len() > LONGEST_PART) {
                return Err(Error::Usage(format!(
                    "the name {} is too long for a file; a shorter --name helps",
                    shown(&name)
                )));
            }
        }
        Ok(())
    }

    fn label(&self, dumps: &[Dump], tensors: &[TensorInfo], row: usize, index: u64) -> String {
        let shape = &self.rows()[row];
        let tensor = &tensors[shape.tensor];
        let indices = shape.indices(index);
        let place = if indices.is_empty() { String::new() } else { format!("{indices:?}") };
        format!("{}: tensor {}{place}", dumps[tensor.dump].label, tensor.name)
    }
}

/// The names of a list, made whole and found safe.
fn checked_list(list: &[String], images: u64) -> Result<Vec<String>, Error> {
    if list.len() as u64 != images {
        return Err(Error::Usage(format!(
            "the list holds {} names, but there are {images} images",
            list.len()
        )));
    }
    let named = |(i, name): (usize, &String)| {
        let lower = name.to_ascii_lowercase();
        let name = if lower.ends_with(".tif") || lower.ends_with(".tiff") {
            Cow::from(name)
        } else {
            Cow::from(format!("{name}.tif"))
        };
        let problem = if lower.is_empty() { Err("it is empty") } else { check_path(&name) };
        match problem {
            Ok(()) => Ok(name.into_owned()),
            Err(problem) => Err(Error::Usage(format!(
                "name {} of the list, {}: {problem}",
                i + 1,
                shown(&name)
            ))),
        }
    };
    list.iter().enumerate().map(named).collect()
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
            _ if escape::is_reserved(part) => return Err("the name is a device on Windows"),
            _ => {}
        }
    }
    Ok(())
}
