//! What is asked for beyond the default profile.

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

/// How pixels are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Encoding {
    /// Whether files are BigTIFFs.
    pub bigtiff: BigTiff,
}

/// The options of an [`Encoding`] as text, by the names that the command line has for them: as they
/// are typed, and as a plan keeps them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EncodingText<'a> {
    texts: [Option<&'a str>; EncodingText::NAMES.len()],
}

const BIGTIFFS: [(&str, BigTiff); 3] =
    [("auto", BigTiff::Auto), ("yes", BigTiff::Yes), ("no", BigTiff::No)];

impl<'a> EncodingText<'a> {
    /// The names.
    pub const NAMES: [&'static str; 1] = ["bigtiff"];

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
        let bigtiff = named(&BIGTIFFS, "bigtiff", self.get("bigtiff"))?.unwrap_or_default();
        Ok(Encoding { bigtiff })
    }
}

impl Encoding {
    /// What was asked for where that is not the default, option by option.
    #[must_use]
    pub fn texts(&self) -> Vec<(&'static str, String)> {
        let mut texts = Vec::new();
        if self.bigtiff != BigTiff::default() {
            texts.push(("bigtiff", word(&BIGTIFFS, self.bigtiff)));
        }
        texts
    }
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
            Err(format!("--{option} {text}: there are {}", all.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_comes_back_from_its_text() {
        for bigtiff in [BigTiff::Auto, BigTiff::Yes, BigTiff::No] {
            let encoding = Encoding { bigtiff };
            let texts = encoding.texts();
            let mut text = EncodingText::default();
            assert!(texts.iter().all(|(name, value)| text.set(name, value)));
            assert_eq!(text.read(), Ok(encoding));
        }
        assert!(Encoding::default().texts().is_empty());
        assert!(!EncodingText::default().set("big", "yes"));
        let mut text = EncodingText::default();
        assert!(text.set("bigtiff", "maybe"));
        assert_eq!(text.read().unwrap_err(), "--bigtiff maybe: there are auto, yes, no");
    }
}
