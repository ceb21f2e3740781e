//! `--name`: what images are called.

use super::escape;
use crate::error::{Error, shown};

/// A parsed template. Its text is safe by itself; what the fields bring in is escaped.
#[derive(Debug, Clone)]
pub(super) struct Template {
    /// For tensors with axes before the image's.
    indexed: Vec<Piece>,
    /// For tensors that are one image: without the index and what belongs to it.
    single: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Stem,
    Tensor,
    Index,
}

/// A name with the index left open: the text before each index, and the text after the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    pub(super) texts: Vec<String>,
}

impl Template {
    pub(super) fn parse(template: &str) -> Result<Template, Error> {
        let wrong =
            |problem: String| Error::Usage(format!("--name {}: {problem}", shown(template)));
        let indexed = pieces(template).map_err(wrong)?;
        let lower = template.to_ascii_lowercase();
        if !(lower.ends_with(".tif") || lower.ends_with(".tiff")) {
            return Err(wrong("names must end in .tif or .tiff".to_owned()));
        }
        // Every field stands for something that is no special name by itself.
        let plain: String = indexed.iter().map(|p| p.text().unwrap_or("x")).collect();
        super::check_path(&plain).map_err(|problem| wrong(problem.to_owned()))?;
        let single = without_index(&indexed);
        Ok(Template { indexed, single })
    }

    /// The names of a tensor's images; with a place for the index where they have one.
    pub(super) fn pattern(&self, stem: &str, tensor: &str, indexed: bool) -> Pattern {
        let mut texts = vec![String::new()];
        for piece in if indexed { &self.indexed } else { &self.single } {
            let last = texts.last_mut().expect("there is always a last text");
            match piece {
                Piece::Text(text) => last.push_str(text),
                Piece::Stem => last.push_str(&escape::path(stem)),
                Piece::Tensor => last.push_str(&escape::path(tensor)),
                Piece::Index => texts.push(String::new()),
            }
        }
        Pattern { texts }
    }
}

impl Piece {
    fn text(&self) -> Option<&str> {
        if let Piece::Text(text) = self { Some(text) } else { None }
    }
}

impl Pattern {
    pub(super) fn name(&self, index: &str) -> String {
        self.texts.join(index)
    }
}

fn pieces(template: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        text.push_str(&rest[..at]);
        let brace = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            text.push_str(brace);
            rest = after;
            continue;
        }
        if brace == "}" {
            return Err("a } has no { (write }} for the character itself)".to_owned());
        }
        let end = rest.find('}').ok_or("a { has no } (write {{ for the character itself)")?;
        if !text.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut text)));
        }
        pieces.push(match &rest[..end] {
            "stem" => Piece::Stem,
            "tensor" => Piece::Tensor,
            "index" => Piece::Index,
            other => {
                return Err(format!(
                    "there is no field {{{}}}; there are {{stem}}, {{tensor}} and {{index}}",
                    shown(other)
                ));
            }
        });
        rest = &rest[end + 1..];
    }
    text.push_str(rest);
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    Ok(pieces)
}

/// `a/{index}.tif` becomes `a.tif`, `a_{index}.tif` too: the index goes, and one separator that
/// stood before it.
fn without_index(pieces: &[Piece]) -> Vec<Piece> {
    let mut out: Vec<Piece> = Vec::new();
    for (i, piece) in pieces.iter().enumerate() {
        if *piece != Piece::Index {
            out.push(piece.clone());
            continue;
        }
        let follows = pieces.get(i + 1).and_then(Piece::text).unwrap_or_default();
        let Some(Piece::Text(before)) = out.last_mut() else { continue };
        // `{stem}/{index}/x.tif` keeps one of its two slashes; `{index}.tif` alone keeps nothing.
        let joins = before.len() > 1 || i > 1;
        if joins
            && before.ends_with(['/', '_', '-', '.'])
            && follows.starts_with(['.', '/', '_', '-'])
        {
            before.pop();
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(template: &str) -> (String, String) {
        let template = Template::parse(template).unwrap();
        let name = |indexed| template.pattern("s", "a/b", indexed).name("07_1");
        (name(true), name(false))
    }

    #[test]
    fn names_follow_the_template() {
        let own = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(names("{stem}/{tensor}/{index}.tif"), own("s/a/b/07_1.tif", "s/a/b.tif"));
        assert_eq!(names("{tensor}_{index}.tiff"), own("a/b_07_1.tiff", "a/b.tiff"));
        assert_eq!(names("x{{}}/{index}/{tensor}.tif"), own("x{}/07_1/a/b.tif", "x{}/a/b.tif"));
        assert_eq!(names("{tensor}.tif"), own("a/b.tif", "a/b.tif"));
        assert_eq!(names("{tensor}{index}.TIF"), own("a/b07_1.TIF", "a/b.TIF"));
    }

    #[test]
    fn wrong_templates_say_what_is_wrong() {
        let cases = [
            ("{tensor}", ".tif"),
            ("{name}.tif", "no field {name}"),
            ("{tensor.tif", "has no }"),
            ("tensor}.tif", "has no {"),
            ("../{tensor}.tif", ".."),
            ("/{tensor}.tif", "relative"),
            ("a//{tensor}.tif", "empty"),
            ("a\n{tensor}.tif", "control"),
        ];
        for (template, part) in cases {
            let error = Template::parse(template).unwrap_err();
            assert!(error.is_usage() && error.to_string().contains(part), "{template}: {error}");
        }
    }
}
