//! Name patterns, as `--tensor` and others take them: `*` matches anything but `/` (dots too), `**`
//! anything, `?` one character but `/`, `[a-z]` and `[!a-z]` one of a set, `\` takes the next
//! character literally. A pattern matches whole names. Not a shell's globs: no braces, and nothing
//! is special about leading dots.

/// A compiled pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Glob {
    tokens: Vec<Token>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    One(Matcher),
    /// Any number of characters; with `slash`, `/` too.
    Many {
        slash: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Matcher {
    Literal(char),
    NoSlash,
    Set { negated: bool, ranges: Vec<(char, char)> },
}

impl Glob {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub(crate) fn new(pattern: &str) -> Result<Glob, &'static str> {
        let mut tokens = Vec::new();
        let mut chars = pattern.chars().peekable();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' => {
                    let slash = chars.next_if_eq(&'*').is_some();
                    while chars.next_if_eq(&'*').is_some() {}
                    Token::Many { slash }
                }
                '?' => Token::One(Matcher::NoSlash),
                '[' => Token::One(set(&mut chars)?),
                '\\' => Token::One(Matcher::Literal(chars.next().ok_or("it ends in a backslash")?)),
                c => Token::One(Matcher::Literal(c)),
            });
        }
        Ok(Glob { tokens })
    }

    /// Whether the pattern matches the whole of `name`. Follows all ways to match at once, so the
    /// time is at most pattern length × name length.
    pub(crate) fn matches(&self, name: &str) -> bool {
        let mut states = vec![false; self.tokens.len() + 1];
        states[0] = true;
        self.skip_empty(&mut states);
        for c in name.chars() {
            let mut next = vec![false; states.len()];
            for (i, token) in self.tokens.iter().enumerate().filter(|(i, _)| states[*i]) {
                match token {
                    Token::One(matcher) => next[i + 1] |= matcher.matches(c),
                    Token::Many { slash } => next[i] |= *slash || c != '/',
                }
            }
            self.skip_empty(&mut next);
            states = next;
        }
        states[self.tokens.len()]
    }

    /// A star may also match nothing.
    fn skip_empty(&self, states: &mut [bool]) {
        for (i, token) in self.tokens.iter().enumerate() {
            if states[i] && matches!(token, Token::Many { .. }) {
                states[i + 1] = true;
            }
        }
    }
}

fn set(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Matcher, &'static str> {
    const OPEN: &str = "a [ has no ] (write \\[ for the character itself)";
    let negated = chars.next_if_eq(&'!').is_some();
    let mut ranges = Vec::new();
    loop {
        let first = match chars.next().ok_or(OPEN)? {
            ']' if !ranges.is_empty() => return Ok(Matcher::Set { negated, ranges }),
            '\\' => chars.next().ok_or(OPEN)?,
            c => c,
        };
        let mut last = first;
        if chars.peek() == Some(&'-') {
            let mut ahead = chars.clone();
            ahead.next();
            if ahead.peek().is_some_and(|&c| c != ']') {
                chars.next();
                last = chars.next().ok_or(OPEN)?;
            }
        }
        if last < first {
            return Err("a range in [ ] runs backwards");
        }
        ranges.push((first, last));
    }
}

impl Matcher {
    fn matches(&self, c: char) -> bool {
        match self {
            Matcher::Literal(literal) => c == *literal,
            Matcher::NoSlash => c != '/',
            Matcher::Set { negated, ranges } => {
                c != '/' && ranges.iter().any(|&(a, b)| (a..=b).contains(&c)) != *negated
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_what_they_say() {
        let cases = [
            ("a.b", "a.b", true),
            ("a.b", "aXb", false),
            ("*", "layers.0.weight", true),
            ("*", "a/b", false),
            ("**", "a/b.c", true),
            ("a/**/d", "a/b/c/d", true),
            ("a**d", "a/b/c/d", true),
            ("*.attn.*", "l.0.attn.q", true),
            ("*.attn.*", "l.0.attn", false),
            ("l.?.w", "l.3.w", true),
            ("l.?.w", "l.13.w", false),
            ("l.[0-2]", "l.1", true),
            ("l.[!0-2]", "l.1", false),
            ("l.[!0-2]", "l.7", true),
            ("[]]", "]", true),
            ("[a-]", "-", true),
            ("[^a]", "^", true),
            ("[^a]", "b", false),
            ("[!a]", "/", false),
            ("?", "/", false),
            ("a.b", "A.b", false),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("{a,b}", "{a,b}", true),
            ("", "", true),
            ("", "a", false),
            ("é*", "éa", true),
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(Glob::new(pattern).unwrap().matches(name), expected, "{pattern} on {name}");
        }
    }

    #[test]
    fn broken_patterns_are_refused() {
        for pattern in ["[a", "[", "a\\", "[z-a]", "[!"] {
            assert!(Glob::new(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn no_pattern_is_slow() {
        let glob = Glob::new(&"a*".repeat(200)).unwrap();
        assert!(!glob.matches(&("a".repeat(5000) + "b/")));
    }
}
