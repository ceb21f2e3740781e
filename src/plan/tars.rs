//! Which images are members of one tar, and where in it they lie.

use std::fmt;
use std::ops::Range;

use super::{Names, Page, Plan};
use crate::error::{Error, shown};

/// A tar that images go to, or numbered ones of about a size.
///
/// ```
/// use tensortiff::Tar;
/// let one = Tar::new("out.tar", None).unwrap();
/// assert_eq!(one.file(0), "out.tar");
/// let numbered = Tar::new("out.tar", Some(1 << 30)).unwrap();
/// assert_eq!(numbered.file(12), "out-000012.tar");
/// assert!(Tar::new("../out.tar", None).is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tar {
    stem: String,
    size: Option<u64>,
    streamed: bool,
}

const EXTENSION: &str = ".tar";
/// What the name of its manifest ends with, where none other is given.
const MANIFEST: &str = ".manifest.jsonl";

impl Tar {
    /// The tar called `name` in the sink's place; with a size the tars `NAME-000000.tar` and so on, none of
    /// which has more bytes, unless one image has.
    ///
    /// # Errors
    /// What is wrong with the name or the size, in one line.
    pub fn new(name: &str, size: Option<u64>) -> Result<Tar, String> {
        let wrong = |problem| Err(format!("{}: {problem}", shown(name)));
        let Some(stem) = name.strip_suffix(EXTENSION).filter(|stem| !stem.is_empty()) else {
            return wrong("a tar's name ends in .tar");
        };
        if name.contains('/') {
            return wrong("a tar is in the output folder itself");
        }
        if let Err(problem) = super::check_path(name) {
            return wrong(problem);
        }
        let longest = stem.len() + MANIFEST.len().max("-18446744073709551615.tar".len());
        if longest > super::LONGEST_PART {
            return wrong("it is too long: its manifest's name is longer");
        }
        if size == Some(0) {
            return wrong("a tar of 0 bytes has no image");
        }
        Ok(Tar { stem: stem.to_owned(), size, streamed: false })
    }

    /// The same, written nearly in order, so that it can go where nothing can be sought
    /// ([`StreamSink`](crate::StreamSink)).
    #[must_use]
    pub fn streamed(self) -> Tar {
        Tar { streamed: true, ..self }
    }

    /// Whether it is.
    #[must_use]
    pub fn is_streamed(&self) -> bool {
        self.streamed
    }

    /// What tar number `number` is called, from 0 on.
    #[must_use]
    pub fn file(&self, number: u64) -> String {
        let Tar { stem, size, .. } = self;
        match size {
            None => format!("{stem}{EXTENSION}"),
            Some(_) => format!("{stem}-{number:06}{EXTENSION}"),
        }
    }

    /// The number of the tar that is called so; `None` if none of them can be.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        let rest =
            name.strip_prefix(self.stem.as_str()).and_then(|rest| rest.strip_suffix(EXTENSION));
        match self.size {
            None => (rest == Some("")).then_some(0),
            Some(_) => {
                let number = rest?.strip_prefix('-')?.parse().ok()?;
                (self.file(number) == name).then_some(number)
            }
        }
    }

    /// Most bytes of a numbered one; `None` where there is one tar.
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// As a record has it: the name, and the size if there is one.
    pub(crate) fn texts(&self) -> Vec<String> {
        std::iter::once(self.to_string()).chain(self.size.map(|size| size.to_string())).collect()
    }

    /// What [`texts`](Tar::texts) gave.
    pub(crate) fn of(texts: &[String]) -> Result<Tar, String> {
        let wrong = || format!("{} are no tar's name and size", shown(&texts.join(" ")));
        let (name, size) = match texts {
            [name] => (name, None),
            [name, size] => (name, Some(size.parse().map_err(|_| wrong())?)),
            _ => return Err(wrong()),
        };
        Tar::new(name, size)
    }

    /// What its manifest is called that lies beside it.
    #[must_use]
    pub fn manifest(&self) -> String {
        format!("{}{MANIFEST}", self.stem)
    }
}

