//! `--name`: what images are called.

use super::escape;
use crate::error::nearest::near;
use crate::error::{Error, shown};

const FIELDS: [&str; 3] = ["stem", "tensor", "index"];
/// Those of texts by which tensors are grouped.
const OF_GROUPS: [&str; 2] = ["stem", "tensor"];

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
    /// A group of `--tensor-regex`, by number.
    Field(usize),
}

/// What stands for the index in a tensor's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Index {
    /// An image's own.
    Own,
    /// 0, of the one image.
    Zero,
    /// Nothing: what belongs to it is left out, too.
    None,
}

/// A name with the index left open: the text before each index, and the text after the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    pub(super) texts: Vec<String>,
}

impl Template {
    /// A template of names; `fields` are those beside its own.
    pub(super) fn parse(template: &str, fields: &[String]) -> Result<Template, Error> {
        let wrong =
            |problem: String| Error::Usage(format!("--name {}: {problem}", shown(template)));
        let indexed = pieces(template, &FIELDS, fields).map_err(wrong)?;
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

    /// A template of texts by which tensors are grouped.
    pub(super) fn of_groups(template: &str, fields: &[String]) -> Result<Template, Error> {
        let wrong =
            |problem: String| Error::Usage(format!("--group-by {}: {problem}", shown(template)));
        let pieces = pieces(template, &OF_GROUPS, fields).map_err(wrong)?;
        if pieces.contains(&Piece::Index) {
            return Err(wrong("tensors are grouped, which have no {index}".to_owned()));
        }
        Ok(Template { single: pieces.clone(), indexed: pieces })
    }

    /// The names of a tensor's images; with a place for the index where they have one.
    pub(super) fn pattern(
        &self,
        stem: &str,
        tensor: &str,
        fields: &[String],
        index: Index,
    ) -> Pattern {
        let mut texts = vec![String::new()];
        for piece in if index == Index::None { &self.single } else { &self.indexed } {
            let last = texts.last_mut().expect("there is always a last text");
            match piece {
                Piece::Text(text) => last.push_str(text),
                Piece::Stem => last.push_str(&escape::path(stem)),
                Piece::Tensor => last.push_str(&escape::path(tensor)),
                Piece::Field(number) => last.push_str(&escape::path(&fields[*number])),
                Piece::Index if index == Index::Zero => last.push('0'),
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
    /// Appends the name; `index` appends the index.
    pub(super) fn write_name(&self, out: &mut String, index: impl Fn(&mut String)) {
        for (i, text) in self.texts.iter().enumerate() {
            if i > 0 {
                index(out);
            }
            out.push_str(text);
        }
    }
}

/// `own` are the fields that are listed where there is no such one, beside `fields`.
fn pieces(template: &str, own: &[&str], fields: &[String]) -> Result<Vec<Piece>, String> {
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
            other => match fields.iter().position(|field| field == other) {
                Some(number) => Piece::Field(number),
                None => return Err(no_field(other, own, fields)),
            },
        });
        rest = &rest[end + 1..];
    }
    text.push_str(rest);
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    Ok(pieces)
}

fn no_field(wanted: &str, own: &[&str], fields: &[String]) -> String {
    let all = || own.iter().copied().chain(fields.iter().map(String::as_str));
    let nearest = near(wanted, all());
    let nearest = nearest.map_or(String::new(), |field| format!("; the nearest is {{{field}}}"));
    let list: Vec<String> = all().map(|field| format!("{{{field}}}")).collect();
    let help = if fields.is_empty() {
        "; --tensor-regex has others as its named groups, as (?<layer>\\d+)"
    } else {
        ""
    };
    format!("there is no field {{{}}}; there are {}{nearest}{help}", shown(wanted), list.join(", "))
}

/// The template for a tensor that is one image: the index goes, with what belongs to it.
///
/// A part that is nothing but the index goes as a whole; a last part that has nothing else before
/// its extension gives the extension to the part before (`a/{index}.tif` becomes `a.tif`); in
/// other parts a separator goes with it. A name that would be left empty is `0`.
fn without_index(pieces: &[Piece]) -> Vec<Piece> {
    let mut parts = parts(pieces);
    let last = parts.len() - 1;
    let mut out: Vec<Vec<Piece>> = Vec::new();
    for (i, part) in parts.drain(..).enumerate() {
        let indexed = part.contains(&Piece::Index);
        let part = if indexed { drop_index(&part) } else { part };
        match (&part[..], out.last_mut()) {
            ([], _) if indexed && i < last => {}
            ([Piece::Text(text)], Some(before)) if indexed && text.starts_with('.') => {
                before.push(Piece::Text(text.clone()));
            }
            ([Piece::Text(text)], None) if indexed && text.starts_with('.') => {
                out.push(vec![Piece::Text(format!("0{text}"))]);
            }
            _ => out.push(part),
        }
    }
    let slash = [Piece::Text("/".to_owned())];
    out.join(&slash[..])
}

/// The pieces between slashes.
fn parts(pieces: &[Piece]) -> Vec<Vec<Piece>> {
    let mut parts = vec![Vec::new()];
    for piece in pieces {
        let Piece::Text(text) = piece else {
            parts.last_mut().expect("there is always a last part").push(piece.clone());
            continue;
        };
        for (i, text) in text.split('/').enumerate() {
            if i > 0 {
                parts.push(Vec::new());
            }
            if !text.is_empty() {
                let last = parts.last_mut().expect("there is always a last part");
                last.push(Piece::Text(text.to_owned()));
            }
        }
    }
    parts
}

/// A part without its indices, each with one separator before it, or after it at the start.
fn drop_index(part: &[Piece]) -> Vec<Piece> {
    const SEPARATORS: [char; 4] = ['_', '-', '.', ' '];
    let mut out: Vec<Piece> = Vec::new();
    let mut at_start = false;
    for (i, piece) in part.iter().enumerate() {
        match piece {
            Piece::Index => match out.last_mut() {
                Some(Piece::Text(before)) if before.ends_with(SEPARATORS) => {
                    before.pop();
                    if before.is_empty() {
                        out.pop();
                    }
                }
                Some(_) => {}
                None => at_start = true,
            },
            Piece::Text(text) if at_start => {
                at_start = false;
                // The dot of the extension is no separator of the index.
                let extension = i + 1 == part.len() && text.starts_with('.');
                let stripped = text.strip_prefix(SEPARATORS).filter(|_| !extension);
                let text = stripped.unwrap_or(text);
                if !text.is_empty() {
                    out.push(Piece::Text(text.to_owned()));
                }
            }
            other => {
                at_start = false;
                out.push(other.clone());
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(template: &str) -> (String, String) {
        let template = Template::parse(template, &[]).unwrap();
        let name = |indexed| {
            let mut name = String::new();
            template
                .pattern("s", "a/b", &[], if indexed { Index::Own } else { Index::None })
                .write_name(&mut name, |out| out.push_str("07_1"));
            name
        };
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
        assert_eq!(names("{index}/{tensor}.tif"), own("07_1/a/b.tif", "a/b.tif"));
        assert_eq!(names("{index}.tif"), own("07_1.tif", "0.tif"));
        assert_eq!(names("{index}_{stem}.tif"), own("07_1_s.tif", "s.tif"));
        assert_eq!(names("{tensor}.{index}.tif"), own("a/b.07_1.tif", "a/b.tif"));
        assert_eq!(names("{index}.{stem}.tif"), own("07_1.s.tif", "s.tif"));
        assert_eq!(names("{stem}/_{index}.tif"), own("s/_07_1.tif", "s.tif"));
        assert_eq!(names("{stem}/{index}/{index}.tif"), own("s/07_1/07_1.tif", "s.tif"));
        assert_eq!(names("{stem}/{index}.x.tif"), own("s/07_1.x.tif", "s.x.tif"));
        assert_eq!(names("x{index}/{index}y_{index}.tif"), own("x07_1/07_1y_07_1.tif", "x/y.tif"));
    }

    #[test]
    fn what_tensors_are_grouped_by_is_listed_as_it_may_be() {
        let told = |text| Template::of_groups(text, &["layer".to_owned()]).unwrap_err().to_string();
        let layr = told("{layr}");
        assert!(
            layr.ends_with("there are {stem}, {tensor}, {layer}; the nearest is {layer}"),
            "{layr}"
        );
        assert!(told("{index}").ends_with("tensors are grouped, which have no {index}"));
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
            ("{tensr}.tif", "nearest is {tensor}"),
            ("{Stem}.tif", "nearest is {stem}"),
            ("a./{tensor}.tif", "dot"),
            (".. /{tensor}.tif", "space"),
            ("x/c:{tensor}.tif", "no :"),
            ("con/{tensor}.tif", "Windows"),
        ];
        for (template, part) in cases {
            let error = Template::parse(template, &[]).unwrap_err();
            assert!(error.is_usage() && error.to_string().contains(part), "{template}: {error}");
        }
    }
}
