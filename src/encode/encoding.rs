//! What is asked for beyond the default profile.

use std::str::FromStr;

use super::strips::packed_rows;
use crate::error::nearest::near;

/// Whether files are BigTIFFs, whose offsets are 64 bits wide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BigTiff {
    /// Those of which the upper bound of the length does not fit a classic TIFF.
    #[default]
    Auto,
    /// All.
    Yes,
    /// None: what does not fit is refused before any work.
    No,
}

/// How strips are packed (tag 259, Compression).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compress {
    /// As they are (1).
    #[default]
    None,
    /// Deflate in a zlib stream (8), at a level from 1 to 12.
    Deflate(u8),
    /// Zstandard (50000), at a level from 1 to 22.
    Zstd(u8),
}

/// What is done to pixels before they are packed (tag 317).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Predictor {
    /// Nothing (1).
    #[default]
    None,
    /// The differences of neighbouring bytes of equal place value (3; Adobe's TIFF Technical Note 3).
    Float,
    /// What makes an image's first strip smaller.
    Auto,
}

/// Whom files are for: what the other options are where they are not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// Every reader that was tried, ImageJ among them.
    #[default]
    Fiji,
    /// GDAL and QGIS: tiles of 256, Deflate, the predictor for floats, and GDAL's tags for scale, offset and
    /// no data.
    Gis,
    /// Small files: Zstandard and the predictor for floats.
    Archive,
}

/// How pixels are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Encoding {
    /// Whom files are for.
    pub profile: Profile,
    /// Whether files are BigTIFFs.
    pub bigtiff: BigTiff,
    /// How strips or tiles are packed.
    pub compress: Compress,
    /// What is done to pixels before.
    pub predictor: Predictor,
    /// The side of square tiles in pixels, a multiple of 16; `None`: strips.
    pub tile: Option<u16>,
}

/// The options of an [`Encoding`] as text, by the names that the command line has for them: as they
/// are typed, and as a plan keeps them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EncodingText<'a> {
    texts: [Option<&'a str>; EncodingText::NAMES.len()],
}

const BIGTIFFS: [(&str, BigTiff); 3] =
    [("auto", BigTiff::Auto), ("yes", BigTiff::Yes), ("no", BigTiff::No)];
const PREDICTORS: [(&str, Predictor); 3] =
    [("none", Predictor::None), ("float", Predictor::Float), ("auto", Predictor::Auto)];
const PROFILES: [(&str, Profile); 3] =
    [("fiji", Profile::Fiji), ("gis", Profile::Gis), ("archive", Profile::Archive)];
