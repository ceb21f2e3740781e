//! Which images share a file.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use super::{Naming, Plan, Row};
use crate::error::{Error, shown};
use crate::tensor::TensorInfo;

/// Which images share a file, as its pages.
///
/// ```
/// use tensortiff::Stack;
/// assert_eq!("tensor".parse(), Ok(Stack::Tensor));
/// assert_eq!(Stack::default().to_string(), "none");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stack {
    /// None: each has its own.
    #[default]
    None,
    /// Those of a tensor.
    Tensor,
    /// All of the run, which are of one size.
    All,
}

const ALL: [(&str, Stack); 3] =
    [("none", Stack::None), ("tensor", Stack::Tensor), ("all", Stack::All)];

impl FromStr for Stack {
    type Err = String;

    fn from_str(text: &str) -> Result<Stack, String> {
        let found = ALL.iter().find(|(name, _)| *name == text);
        found
            .map(|(_, stack)| *stack)
            .ok_or_else(|| format!("--stack {}: it is none, tensor or all", shown(text)))
    }
}

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, _) = ALL.iter().find(|(_, stack)| stack == self).expect("each has a name");
        f.write_str(name)
    }
}

/// An image's place among the stacks, or tars, of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// Number of the stack, or the tar.
    pub stack: usize,
    /// Number of the page, or the member, in it, from 0 on.
    pub page: u64,
    /// How many of them it has.
    pub pages: u64,
}

impl Stack {
    /// What images are called where nothing else is asked for: a stack of all has no tensor's name.
    pub(super) fn usual(self, naming: &Naming) -> Naming {
        match naming {
            Naming::Template(template) if self == Stack::All && template == Naming::DEFAULT => {
                Naming::Template("{stem}.tif".to_owned())
            }
            naming => naming.clone(),
        }
    }

    /// How many files there are of so many rows and images.
    pub(super) fn files(self, rows: &[Row], images: u64) -> u64 {
        match self {
            Stack::None => images,
            Stack::Tensor => rows.len() as u64,
            Stack::All => u64::from(!rows.is_empty()),
        }
    }

    /// The number of the file that an image is in.
    pub(super) fn file(self, row: usize, image: u64) -> u64 {
        match self {
            Stack::None => image,
            Stack::Tensor => row as u64,
            Stack::All => 0,
        }
    }
}

impl Plan {
    /// Which images share a file.
    #[must_use]
    pub fn stack(&self) -> Stack {
        self.stack
    }

    /// The rows whose images are a stack's pages, stack by stack; none where each image is a file.
    pub fn stacks(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let rows = self.rows().len();
        let (stacks, each) = match self.stack {
            Stack::None => (0, 0),
            Stack::Tensor => (rows, 1),
            Stack::All => (rows.min(1), rows),
        };
        (0..stacks).map(move |stack| stack * each..(stack + 1) * each)
    }

    /// The page of a stack, or the member of a tar, that an image is; `None` where it is a file of its own.
    #[must_use]
    pub fn page(&self, row: usize, index: u64) -> Option<Page> {
        let of = &self.rows()[row];
        match self.stack {
            Stack::None => self.tar_page(row, index),
            Stack::Tensor => Some(Page { stack: row, page: index, pages: of.images }),
            Stack::All => {
                Some(Page { stack: 0, page: of.first_image + index, pages: self.images() })
            }
        }
    }

    /// The row of a stack's first page.
    #[must_use]
    pub fn first_of(&self, stack: usize) -> usize {
        if self.stack == Stack::Tensor { stack } else { 0 }
    }

    /// How many files a row's images are in, of which none is another row's but where all share one.
    pub(super) fn files_of(&self, row: usize) -> u64 {
        if self.stack == Stack::None { self.rows()[row].images } else { 1 }
    }

    /// Fails where the images of one stack could not be its pages, or it would have several names.
    pub(super) fn check_one_stack(&self, tensors: &[TensorInfo]) -> Result<(), Error> {
        let Some(first) = self.rows().first().filter(|_| self.stack == Stack::All) else {
            return Ok(());
        };
        let name = self.name(0, 0);
        for (at, row) in self.rows().iter().enumerate().skip(1) {
            let of = |row: &Row| {
                let tensor = shown(&tensors[row.tensor].name);
                format!("{}×{} of tensor {tensor}", row.height, row.width)
            };
            if [row.height, row.width] != [first.height, first.width] {
                return Err(Error::Usage(format!(
                    "--stack all: pages of a stack have one size, and here are {} and {}; --tensor takes \
                     some tensors, --stack tensor makes a stack of each",
                    of(first),
                    of(row)
                )));
            }
            let other = self.name(at, 0);
            if name != other {
                return Err(Error::Usage(format!(
                    "--stack all: the one stack would be called both {} and {}; --name NAME.tif gives \
                     it one name",
                    shown(&name),
                    shown(&other)
                )));
            }
        }
        Ok(())
    }
}