impl fmt::Display for Tar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{EXTENSION}", self.stem)
    }
}

/// Where members lie in tars.
#[derive(Debug)]
pub(super) struct Cut {
    pub(super) tar: Tar,
    rows: Vec<CutRow>,
    /// Bytes behind the last member of a tar.
    end: u64,
    tars: u64,
}

/// Members of one length.
#[derive(Debug, Clone, Copy)]
struct CutRow {
    /// Number of the tar that its first image is in, where it lies there, how many of the row do.
    tar: u64,
    at: u64,
    first: u64,
    /// Bytes of a member, and how many each tar after that has.
    each: u64,
    per: u64,
    images: u64,
}

impl CutRow {
    /// The number of the tar that an image is in, and where it lies.
    fn place(&self, index: u64) -> (u64, u64) {
        match index.checked_sub(self.first) {
            None => (self.tar, self.at + index * self.each),
            Some(behind) => (self.tar + 1 + behind / self.per, behind % self.per * self.each),
        }
    }

    /// Its images in a tar that it has reached.
    fn images(&self, tar: u64) -> Range<u64> {
        let begin = match tar.checked_sub(self.tar + 1) {
            None => 0,
            Some(behind) => self.first.saturating_add(behind.saturating_mul(self.per)),
        };
        let most = if tar <= self.tar { self.first } else { self.per };
        begin.min(self.images)..begin.saturating_add(most).min(self.images)
    }
}

impl Cut {
    /// Of rows of so many images, of so many bytes with all that belongs to a member; `None` where they are
    /// more than files can hold.
    fn new(tar: &Tar, rows: impl Iterator<Item = (u64, u64)>, end: u64) -> Option<Cut> {
        let most = tar.size.map_or(u64::MAX, |size| size.saturating_sub(end).max(1));
        let mut cut = Cut { tar: tar.clone(), rows: Vec::new(), end, tars: 0 };
        let (mut number, mut used) = (0, 0_u64);
        for (images, each) in rows {
            let per = (most / each).max(1);
            let mut fit = most.saturating_sub(used) / each;
            if fit == 0 {
                number += u64::from(used > 0);
                (used, fit) = (0, per);
            }
            let first = fit.min(images);
            cut.rows.push(CutRow { tar: number, at: used, first, each, per, images });
            let left = images - first;
            if left == 0 {
                used = used.checked_add(first.checked_mul(each)?)?;
            } else {
                let full = (left - 1) / per;
                number += 1 + full;
                used = (left - full * per).checked_mul(each)?;
            }
            i64::try_from(used.checked_add(end)?).ok()?;
        }
        // One that is full in the middle of a row has as much as the limit, or one image.
        cut.rows.iter().try_for_each(|row| {
            let most = row
                .at
                .checked_add(row.first.max(row.per.min(row.images)).checked_mul(row.each)?)?;
            i64::try_from(most.checked_add(end)?).ok().map(drop)
        })?;
        cut.tars = if cut.rows.is_empty() { 0 } else { number + 1 };
        Some(cut)
    }

    /// The last row that has an image in a tar.
    fn last_row(&self, tar: u64) -> &CutRow {
        &self.rows[self.rows.partition_point(|row| row.tar <= tar) - 1]
    }

    fn len(&self, tar: u64) -> u64 {
        let row = self.last_row(tar);
        let images = row.images(tar);
        let at = if tar == row.tar { row.at } else { 0 };
        at + (images.end - images.start) * row.each + self.end
    }
}

/// A tar of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TarFile {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub len: u64,
    /// Numbers of its images among all.
    pub images: Range<u64>,
}

impl Plan {
    /// The same images as members of tars. `bytes` says how many an image of a row takes there with all that
    /// belongs to it, `end` how many every tar ends with.
    ///
    /// # Errors
    /// [`Error::Usage`] for names of which several are one key; [`Error::TooLarge`] is the caller's to tell
    /// where this is `None`.
    pub fn in_tars(
        mut self,
        tar: &Tar,
        mut bytes: impl FnMut(usize) -> u64,
        end: u64,
    ) -> Result<Option<Plan>, Error> {
        self.check_keys()?;
        let rows = self.rows().iter().enumerate().map(|(at, row)| (row.images, bytes(at)));
        self.cut = Cut::new(tar, rows, end);
        Ok(self.cut.is_some().then_some(self))
    }

