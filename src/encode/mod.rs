//! The TIFF file around the pixels: classic little-endian TIFF 6.0, uncompressed, one page; where
//! that cannot hold them or it is asked for, BigTIFF; where it is asked for, packed strips, or many
//! pages.
//!
//! The order in a file is: 8-byte file header, image file directory (at offset 8), tag values,
//! zeros, pixels. Where the pixels begin is a function of the plan alone; the text that depends
//! on the pixels comes last before the zeros. So a [`Header`] is laid out once for a row of
//! images, and [`Header::write`] only fills in an image's numbers. In a [`StackFile`] the directories and tag
//! values of all pages come first, and then all pixels without a gap, as ImageJ wants them. A member of a tar
//! is such a file with a header before it.
//!
//! Nothing here touches files or pixels, but for [`Packer`], which packs strips of them, and [`Decoded`],
//! which reads back what was written.

mod decoded;
mod description;
mod encoding;
mod gdal;
mod header;
mod member;
mod pack;
mod paged;
mod stack;
mod streams;
mod strips;
mod tags;

pub use decoded::Decoded;
pub use description::Shown;
pub use encoding::{BigTiff, Compress, Encoding, EncodingText, Predictor, Profile};
pub use header::{Header, Packed, Subject};
pub use member::{TAR_BLOCK, TAR_END, last_block, member_head, member_padding, write_member_head};
pub use pack::Packer;
pub use paged::Pages;
pub use stack::StackFile;
pub use tags::{Said, Tags};
