//! Which images share a range, by number: images of rows to scopes, and back.

use std::iter;

use super::Row;
use crate::normalize::Scope;

/// All scopes of a run that are wider than one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scopes {
    kind: Scope,
    /// Number of the first scope of each row, and one more for the end.
    firsts: Vec<usize>,
    /// Whether any row of a group is computed in f64; all rows are one where there are no groups.
    wide: Vec<bool>,
}

/// Images of one row that are of one scope and follow one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Number of the row.
    pub row: usize,
    /// The first image.
    pub first: u64,
    /// Number of images.
    pub run: u64,
}

impl Scopes {
    /// The scopes of these rows; `None` where every image has a range of its own.
    #[must_use]
    pub fn new(kind: Scope, rows: &[Row]) -> Option<Scopes> {
        let in_row = |row: &Row| match kind {
            Scope::Image | Scope::Dump | Scope::Group => 0,
            Scope::Tensor => 1,
            Scope::Channel => usize::try_from(row.channels()).unwrap_or(usize::MAX),
        };
        let mut firsts = vec![0_usize];
        for row in rows {
            firsts.push(firsts[firsts.len() - 1].saturating_add(in_row(row)));
        }
        let groups = rows.iter().map(|row| row.group + 1).max().unwrap_or(1);
        let mut wide = vec![false; if kind == Scope::Group { groups } else { 1 }];
        for row in rows {
            let group = if kind == Scope::Group { row.group } else { 0 };
            wide[group] |= row.dtype.is_wide();
        }
        (kind != Scope::Image).then_some(Scopes { kind, firsts, wide })
    }

    /// Number of scopes.
    #[must_use]
    pub fn count(&self) -> usize {
        match self.kind {
            Scope::Dump => usize::from(self.firsts.len() > 1),
            Scope::Group if self.firsts.len() > 1 => self.wide.len(),
            _ => self.firsts[self.firsts.len() - 1],
        }
    }

    /// The scope of an image.
    #[must_use]
    pub fn of(&self, rows: &[Row], row: usize, index: u64) -> usize {
        match self.kind {
            Scope::Image | Scope::Dump => 0,
            Scope::Tensor => row,
            Scope::Group => rows[row].group,
            Scope::Channel => {
                let channel = rows[row].channel(index);
                self.firsts[row] + usize::try_from(channel).unwrap_or(usize::MAX)
            }
        }
    }

    /// Whether the images of a row are computed in f64: a scope that mixes types is, if any of them
    /// asks for it.
    #[must_use]
    pub fn is_wide(&self, row: &Row) -> bool {
        match self.kind {
            Scope::Dump => self.wide[0],
            Scope::Group => self.wide[row.group],
            _ => row.dtype.is_wide(),
        }
    }

    /// The images of a scope.
    pub fn parts<'r>(
        &self,
        rows: &'r [Row],
        scope: usize,
    ) -> Box<dyn Iterator<Item = Part> + Send + 'r> {
        let whole = move |row: usize| Part { row, first: 0, run: rows[row].images };
        match self.kind {
            Scope::Image | Scope::Dump => Box::new((0..rows.len()).map(whole)),
            Scope::Tensor => Box::new(iter::once(whole(scope))),
            Scope::Group => {
                let of_group = move |row: &usize| rows[*row].group == scope;
                Box::new((0..rows.len()).filter(of_group).map(whole))
            }
            Scope::Channel => {
                // The last row that begins at or before the scope has it.
                let row = self.firsts.partition_point(|&first| first <= scope) - 1;
                let runs = rows[row].of_channel((scope - self.firsts[row]) as u64);
                Box::new(runs.map(move |run| Part {
                    row,
                    first: run.start,
                    run: run.end - run.start,
                }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::row::Taken;
    use super::*;
    use crate::tensor::Dtype;

    fn rows() -> Vec<Row> {
        let row = |dtype, axes: &[u64], channel: Option<u64>, first_image| {
            let all: u64 = axes.iter().product();
            let images = if channel.is_some() { all / axes[axes.len() - 1] } else { all };
            let taken = match channel {
                Some(first) => Taken::Every { first, step: axes[axes.len() - 1] },
                None => Taken::First,
            };
            let (axes, called) = (axes.to_vec(), None);
            let (width, height, group) = (2, 2, 0);
            Row { tensor: 0, dtype, width, height, images, first_image, group, axes, called, taken }
        };
        vec![
            row(Dtype::F32, &[3, 4], None, 0),
            row(Dtype::U8, &[], None, 12),
            row(Dtype::F64, &[5, 3], Some(1), 13),
            row(Dtype::Bf16, &[7], None, 18),
        ]
    }

    /// Every image is of one scope, which has it once.
    #[test]
    fn scopes_are_disjoint_and_complete() {
        let rows = rows();
        for (kind, count) in [(Scope::Channel, 4 + 1 + 1 + 7), (Scope::Tensor, 4), (Scope::Dump, 1)]
        {
            let scopes = Scopes::new(kind, &rows).unwrap();
            assert_eq!(scopes.count(), count, "{kind:?}");
            let mut seen = Vec::new();
            for scope in 0..count {
                for part in scopes.parts(&rows, scope) {
                    for index in part.first..part.first + part.run {
                        assert_eq!(scopes.of(&rows, part.row, index), scope);
                        seen.push((part.row, index));
                    }
                }
            }
            seen.sort_unstable();
            let all: Vec<(usize, u64)> = (0..rows.len())
                .flat_map(|row| (0..rows[row].images).map(move |index| (row, index)))
                .collect();
            assert_eq!(seen, all, "{kind:?}");
        }
        assert_eq!(Scopes::new(Scope::Image, &rows), None);
    }

    #[test]
    fn a_scope_that_mixes_types_is_wide_if_one_is() {
        let rows = rows();
        let wide = |kind| {
            rows.iter().map(move |row| Scopes::new(kind, &self::rows()).unwrap().is_wide(row))
        };
        assert!(wide(Scope::Dump).all(|wide| wide));
        assert_eq!(wide(Scope::Tensor).collect::<Vec<_>>(), [false, false, true, false]);
    }
}
