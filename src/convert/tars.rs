//! Images as members of tars: where each lies, and what belongs to it there beside its file.

use std::io::{self, Read as _, SeekFrom};

use super::{Options, most_of_file, stacks::Open};
use crate::encode::{TAR_BLOCK, TAR_END, member_head, member_padding, write_member_head};
use crate::error::Error;
use crate::plan::{Naming, Plan, Tar, TarFile};
use crate::sink::{Sink, Stored};
use crate::source::Source;

/// Files up to this many bytes are put together with what belongs to them, and written at once.
const AT_ONCE: usize = 256 << 10;

/// The members that images of a row are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Member {
    /// Bytes before the file.
    pub(super) head: u64,
    /// Bytes of the file, and before its pixels.
    pub(super) len: u64,
    pub(super) header: u64,
}

impl Member {
    /// Bytes of all of it.
    fn all(&self) -> Option<u64> {
        self.head.checked_add(self.len)?.checked_add(member_padding(self.len))
    }

    /// What comes before the file of the member of this name.
    pub(super) fn write_head(&self, name: &str, out: &mut Vec<u8>) {
        write_member_head(name, self.len, self.head, out);
    }

    /// Bytes behind the file, all of them 0.
    pub(super) fn padding(&self) -> u64 {
        member_padding(self.len)
    }

    /// Writes all of a member that begins at byte `at` of its tar, and says how many bytes that is.
    pub(super) fn put(
        &self,
        tar: &Open<'_>,
        (at, name): (u64, &str),
        header: &[u8],
        pixels: &[u8],
        buffer: &mut Vec<u8>,
    ) -> Result<u64, Error> {
        buffer.clear();
        self.write_head(name, buffer);
        buffer.extend(header);
        let padding = usize::try_from(self.padding()).expect("it is less than a block");
        if pixels.len() <= AT_ONCE {
            buffer.extend(pixels);
            buffer.resize(buffer.len() + padding, 0);
            tar.write_at(at, buffer)?;
        } else {
            tar.write_at(at, buffer)?;
            let pixels_at = at + buffer.len() as u64;
            tar.write_at(pixels_at, pixels)?;
            self.end(tar, at)?;
        }
        Ok(self.bytes())
    }

    /// Writes what comes before a member's pixels.
    pub(super) fn begin(
        &self,
        tar: &Open<'_>,
        (at, name): (u64, &str),
        header: &[u8],
        buffer: &mut Vec<u8>,
    ) -> Result<(), Error> {
        buffer.clear();
        self.write_head(name, buffer);
        buffer.extend(header);
        tar.write_at(at, buffer)
    }

    /// Bytes of all of a member.
    pub(super) fn bytes(&self) -> u64 {
        self.head + self.len + self.padding()
    }

    /// Whether what is around the file of a member, that begins at byte `at` of a tar of `len` bytes, is as
    /// it must be; behind the last member that is the tar's end.
    pub(super) fn is_around(
        &self,
        tar: &mut dyn Stored,
        (at, name): (u64, &str),
        len: u64,
    ) -> io::Result<bool> {
        let mut head = Vec::new();
        self.write_head(name, &mut head);
        let mut is = vec![0; head.len()];
        tar.seek(SeekFrom::Start(at))?;
        tar.read_exact(&mut is)?;
        let file_end = at + self.head + self.len;
        let next = file_end + self.padding();
        let behind = if next + END == len { len } else { next };
        tar.seek(SeekFrom::Start(file_end))?;
        let mut zeros = Vec::new();
        tar.take(behind - file_end).read_to_end(&mut zeros)?;
        let zeros_due = zeros.len() as u64 == behind - file_end;
        Ok(is == head && zeros_due && zeros.iter().all(|&byte| byte == 0))
    }

    /// Writes what comes after a member's pixels.
    pub(super) fn end(&self, tar: &Open<'_>, at: u64) -> Result<(), Error> {
        let padding = usize::try_from(self.padding()).expect("it is less than a block");
        if padding == 0 {
            return Ok(());
        }
        tar.write_at(at + self.head + self.len, &[0; TAR_BLOCK][..padding])
    }
}

/// Writes what a tar of this length ends with.
pub(super) fn end(tar: &dyn crate::sink::Pending, len: u64) -> Result<(), Error> {
    tar.write_at(len - END, &[0; TAR_END])
}

/// Writes a tar without members.
pub(super) fn write_empty(sink: &dyn Sink) -> Result<(), Error> {
    let pending = sink.begin("empty.tar", Some(END))?;
    end(&*pending, END)?;
    pending.commit()
}

/// Bytes that every tar ends with.
pub(super) const END: u64 = TAR_END as u64;

