//! How files are to be read that do not say it themselves: what the user has to say.

use std::fmt;
use std::str::FromStr;

use super::raw::Raw;
use crate::error::{Error, shown};

/// What files leave open. By default nothing is assumed.
///
/// ```
/// use tensortiff::{DumpFiles, Reading};
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("acts.bin");
/// # std::fs::write(&path, [0; 4 * 3 * 5 * 2]).unwrap();
/// let reading = Reading { raw: Some("f32:?x3x5".parse()?), ..Reading::default() };
/// let source = DumpFiles::open_as(&[path], &reading)?;
/// # use tensortiff::Source;
/// assert_eq!(source.tensors()[0].shape, [2, 3, 5]);
/// # Ok::<(), tensortiff::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    /// All files are bytes without a header, of this type and shape, whatever they are called.
    pub raw: Option<Raw>,
    /// What arrays of NumPy's dtype `|V2` hold; they are refused otherwise.
    pub npy_v2: Option<NpyV2>,
    /// What is made of complex numbers (of two f32); they are refused otherwise.
    pub complex: Option<Complex>,
}

impl Reading {
    /// As options are written: `--raw`, `--npy-v2` and `--complex`.
    ///
    /// # Errors
    /// [`Error::Usage`] for what is none.
    pub fn of(
        raw: Option<&str>,
        npy_v2: Option<&str>,
        complex: Option<&str>,
    ) -> Result<Reading, Error> {
        Ok(Reading {
            raw: raw.map(str::parse).transpose()?,
            npy_v2: npy_v2.map(str::parse).transpose()?,
            complex: complex.map(str::parse).transpose()?,
        })
    }
}

/// What is made of a complex number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Complex {
    /// The square root of re² + im², in f64, rounded once; NaN if either is NaN.
    Abs,
    /// The real part; a NaN is the canonical one, as of all types but the plain floats of 16 and 32 bits.
    Re,
    /// The imaginary part, in the same way.
    Im,
}

impl Complex {
    const NAMES: [(&'static str, Complex); 3] =
        [("abs", Complex::Abs), ("re", Complex::Re), ("im", Complex::Im)];

    /// Of two little-endian f32.
    pub(super) fn of(self, re: [u8; 4], im: [u8; 4]) -> [u8; 4] {
        let [x, y] = [re, im].map(|part| f64::from(f32::from_le_bytes(part)));
        let nan = 0x7FC0_0000_u32.to_le_bytes();
        match self {
            Complex::Re => {
                if x.is_nan() {
                    nan
                } else {
                    re
                }
            }
            Complex::Im => {
                if y.is_nan() {
                    nan
                } else {
                    im
                }
            }
            Complex::Abs if x.is_nan() || y.is_nan() => nan,
            #[allow(clippy::cast_possible_truncation, reason = "this is the rounding")]
            Complex::Abs => ((x * x + y * y).sqrt() as f32).to_le_bytes(),
        }
    }
}

impl FromStr for Complex {
    type Err = Error;

    fn from_str(text: &str) -> Result<Complex, Error> {
        let found = Complex::NAMES.into_iter().find(|(name, _)| *name == text);
        found.map(|(_, complex)| complex).ok_or_else(|| {
            Error::Usage(format!("--complex {}: it can be abs, re or im", shown(text)))
        })
    }
}

impl fmt::Display for Complex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Complex::NAMES.into_iter().find(|(_, complex)| complex == self);
        f.write_str(name.map_or("abs", |(name, _)| name))
    }
}

/// What NumPy's `|V2` stands for: two bytes, of which it does not know more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NpyV2 {
    /// bfloat16, which the libraries that add it to NumPy are saved as.
    Bf16,
}

impl FromStr for NpyV2 {
    type Err = Error;

    fn from_str(text: &str) -> Result<NpyV2, Error> {
        match text {
            "bf16" => Ok(NpyV2::Bf16),
            _ => Err(Error::Usage(format!("--npy-v2 {}: bf16 is all that it can be", shown(text)))),
        }
    }
}

impl fmt::Display for NpyV2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NpyV2::Bf16 => f.write_str("bf16"),
        }
    }
}