    /// The tars that images are members of; `None` where they are files of their own.
    #[must_use]
    pub fn tar(&self) -> Option<&Tar> {
        self.cut.as_ref().map(|cut| &cut.tar)
    }

    /// How many tars there are.
    #[must_use]
    pub fn tars(&self) -> u64 {
        self.cut.as_ref().map_or(0, |cut| cut.tars)
    }

    /// A tar by its number.
    ///
    /// # Panics
    /// Where the plan has no such tar.
    #[must_use]
    pub fn tar_file(&self, number: u64) -> TarFile {
        let cut = self.cut.as_ref().filter(|cut| number < cut.tars).expect("the plan has the tar");
        let images = self.images_in(cut, number);
        TarFile { name: cut.tar.file(number), len: cut.len(number), images }
    }

    fn images_in(&self, cut: &Cut, tar: u64) -> Range<u64> {
        let end = if tar + 1 < cut.tars { self.first_in(cut, tar + 1) } else { self.images() };
        self.first_in(cut, tar)..end
    }

    /// The number of the first image in a tar.
    fn first_in(&self, cut: &Cut, tar: u64) -> u64 {
        let reaches = |row: &CutRow| row.place(row.images - 1).0 >= tar;
        let at = cut.rows.partition_point(|row| !reaches(row));
        self.rows()[at].first_image + cut.rows[at].images(tar).start
    }

    /// The tar that an image is in, by its number, and where its member begins there.
    #[must_use]
    pub fn in_tar(&self, row: usize, index: u64) -> Option<(u64, u64)> {
        Some(self.cut.as_ref()?.rows[row].place(index))
    }

    /// The image, as row and index, in whose member a byte of a tar is; `None` behind the last one.
    #[must_use]
    pub fn member_at(&self, tar: u64, byte: u64) -> Option<(usize, u64)> {
        let cut = self.cut.as_ref()?;
        let begins = |row: &CutRow| (row.tar, row.at) <= (tar, byte);
        let at = cut.rows.partition_point(begins).checked_sub(1)?;
        let row = &cut.rows[at];
        let images = row.images(tar);
        let begin = if tar == row.tar { row.at } else { 0 };
        let index = images.start + byte.checked_sub(begin)? / row.each;
        images.contains(&index).then_some((at, index))
    }

    pub(super) fn tar_page(&self, row: usize, index: u64) -> Option<Page> {
        let (tar, _) = self.in_tar(row, index)?;
        let images = self.images_in(self.cut.as_ref()?, tar);
        Some(Page {
            stack: usize::try_from(tar).unwrap_or(usize::MAX),
            page: self.rows()[row].first_image + index - images.start,
            pages: images.end - images.start,
        })
    }

