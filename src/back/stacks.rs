//! What is so of a stack as a whole, known when all its pages were looked at, in any order: how many pages there are,
//! where the directories end, where pixels lie, and between what the first page has all of them shown.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::Difference;

/// The stacks of a run, as far as they were seen.
#[derive(Debug, Default)]
pub(super) struct Stacks(Mutex<BTreeMap<String, Seen>>);

/// A page that was looked at.
#[derive(Debug)]
pub(super) struct PageSeen {
    pub(super) page: u64,
    /// Bytes of its pixels, and where they begin.
    pub(super) bytes: u64,
    pub(super) at: u64,
    /// Whether no directory follows its own.
    pub(super) is_last: bool,
    /// Between what it is shown by itself, and whether its pixels are its samples; `None`: the line does
    /// not tell.
    pub(super) display: [f32; 2],
    pub(super) is_kept: Option<bool>,
    /// Of the first page: how many pages its text says that there are, and between what they are shown.
    pub(super) says: Option<(Option<u64>, [f32; 2])>,
}

#[derive(Debug, Default)]
struct Seen {
    pages: u64,
    last: u64,
    ends: Option<u64>,
    first: Option<(u64, u64)>,
    normalized: Option<[f32; 2]>,
    kept: Option<[f32; 2]>,
    is_unclear: bool,
    says: Option<(Option<u64>, [f32; 2])>,
    /// Bytes of the file, as the manifest says.
    len: u64,
}

impl Stacks {
    pub(super) fn add(&self, name: &str, len: u64, page: PageSeen) {
        let mut stacks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = stacks.entry(name.to_owned()).or_default();
        seen.len = len;
        seen.pages += 1;
        seen.last = seen.last.max(page.page);
        if page.is_last {
            seen.ends = seen.ends.max(Some(page.page));
        }
        if page.page == 0 {
            seen.first = Some((page.at, page.bytes));
            seen.says = page.says;
        }
        let of = match page.is_kept {
            None => {
                seen.is_unclear = true;
                return;
            }
            Some(true) => &mut seen.kept,
            Some(false) => &mut seen.normalized,
        };
        let [min, max] = of.unwrap_or(page.display);
        *of = Some([min.min(page.display[0]), max.max(page.display[1])]);
    }

    /// What differs. Nothing is told of a stack of which a page could not be read: that was told.
    pub(super) fn end(self, folder: &Path, tell: &mut dyn FnMut(Difference)) {
        for (name, seen) in self.0.into_inner().unwrap_or_else(PoisonError::into_inner) {
            for problem in seen.problems() {
                let file = folder.join(&name);
                tell(Difference { file, page: Some(0), member: None, what: "tags", problem });
            }
        }
    }
}

impl Seen {
    fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        let pages = self.pages;
        let (Some((at, each)), Some((says, shown)), true) =
            (self.first, self.says, pages == self.last + 1)
        else {
            return found;
        };
        // Of one page nobody needs to say so.
        if says.unwrap_or(1) != pages || (pages > 1 && says.is_none()) {
            let says = says.map_or("none".to_owned(), |says| says.to_string());
            found.push(format!("the description says images={says}, and there are {pages} pages"));
        }
        if self.ends != Some(self.last) {
            found.push(format!("directories do not end with that of page {}", self.last));
        }
        let end = each.checked_mul(pages).and_then(|pixels| pixels.checked_add(at));
        if end != Some(self.len) {
            found.push(format!(
                "pixels begin at {at}, and {pages} pages of {each} bytes do not end where the file does, at {}",
                self.len
            ));
        }
        if let Some([min, max]) = self.normalized.or(self.kept).filter(|_| !self.is_unclear)
            && shown != [min, max]
        {
            let [is_min, is_max] = shown;
            found.push(format!(
                "the description has pages shown from {is_min:?} to {is_max:?}, and ought to from {min:?} to {max:?}"
            ));
        }
        found
    }
}
