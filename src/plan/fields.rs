//! `--tensor-regex`: tensors by a regular expression, whose named groups are fields of names.

use crate::error::{Error, shown};

/// Fields that names have without it.
const OWN: [&str; 3] = ["stem", "tensor", "index"];
/// Most bytes that a compiled expression takes.
const MOST: usize = 10 << 20;

/// A compiled expression.
#[derive(Debug, Clone)]
pub(super) struct Regex {
    regex: regex::Regex,
    /// Names of its groups, in the order of the expression.
    fields: Vec<String>,
}

impl Regex {
    pub(super) fn new(text: &str) -> Result<Regex, Error> {
        let wrong =
            |problem: &str| Error::Usage(format!("--tensor-regex {}: {problem}", shown(text)));
        let regex = regex::RegexBuilder::new(text).size_limit(MOST).build();
        // Its own message is a drawing of several lines, of which the last says what is wrong.
        let told = |error: regex::Error| {
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default();
            wrong(last.trim_start_matches("error: "))
        };
        let regex = regex.map_err(told)?;
        let fields: Vec<String> = regex.capture_names().flatten().map(str::to_owned).collect();
        if let Some(field) = fields.iter().find(|field| OWN.contains(&field.as_str())) {
            return Err(wrong(&format!(
                "{{{field}}} is a field of names already; call the group else"
            )));
        }
        Ok(Regex { regex, fields })
    }

    pub(super) fn text(&self) -> &str {
        self.regex.as_str()
    }

    /// Names of its groups.
    pub(super) fn fields(&self) -> &[String] {
        &self.fields
    }

    /// Whether it matches anywhere in a name.
    pub(super) fn matches(&self, name: &str) -> bool {
        self.regex.is_match(name)
    }

    /// What its groups are in a name, empty where one has no part in the match.
    pub(super) fn values(&self, name: &str) -> Vec<String> {
        let found = self.regex.captures(name);
        let value = |field: &String| {
            let group = found.as_ref().and_then(|found| found.name(field));
            group.map_or(String::new(), |group| group.as_str().to_owned())
        };
        self.fields.iter().map(value).collect()
    }
}