/// Sides of tiles (TIFF 6.0, section 15: multiples of 16).
const TILE_STEP: u16 = 16;
const MOST_TILE: u16 = 4096;
/// A way to pack: its name, its level where none is given, the highest, and how it is made of a level.
type Codec = (&'static str, u8, u8, fn(u8) -> Compress);
const CODECS: [Codec; 2] = [("deflate", 6, 12, Compress::Deflate), ("zstd", 3, 22, Compress::Zstd)];

impl<'a> EncodingText<'a> {
    /// The names.
    pub const NAMES: [&'static str; 5] = ["profile", "bigtiff", "compress", "predictor", "tile"];

    /// Sets one; false if there is none of that name.
    pub fn set(&mut self, name: &str, text: &'a str) -> bool {
        let at = EncodingText::NAMES.iter().position(|known| *known == name);
        if let Some(at) = at {
            self.texts[at] = Some(text);
        }
        at.is_some()
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        EncodingText::NAMES.iter().position(|known| *known == name).and_then(|at| self.texts[at])
    }

    /// What they say.
    ///
    /// # Errors
    /// Which option is wrong and what it ought to be, in one line.
    pub fn read(&self) -> Result<Encoding, String> {
        let profile = named(&PROFILES, "profile", self.get("profile"))?.unwrap_or_default();
        let usual = Encoding::of(profile);
        let bigtiff = named(&BIGTIFFS, "bigtiff", self.get("bigtiff"))?.unwrap_or(usual.bigtiff);
        let compress = self.get("compress").map(compress).transpose()?.unwrap_or(usual.compress);
        let predictor = named(&PREDICTORS, "predictor", self.get("predictor"))?;
        let predictor = match (predictor, compress) {
            (Some(predictor), _) => predictor,
            (None, Compress::None) => Predictor::None,
            (None, _) => usual.predictor,
        };
        let tile = self.get("tile").map(tile).transpose()?.unwrap_or(usual.tile);
        if predictor != Predictor::None && compress == Compress::None {
            return Err(format!(
                "--predictor {} is of use to --compress, and without it no reader undoes it",
                word(&PREDICTORS, predictor)
            ));
        }
        Ok(Encoding { profile, bigtiff, compress, predictor, tile })
    }
}

impl Encoding {
    /// What a profile means.
    #[must_use]
    pub fn of(profile: Profile) -> Encoding {
        let usual = Encoding { profile, ..Encoding::default() };
        let predictor = Predictor::Float;
        match profile {
            Profile::Fiji => usual,
            Profile::Gis => {
                let compress = Compress::Deflate(CODECS[0].1);
                Encoding { compress, predictor, tile: Some(256), ..usual }
            }
            Profile::Archive => {
                Encoding { compress: Compress::Zstd(CODECS[1].1), predictor, ..usual }
            }
        }
    }

    /// Whether pixels are packed, or in tiles: not stored as they are in memory.
    #[must_use]
    pub fn is_packed(&self) -> bool {
        self.compress != Compress::None || self.tile.is_some()
    }

    /// Rows of what is packed at once of images of so many pixels in width and height, where they are: of
    /// a strip, or of a row of tiles.
    #[must_use]
    pub fn packed_rows(&self, (width, height): (u64, u64)) -> Option<u64> {
        let tiles = self.tile_of((width, height)).map(|[_, rows]| u64::from(rows).min(height));
        self.is_packed().then(|| tiles.unwrap_or_else(|| packed_rows(width, height)))
    }

    /// Width and height of the tiles of an image of so many pixels, where it has tiles: no more than it
    /// takes to hold the image.
    #[must_use]
    pub fn tile_of(&self, (width, height): (u64, u64)) -> Option<[u16; 2]> {
        let side = self.tile?;
        let of = |pixels: u64| {
            let fits = pixels.checked_next_multiple_of(TILE_STEP.into());
            fits.and_then(|fits| u16::try_from(fits).ok()).map_or(side, |fits| fits.min(side))
        };
        Some([width, height].map(of))
    }

    /// Bytes of pixels, with what tiles are filled up with, of what is packed at once of an image; 0 where
    /// it is not packed.
    #[must_use]
    pub fn packed_bytes(&self, size: (u64, u64)) -> u64 {
        let (width, height) = match self.tile_of(size) {
            Some([width, height]) => {
                (size.0.next_multiple_of(u64::from(width).max(1)), u64::from(height))
            }
            None => (size.0, self.packed_rows(size).unwrap_or(0)),
        };
        width.saturating_mul(height).saturating_mul(4)
    }

    /// The same of one tile, where there are tiles.
    #[must_use]
    pub fn chunk_bytes(&self, size: (u64, u64)) -> u64 {
        match self.tile_of(size) {
            Some([width, height]) => 4 * u64::from(width) * u64::from(height),
            None => self.packed_bytes(size),
        }
    }

    /// Bytes of the lists of an image's strips or tiles while it is packed: where each lies and how long it is, in a
    /// header, in that of all images, and as they come.
    #[must_use]
    pub fn list_bytes(&self, size: (u64, u64)) -> u64 {
        const EACH: u64 = 2 * 16 + 8;
        let Some(rows) = self.packed_rows(size) else { return 0 };
        let across =
            self.tile_of(size).map_or(1, |[width, _]| size.0.div_ceil(width.max(1).into()));
        size.1.div_ceil(rows.max(1)).saturating_mul(across).saturating_mul(EACH)
    }

    /// Bytes of memory that a codec's tables take.
    #[must_use]
    pub fn memory(&self) -> u64 {
        match self.compress {
            Compress::None => 0,
            Compress::Deflate(..=9) => 2 << 20,
            Compress::Zstd(..=12) => 8 << 20,
            Compress::Deflate(_) => 12 << 20,
            Compress::Zstd(_) => 32 << 20,
        }
    }

    /// What was asked for where that is not the default, option by option.
    #[must_use]
    pub fn texts(&self) -> Vec<(&'static str, String)> {
        let usual = Encoding::of(self.profile);
        let compress = match self.compress {
            Compress::None => "none".to_owned(),
            Compress::Deflate(level) => format!("deflate:{level}"),
            Compress::Zstd(level) => format!("zstd:{level}"),
        };
        let tile = self.tile.map_or("none".to_owned(), |side| side.to_string());
        let all = [
            (self.profile != Profile::default(), word(&PROFILES, self.profile)),
            (self.bigtiff != usual.bigtiff, word(&BIGTIFFS, self.bigtiff)),
            (self.compress != usual.compress, compress),
            (self.predictor != usual.predictor, word(&PREDICTORS, self.predictor)),
            (self.tile != usual.tile, tile),
        ];
        let named = EncodingText::NAMES.into_iter().zip(all);
        named.filter_map(|(name, (is_given, text))| is_given.then_some((name, text))).collect()
    }

    /// Which readers have trouble with such files, in a line for each reason.
    #[must_use]
    pub fn warnings(&self) -> Vec<&'static str> {
        let mut warnings = Vec::new();
        if self.tile.is_some() {
            warnings.push("ImageJ does not open tiles");
        }
        if self.profile == Profile::Gis {
            warnings.push("OpenCV prints warnings of GDAL's tags, which --profile gis writes");
        }
        if matches!(self.compress, Compress::Zstd(_)) {
            warnings.push(
                "ImageJ does not open what --compress zstd packs, nor do pip's OpenCV and libvips, of \
                 which libvips shows zeros without a word; all open deflate",
            );
        }
        let opens = self.tile.is_none() && !matches!(self.compress, Compress::Zstd(_));
        if self.predictor != Predictor::None && opens {
            warnings.push(
                "ImageJ shows noise, without a word, where --predictor was float, or auto chose it",
            );
        }
        warnings
    }
}

/// `none`, or the side of a tile.
fn tile(text: &str) -> Result<Option<u16>, String> {
    if text == "none" {
        return Ok(None);
    }
    let side: Option<u16> = number(text);
    match side.filter(|side| (TILE_STEP..=MOST_TILE).contains(side) && side % TILE_STEP == 0) {
        Some(side) => Ok(Some(side)),
        None => Err(format!(
            "--tile {text}: a tile has a multiple of {TILE_STEP} pixels on a side, {MOST_TILE} at \
             most; none makes strips"
        )),
    }
}

/// `none`, or a codec and perhaps a level.
fn compress(text: &str) -> Result<Compress, String> {
    if text == "none" {
        return Ok(Compress::None);
    }
    let (name, level) = match text.split_once(':') {
        Some((name, level)) => (name, Some(level)),
        None => (text, None),
    };
    let Some((_, usual, most, of)) = CODECS.iter().find(|(known, ..)| *known == name) else {
        return Err(format!(
            "--compress {text}: there are none, deflate, deflate:1 to deflate:12, zstd, zstd:1 to \
             zstd:22{}",
            nearest(name, CODECS.iter().map(|(known, ..)| *known).chain(["none"]))
        ));
    };
    let level = level.map_or(Some(*usual), number);
    match level.filter(|level| (1..=*most).contains(level)) {
        Some(level) => Ok(of(level)),
        None => Err(format!("--compress {text}: the levels of {name} are 1 to {most}")),
    }
}

fn nearest<'a>(text: &str, among: impl Iterator<Item = &'a str>) -> String {
    near(text, among).map_or(String::new(), |word| format!("; the nearest is {word}"))
}