/// What the images of each row are in tars.
pub(super) fn members(
    source: &dyn Source,
    plan: &Plan,
    options: &Options,
) -> Result<Vec<Member>, Error> {
    let listed = matches!(options.naming, Naming::List(_));
    let of = |(at, row): (usize, &crate::plan::Row)| {
        // Those of a template are of one length.
        let images = if listed { row.images } else { 1 };
        let mut names = (0..images).map(|index| plan.name(at, index));
        let longest = names.by_ref().map(|name| member_head(&mut std::iter::once(name.as_str())));
        let head = longest.max().unwrap_or(TAR_BLOCK as u64);
        let len = most_of_file(source, plan, options, at)?;
        Ok(Member { head, len, header: len - row.samples() * 4 })
    };
    plan.rows().iter().enumerate().map(of).collect()
}

/// The images of a plan as members of tars.
pub(super) fn in_tars(
    source: &dyn Source,
    plan: Plan,
    options: &Options,
    tar: &Tar,
) -> Result<Plan, Error> {
    let members = members(source, &plan, options)?;
    let bytes = |row: usize| members[row].all().unwrap_or(u64::MAX);
    plan.in_tars(tar, bytes, END)?.ok_or_else(|| {
        Error::Usage(format!(
            "{tar}: so many images fit no file; numbered tars of some size can hold them (--tar-size)"
        ))
    })
}

/// Where the images of a run are, for who looks at its tars.
pub(crate) struct Places {
    plan: Plan,
    members: Vec<Member>,
}

/// The image that a byte of a tar belongs to.
pub(crate) struct Place {
    /// The member's name.
    pub(crate) name: String,
    /// Which image it is, of all.
    pub(crate) image: u64,
    /// Where its file begins, its pixels, and what is behind them.
    pub(crate) file: u64,
    pub(crate) pixels: u64,
    pub(crate) end: u64,
    /// Width of the image.
    pub(crate) width: u64,
}

impl Places {
    /// Of a run whose images are members of tars; `None` of others.
    ///
    /// # Errors
    /// As [`convert`](super::convert) before any work.
    pub(crate) fn of(source: &dyn Source, options: &Options) -> Result<Option<Places>, Error> {
        if options.tar.is_none() {
            return Ok(None);
        }
        let plan = super::planned(source, options)?;
        let members = members(source, &plan, options)?;
        Ok(Some(Places { plan, members }))
    }

    /// The member that a byte of a file is in.
    pub(crate) fn of_byte(&self, file: &str, byte: u64) -> Option<Place> {
        let number = self.plan.tar()?.number(file)?;
        let (row, index) = self.plan.member_at(number, byte)?;
        let (_, at) = self.plan.in_tar(row, index)?;
        let (member, of) = (&self.members[row], &self.plan.rows()[row]);
        Some(Place {
            name: self.plan.name(row, index),
            image: of.first_image + index,
            file: at + member.head,
            pixels: at + member.head + member.header,
            end: at + member.head + member.len,
            width: of.width,
        })
    }
}

/// All tars of a plan.
pub(super) fn tar_files(plan: &Plan) -> impl Iterator<Item = TarFile> + '_ {
    (0..plan.tars()).map(|number| plan.tar_file(number))
}

impl Options {
    /// Fails where tars cannot be what else is asked for.
    pub(super) fn check_tar(&self) -> Result<(), Error> {
        let Some(tar) = &self.tar else { return Ok(()) };
        if tar.is_streamed() {
            self.check_stream(tar)?;
        }
        let option = [
            (self.skip_existing, "--skip-existing"),
            (self.shard.is_some(), "--shard"),
            (self.stack != crate::plan::Stack::None, "--stack"),
        ];
        if let Some((_, option)) = option.into_iter().find(|(is_given, _)| *is_given) {
            return Err(self.no_tar(tar, option));
        }
        let resumes = self.record.as_ref().is_some_and(|record| record.resume != super::Resume::No);
        if resumes && tar.size().is_none() {
            return Err(Error::Usage(format!(
                "{tar}: a tar is one file, whole or absent, and no --resume goes on with it; numbered ones \
                 (--tar-size) are gone on with one by one"
            )));
        }
        if self.encoding.is_packed() || self.encoding.profile == crate::encode::Profile::Gis {
            return Err(Error::Usage(format!(
                "{tar}: where members lie in a tar is known before any is made, so that pixels are stored \
                 as they are; --compress, --tile and the profiles gis and archive are of images that are \
                 files of their own"
            )));
        }
        Ok(())
    }

    fn check_stream(&self, tar: &Tar) -> Result<(), Error> {
        if tar.size().is_some() {
            return Err(Error::Usage(format!(
                "{tar}: a stream is one tar, and numbered ones are files"
            )));
        }
        if self.record.as_ref().is_some_and(|record| record.hash) {
            return Err(Error::Usage(format!(
                "{tar}: --hash reads back what came in pieces, and nothing can be read back of a stream"
            )));
        }
        Ok(())
    }

    /// Whether pixels are to come nearly in order.
    pub(super) fn is_streamed(&self) -> bool {
        self.tar.as_ref().is_some_and(Tar::is_streamed)
    }

    /// That `option` does not go with tars.
    pub(super) fn no_tar(&self, tar: &Tar, option: &str) -> Error {
        Error::Usage(format!(
            "{tar}: {option} is of images that are files of their own, not of a tar"
        ))
    }
}