    /// Fails where several images would be one sample of `WebDataset`, whose keys end at the first dot behind
    /// the last `/`.
    fn check_keys(&self) -> Result<(), Error> {
        let rows = self.rows().iter().enumerate();
        let names: Box<dyn Iterator<Item = String>> = match &self.names {
            // Dots do not come from an index.
            Names::Patterns(_) => Box::new(rows.map(|(at, _)| self.name(at, 0))),
            Names::List(list) => Box::new(list.iter().cloned()),
        };
        let leaf = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
        let mut extension = None;
        for name in names {
            // What `WebDataset` leaves out as a tar's own.
            let is_meta = name.strip_prefix("__").and_then(|rest| rest.split_once('/'));
            if is_meta.is_some_and(|(folder, _)| folder.ends_with("__")) {
                return Err(Error::Usage(format!(
                    "an image would be called {}: in a tar no name begins with a folder like __this__, which \
                     WebDataset leaves out; another --name helps",
                    shown(&name)
                )));
            }
            let leaf = leaf(&name);
            let Some((key, own)) = leaf.split_once('.') else { continue };
            if own.contains('.') || key.is_empty() {
                return Err(Error::Usage(format!(
                    "an image would be called {}: in a tar names have one dot behind the last /, as the \
                     keys of WebDataset end at the first; --name '{{stem}}/{{tensor}}/{{index}}.tif' helps",
                    shown(&name)
                )));
            }
            if *extension.get_or_insert_with(|| own.to_owned()) != own {
                return Err(Error::Usage(format!(
                    "an image would be called {}, and others end otherwise: in a tar all end alike, as \
                     the keys of WebDataset have no extension",
                    shown(&name)
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against a loop that puts members into tars one by one.
    #[test]
    fn members_lie_where_one_after_the_other_puts_them() {
        let rows_of: [&[(u64, u64)]; 6] = [
            &[(1, 7)],
            &[(5, 7), (3, 2), (1, 40), (4, 1)],
            &[(1, 100), (1, 100), (7, 3)],
            &[(20, 1), (20, 2), (20, 3)],
            &[(3, 10), (3, 11), (3, 9), (3, 10)],
            &[],
        ];
        for rows in rows_of {
            for size in [None, Some(1), Some(5), Some(9), Some(10), Some(14), Some(33), Some(1000)]
            {
                let tar = Tar::new("t.tar", size).unwrap();
                let cut = Cut::new(&tar, rows.iter().copied(), 4).unwrap();
                let (mut number, mut used, mut lens) = (0_u64, 0, Vec::new());
                for (row, &(images, each)) in rows.iter().enumerate() {
                    for index in 0..images {
                        if used > 0 && size.is_some_and(|size| used + each + 4 > size) {
                            lens.push(used + 4);
                            (number, used) = (number + 1, 0);
                        }
                        assert_eq!(cut.rows[row].place(index), (number, used), "{rows:?} {size:?}");
                        assert!(cut.rows[row].images(number).contains(&index));
                        used += each;
                    }
                }
                lens.extend((used > 0).then_some(used + 4));
                assert_eq!(cut.tars, lens.len() as u64, "{rows:?} {size:?}");
                let found: Vec<u64> = (0..cut.tars).map(|tar| cut.len(tar)).collect();
                assert_eq!(found, lens, "{rows:?} {size:?}");
            }
        }
        let tar = Tar::new("t.tar", None).unwrap();
        for (images, each) in [(1 << 40, 1 << 30), (u64::MAX, 2), (1, u64::MAX)] {
            assert!(Cut::new(&tar, [(images, each)].into_iter(), 4).is_none());
            assert!(Cut::new(&tar, [(1, 1), (images, each)].into_iter(), 4).is_none());
        }
    }

    #[test]
    fn names_of_tars_are_told_from_others() {
        let numbered = Tar::new("a-b.tar", Some(9)).unwrap();
        for (name, is) in [
            ("a-b-000000.tar", true),
            ("a-b-1234567.tar", true),
            ("a-b-0000007.tar", false),
            ("a-b-+00007.tar", false),
            ("a-b-00000.tar", false),
            ("a-b-00000x.tar", false),
            ("a-b.tar", false),
            ("a-b-000000.tar.gz", false),
            ("x-000000.tar", false),
        ] {
            assert_eq!(numbered.number(name).is_some(), is, "{name}");
        }
        assert_eq!(numbered.number("a-b-000012.tar"), Some(12));
        assert_eq!(Tar::new("a-b.tar", None).unwrap().number("a-b.tar"), Some(0));
        for wrong in ["a", ".tar", "a/b.tar", "/a.tar", "con.tar", "a\n.tar"] {
            assert!(Tar::new(wrong, None).is_err(), "{wrong}");
        }
        assert!(Tar::new("a.tar", Some(0)).is_err());
        let long = |len: usize| Tar::new(&format!("{}.tar", "x".repeat(len)), None);
        assert!(long(230).is_ok() && long(231).is_err());
    }
}