/// Digits as they are written back: no sign, and no zeros before them.
fn number<T: FromStr + ToString>(text: &str) -> Option<T> {
    text.parse().ok().filter(|number: &T| number.to_string() == text)
}

fn word<T: PartialEq>(words: &[(&str, T)], value: T) -> String {
    words.iter().find(|(_, of)| *of == value).map_or("", |(word, _)| word).to_owned()
}

fn named<T: Copy>(
    words: &[(&str, T)],
    option: &str,
    text: Option<&str>,
) -> Result<Option<T>, String> {
    let Some(text) = text else { return Ok(None) };
    match words.iter().find(|(word, _)| *word == text) {
        Some((_, value)) => Ok(Some(*value)),
        None => {
            let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            let nearest = nearest(text, all.iter().copied());
            Err(format!("--{option} {text}: there are {}{nearest}", all.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(given: &[(&str, &str)]) -> Result<Encoding, String> {
        let mut text = EncodingText::default();
        assert!(given.iter().all(|(name, value)| text.set(name, value)));
        text.read()
    }

    #[test]
    fn what_is_asked_for_comes_back_from_its_text() {
        let packed = |compress| {
            [Predictor::None, Predictor::Float, Predictor::Auto].map(|predictor| Encoding {
                compress,
                predictor,
                ..Encoding::default()
            })
        };
        let bigtiffs = [BigTiff::Auto, BigTiff::Yes, BigTiff::No]
            .map(|bigtiff| Encoding { bigtiff, ..Encoding::default() });
        let all = [Compress::Deflate(1), Compress::Deflate(12), Compress::Zstd(22)].map(packed);
        for encoding in all.into_iter().flatten().chain(bigtiffs) {
            let texts = encoding.texts();
            let given: Vec<_> = texts.iter().map(|(name, text)| (*name, text.as_str())).collect();
            assert_eq!(read(&given), Ok(encoding));
        }
        assert!(Encoding::default().texts().is_empty());
        assert!(!EncodingText::default().set("big", "yes"));
    }

    #[test]
    fn profiles_are_what_other_options_are_where_they_are_not_given() {
        for profile in [Profile::Gis, Profile::Archive] {
            let text = word(&PROFILES, profile);
            let alone = read(&[("profile", &text)]).unwrap();
            assert_eq!(alone, Encoding::of(profile));
            assert_eq!(alone.texts(), [("profile", text.clone())]);
            let given = [("profile", text.as_str()), ("compress", "none"), ("tile", "64")];
            let other = read(&given).unwrap();
            assert_eq!((other.profile, other.predictor), (profile, Predictor::None));
            assert_eq!((other.compress, other.tile), (Compress::None, Some(64)));
            let texts = other.texts();
            let again: Vec<_> = texts.iter().map(|(name, text)| (*name, text.as_str())).collect();
            assert_eq!(read(&again), Ok(other));
        }
        let strips = read(&[("profile", "gis"), ("tile", "none")]).unwrap();
        assert_eq!((strips.tile, strips.predictor), (None, Predictor::Float));
    }

    #[test]
    fn levels_that_are_not_given_are_the_codecs_own() {
        let compress = |text| read(&[("compress", text)]).map(|encoding| encoding.compress);
        assert_eq!(compress("none"), Ok(Compress::None));
        assert_eq!(compress("deflate"), Ok(Compress::Deflate(6)));
        assert_eq!(compress("zstd"), Ok(Compress::Zstd(3)));
        assert_eq!(compress("zstd:19"), Ok(Compress::Zstd(19)));
    }

    #[test]
    fn what_cannot_be_is_told() {
        let told = |given: &[(&str, &str)]| read(given).unwrap_err();
        assert_eq!(told(&[("bigtiff", "maybe")]), "--bigtiff maybe: there are auto, yes, no");
        for wrong in ["lzw", "zlib:3", "", ":", "Deflate"] {
            let told = told(&[("compress", wrong)]);
            assert!(told.contains("there are none, deflate"), "{told}");
        }
        for wrong in [
            "deflate:0",
            "deflate:13",
            "deflate:",
            "deflate:x",
            "deflate:-1",
            "deflate:+6",
            "deflate:06",
        ] {
            let told = told(&[("compress", wrong)]);
            assert!(told.contains("the levels of deflate are 1 to 12"), "{told}");
        }
        assert!(told(&[("compress", "defalte:3")]).ends_with("; the nearest is deflate"));
        assert!(told(&[("profile", "archiv")]).ends_with("; the nearest is archive"));
        for wrong in ["zstd:0", "zstd:23", "zstd:256"] {
            assert!(told(&[("compress", wrong)]).contains("1 to 22"));
        }
        for wrong in ["0", "+16", "016", "8", "24", "4112", "256x256", "", "-16", "65552"] {
            assert!(told(&[("tile", wrong)]).contains("a multiple of 16"), "{wrong}");
        }
        assert!(told(&[("profile", "imagej")]).contains("there are fiji, gis, archive"));
        assert!(told(&[("predictor", "horizontal")]).contains("there are none, float, auto"));
        assert!(told(&[("predictor", "float")]).contains("--compress"));
        assert!(told(&[("predictor", "auto"), ("compress", "none")]).contains("--compress"));
    }
}
