//! A file of many pages of one size: where each page's directory and pixels lie is a function of the plan
//! alone, so that all threads write at once.
//!
//! ```text
//! file header | page 0: directory, tag values | page 1: … | … | zeros | pixels of page 0 | of page 1 | …
//! ```
//! Pixels follow each other without a gap: ImageJ reads the first directory alone, and takes the pages to
//! lie so (`images=N` in its text).

use std::ops::Range;

use super::description::Shown;
use super::encoding::{BigTiff, Profile};
use super::header::{ALIGN, Header, Kind, Layout, SMALL, SMALL_ALIGN, Subject};
use super::strips::Strips;
use crate::normalize::{Extent, Range as ValueRange};

/// Where the pages of a stack lie in its file.
#[derive(Debug, Clone)]
pub struct StackFile {
    kind: Kind,
    strips: Strips,
    rows: Vec<Row>,
    pages: u64,
    /// Where the second page's directory begins: the first page says more than others.
    second: u64,
    /// Where the first page's pixels begin.
    pixels: u64,
    len: u64,
}

/// Pages of one tensor, whose directories are of one length.
#[derive(Debug, Clone, Copy)]
struct Row {
    /// Pages before.
    first: u64,
    /// Where the directory of its first page begins, as long as the others.
    at: u64,
    each: u64,
}

impl StackFile {
    /// Of the images of some rows, of which all are of one size: what they are, and how many.
    ///
    /// # Errors
    /// Why they fit no file, in one line without a subject.
    pub fn new<'s>(
        rows: &mut dyn Iterator<Item = (Subject<'s>, u64)>,
    ) -> Result<StackFile, String> {
        let rows: Vec<_> = rows.collect();
        let Some((first, _)) = rows.first() else {
            return Err("a stack of no images has no file".to_owned());
        };
        let encoding = *first.encoding;
        if encoding.is_packed() || encoding.profile == Profile::Gis {
            return Err("pages of a stack are stored as they are".to_owned());
        }
        if let Some((other, _)) = rows.iter().find(|(other, _)| other.size != first.size) {
            let [one, other] = [first.size, other.size].map(|(w, h)| format!("{h}×{w}"));
            return Err(format!("pages of a stack have one size, not {one} and {other}"));
        }
        let (width, height) = first.size;
        let pages = rows.iter().try_fold(0_u64, |sum, (_, images)| sum.checked_add(*images));
        let told = || match pages {
            Some(pages) => format!("a stack of {pages} pages of {width}×{height} float pixels"),
            None => "a stack of so many pages".to_owned(),
        };
        let unfit = |_| format!("{} does not fit any TIFF file", told());
        let strips = Strips::new(first.size, &encoding).map_err(unfit)?;
        let of = |kind| StackFile::of_kind(kind, strips, &rows, pages?);
        let found = match encoding.bigtiff {
            BigTiff::Yes => of(Kind::Big),
            BigTiff::Auto => of(Kind::Classic).or_else(|| of(Kind::Big)),
            BigTiff::No => {
                return of(Kind::Classic).ok_or_else(|| {
                    format!(
                        "{} does not fit a classic TIFF file, which ends at 4 GiB, and --bigtiff \
                         no allows no other",
                        told()
                    )
                });
            }
        };
        found.ok_or_else(|| unfit(None))
    }

    fn of_kind(
        kind: Kind,
        strips: Strips,
        all: &[(Subject<'_>, u64)],
        pages: u64,
    ) -> Option<StackFile> {
        let [begin, ..] = kind.sizes();
        let len = |subject: &Subject<'_>, first_of: Option<u64>| {
            let (layout, _) = Layout::of_page(kind, subject, strips, first_of)?;
            Some(layout.start() - begin)
        };
        let (mut rows, mut first, mut at) = (Vec::new(), 0_u64, begin);
        let mut second = begin;
        for (subject, images) in all {
            let each = len(subject, None)?;
            if first == 0 {
                second = begin.checked_add(len(subject, Some(pages))?)?;
                at = second.checked_sub(each)?;
            }
            rows.push(Row { first, at, each });
            at = at.checked_add(each.checked_mul(*images)?)?;
            first += images;
        }
        let align = if strips.pixels < SMALL { SMALL_ALIGN } else { ALIGN };
        let pixels = at.checked_next_multiple_of(align)?;
        let len = pixels.checked_add(strips.pixels.checked_mul(pages)?)?;
        if kind == Kind::Classic && u32::try_from(len).is_err() {
            return None;
        }
        i64::try_from(len).ok()?;
        Some(StackFile { kind, strips, rows, pages, second, pixels, len })
    }

    /// Bytes of the file.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "a file is never empty")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Number of pages.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Whether the file is a BigTIFF.
    #[must_use]
    pub fn is_big(&self) -> bool {
        self.kind == Kind::Big
    }

    /// Where a page's pixels begin.
    #[must_use]
    pub fn pixels(&self, page: u64) -> u64 {
        self.pixels + page * self.strips.pixels
    }

    /// Where the first page's header lies, which is written last.
    #[must_use]
    pub fn first_header(&self) -> Range<u64> {
        0..self.second
    }

    /// Where zeros lie that belong to no page, between the last one's directory and all pixels.
    #[must_use]
    pub fn gap(&self) -> Range<u64> {
        self.directory(self.pages)..self.pixels
    }

    /// Where a page's directory begins; of the page behind the last, where all end.
    fn directory(&self, page: u64) -> u64 {
        let [begin, ..] = self.kind.sizes();
        match page {
            0 => begin,
            1 => self.second,
            _ => {
                let row =
                    self.rows.partition_point(|row| row.first < page.min(self.pages - 1) + 1) - 1;
                let row = &self.rows[row];
                row.at + (page - row.first) * row.each
            }
        }
    }

    /// The header of a page of a row, its own numbers left open.
    ///
    /// # Panics
    /// Where it is no page of this stack.
    #[must_use]
    pub fn header(&self, subject: &Subject<'_>, is_first: bool) -> Header {
        let first_of = is_first.then_some(self.pages);
        let page = Layout::of_page(self.kind, subject, self.strips, first_of);
        let (layout, description) = page.expect("it was laid out before");
        layout.header(description)
    }

    /// What lies before the pixels for a page: where it begins in the file, and its bytes, which are made in
    /// `out`. The header is the page's, and of the first one if it is that.
    pub fn write<'b>(
        &self,
        header: &Header,
        page: u64,
        index: &[u64],
        (extent, range): (&Extent, &ValueRange),
        out: &'b mut Vec<u8>,
    ) -> (u64, &'b [u8]) {
        header.write(index, extent, range, out);
        self.place(header, page, out)
    }

    /// The same of the first page; `shown` is of all. The zeros between the directories and the pixels are
    /// not among the bytes, but in [`gap`](StackFile::gap).
    pub fn write_first<'b>(
        &self,
        header: &Header,
        index: &[u64],
        (extent, range): (&Extent, &ValueRange),
        shown: &Shown,
        out: &'b mut Vec<u8>,
    ) -> (u64, &'b [u8]) {
        header.write_first(index, extent, range, shown, out);
        self.place(header, 0, out)
    }

    fn place<'b>(&self, header: &Header, page: u64, out: &'b mut [u8]) -> (u64, &'b [u8]) {
        let at = if page == 0 { 0 } else { self.directory(page) };
        let next = if page + 1 < self.pages { self.directory(page + 1) } else { 0 };
        (at, header.place([at, self.pixels(page), next], out))
    }
}
